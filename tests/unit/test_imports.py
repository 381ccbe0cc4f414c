"""Who may import whom. Every import counts, also those inside functions and for type checkers only."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GRPC = {"grpc", "google", "grpc_health", "grpc_reflection", "grpc_status"}
SETTINGS = {"pydantic"}  # a service's settings.py declares fields
POLICY = "taskflow._policy"  # pure, and shared by all
SERVICE = {"services.core", "services.rpc", "services.runtime", POLICY, "taskflow.v1", *GRPC, *SETTINGS}
ANY = {""}

# Package -> what it may import besides itself and the standard library. The longest name that fits a module holds.
MAY_IMPORT = {
    "taskflow": {"grpc", "google", "grpc_health", "grpc_status"},
    "taskflow._io": {"taskflow", "grpc", "uvloop"},  # where it is installed
    "taskflow._binding": {"taskflow", "pydantic"},  # where it is installed
    "taskflow._cli": {"taskflow", "typer", "rich", "grpc"},
    "taskflow._policy": set[str](),
    "services.core": {POLICY},
    "services.core.workflow": {POLICY, "services.core", "jmespath", *SETTINGS, "pydantic_core"},  # ADR 0011
    "services.core.cron": {POLICY, "services.core", "croniter"},
    "services.store": {"services.core", "services.runtime.failpoints", POLICY, "psycopg", "psycopg_pool"},
    "services.rpc": {"services.core", "services.runtime", POLICY, "taskflow.v1", "orjson", *GRPC},
    "services.runtime": {
        "services.core",
        "prometheus_client",
        "opentelemetry",
        "structlog",
        "pydantic_settings",
        "uvloop",
        *SETTINGS,
    },
    "services.scheduler": {*SERVICE, "services.store"},
    "services.coordinator": {*SERVICE, "services.store"},
    "services.gateway": {*SERVICE, "starlette", "uvicorn"},
    "services.gateway.console": {*SERVICE, "services.gateway", "starlette", "jinja2", "markupsafe"},
    "services.gateway.rpc": {*SERVICE, "services.gateway", "starlette", "yaml"},
    "services.queue": SERVICE,
    "services.worker": {"taskflow", "services.runtime", "services.rpc", "aiohttp", *GRPC, *SETTINGS},
    "services.worker.push": {"taskflow", "services.runtime", "services.rpc", "services.worker", *GRPC, *SETTINGS},
    "services.worker.push.aws_batch": {"services.worker.push", *SETTINGS, "boto3", "botocore"},
    "services.cluster": ANY,
    "services.cli": ANY,
}
NOBODY_IMPORTS = ("services.cluster", "services.cli")


def modules() -> Iterator[tuple[str, Path]]:
    for base in (ROOT, ROOT / "sdk"):
        for top in ("services", "taskflow"):
            for path in sorted((base / top).rglob("*.py")):
                name = ".".join(path.relative_to(base).with_suffix("").parts).removesuffix(".__init__")
                if not name.startswith("taskflow.v1"):
                    yield name, path


def imported(path: Path) -> Iterator[str]:
    """Full names, `services.core.states` for `from services.core import states` too."""
    for node in ast.walk(ast.parse(path.read_text(), path.name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inside(name: str, package: str) -> bool:
    return not package or name == package or name.startswith(package + ".")


def home_of(module: str) -> str:
    return max((package for package in MAY_IMPORT if inside(module, package)), key=len, default="")


@pytest.mark.parametrize(("module", "path"), [pytest.param(*pair, id=pair[0]) for pair in modules()])
def test_a_module_imports_only_what_its_package_may(module: str, path: Path) -> None:
    home = home_of(module)
    if not home:
        assert module == "services", f"{module} belongs to no package of the table"
    allowed = MAY_IMPORT.get(home, set()) | {home}

    wrong = [
        name
        for name in imported(path)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not any(inside(name, package) for package in allowed)
    ]

    assert wrong == []


def test_nobody_imports_the_cluster_or_the_command_line() -> None:
    for module, path in modules():
        if not any(inside(module, package) for package in NOBODY_IMPORTS):
            assert not [name for name in imported(path) if any(inside(name, package) for package in NOBODY_IMPORTS)]


def test_the_worker_uses_the_public_sdk_only() -> None:
    for module, path in modules():
        if inside(module, "services.worker"):
            private = [name for name in imported(path) if name.startswith("taskflow._")]
            assert private == [], module


def test_only_the_store_and_the_launcher_speak_to_postgres() -> None:
    for module, path in modules():
        if not any(inside(module, package) for package in ("services.store", *NOBODY_IMPORTS)):
            assert not [name for name in imported(path) if inside(name, "psycopg") or inside(name, "psycopg_pool")]
