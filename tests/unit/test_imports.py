"""Who may import whom. Every import counts, also those inside functions and for type checkers only."""

import ast
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GRPC = {"grpc", "google", "grpc_health", "grpc_reflection", "grpc_status"}
SETTINGS = {"pydantic"}  # a service's settings.py declares fields
POLICY = "taskflow._policy"  # pure, and shared by all
TOPOLOGY = "taskflow._transport.topology"  # one client for all that look for coordinators and queue services
SERVICE = {
    "taskflow_server.core",
    "taskflow_server.rpc",
    "taskflow_server.runtime",
    POLICY,
    "taskflow.v1",
    *GRPC,
    *SETTINGS,
}
ANY = {""}

# Package -> what it may import besides itself and the standard library. The longest name that fits a module holds.
MAY_IMPORT = {
    "taskflow": {"grpc", "google", "grpc_health", "grpc_status"},
    "taskflow._transport.io_thread": {"taskflow", "grpc", "uvloop"},  # where it is installed
    "taskflow._handlers.binding": {"taskflow", "pydantic"},  # where it is installed
    "taskflow._cli": {"taskflow", "typer", "rich", "grpc"},
    "taskflow._policy": set[str](),
    "taskflow_server.core": {POLICY},
    "taskflow_server.core.workflow": {
        POLICY,
        "taskflow_server.core",
        "jmespath",
        *SETTINGS,
        "pydantic_core",
    },  # ADR 0011
    "taskflow_server.core.cron": {POLICY, "taskflow_server.core", "croniter"},
    "taskflow_server.store": {
        "taskflow_server.core",
        "taskflow_server.runtime.failpoints",
        "taskflow_server.runtime.metrics",
        POLICY,
        "psycopg",
        "psycopg_pool",
    },
    "taskflow_server.verify": {"taskflow_server.core", "taskflow_server.store"},
    "taskflow_server.rpc": {"taskflow_server.core", "taskflow_server.runtime", POLICY, "taskflow.v1", "orjson", *GRPC},
    "taskflow_server.runtime": {
        "taskflow_server.core",
        POLICY,
        "prometheus_client",
        "opentelemetry",
        "structlog",
        "pydantic_settings",
        "uvloop",
        *SETTINGS,
    },
    "taskflow_server.scheduler": {*SERVICE, "taskflow_server.store"},
    "taskflow_server.coordinator": {*SERVICE, "taskflow_server.store", "taskflow._process.identity"},
    "taskflow_server.gateway": {*SERVICE, TOPOLOGY, "starlette", "uvicorn"},
    "taskflow_server.gateway.console": {*SERVICE, "taskflow_server.gateway", "starlette", "jinja2", "markupsafe"},
    "taskflow_server.gateway.rpc": {*SERVICE, TOPOLOGY, "taskflow_server.gateway", "starlette", "yaml"},
    "taskflow_server.queue": SERVICE,
    "taskflow_server.worker": {
        "taskflow",
        "taskflow_server.runtime",
        "taskflow_server.rpc",
        "aiohttp",
        *GRPC,
        *SETTINGS,
    },
    "taskflow_server.worker.push": {
        "taskflow",
        "taskflow_server.runtime",
        "taskflow_server.rpc",
        "taskflow_server.worker",
        *GRPC,
        *SETTINGS,
    },
    "taskflow_server.worker.push.aws_batch": {"taskflow_server.worker.push", *SETTINGS, "boto3", "botocore"},
    "taskflow_server.worker.push.kubernetes_jobs": {"taskflow_server.worker.push", *SETTINGS, "kubernetes", "urllib3"},
    "taskflow_server.worker.push.http_api": {"taskflow_server.worker.push", *SETTINGS, "urllib3"},
    "taskflow_server.cluster": ANY,
    "taskflow_server.cli": ANY,
}
# The SDK from the bottom: a module imports from its own package and from those before it. The longest name holds.
SDK_LAYERS = (
    "taskflow.v1",
    "taskflow._policy",
    "taskflow._values",
    "taskflow.errors",
    "taskflow._process",
    "taskflow._transport",
    "taskflow._messages",
    "taskflow._jobs",
    "taskflow._handlers",
    "taskflow._resources",
    "taskflow._worker",
    "taskflow._client",
    "taskflow._go_aliases",
    "taskflow.testing",
    "taskflow",
    "taskflow.apps",
    "taskflow._cli",
)
# The same for the coordinator: its duties by folder, the gRPC services on top.
COORDINATOR = "taskflow_server.coordinator"
COORDINATOR_LAYERS = (
    f"{COORDINATOR}.settings",
    f"{COORDINATOR}.shared",
    f"{COORDINATOR}.entries",
    f"{COORDINATOR}.outcomes",
    f"{COORDINATOR}.perform",
    f"{COORDINATOR}.workers",
    f"{COORDINATOR}.lanes",
    f"{COORDINATOR}.ownership",
    f"{COORDINATOR}.runs",
    f"{COORDINATOR}.api",
    f"{COORDINATOR}.service",
    f"{COORDINATOR}.__main__",
    COORDINATOR,
)
NOBODY_IMPORTS = ("taskflow_server.cluster", "taskflow_server.cli")


def modules() -> Iterator[tuple[str, Path]]:
    for folder, package in ((ROOT / "services", "taskflow_server"), (ROOT / "sdk" / "taskflow", "taskflow")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((package, *parts)).removesuffix(".__init__")
            if not name.startswith("taskflow.v1"):
                yield name, path


def imported(path: Path, *, in_functions: bool = True) -> Iterator[str]:
    """Full names, `taskflow_server.core.states` for `from taskflow_server.core import states` too."""
    for node in nodes(ast.parse(path.read_text(), path.name), in_functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def nodes(node: ast.AST, in_functions: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from nodes(child, in_functions)


def inside(name: str, package: str) -> bool:
    return not package or name == package or name.startswith(package + ".")


def home_of(module: str, packages: Iterable[str] = MAY_IMPORT) -> str:
    return max((package for package in packages if inside(module, package)), key=len, default="")


def test_a_module_imports_only_what_its_package_may() -> None:
    wrong = {}
    for module, path in modules():
        home = home_of(module)
        assert home or module == "taskflow_server", f"{module} belongs to no package of the table"
        allowed = MAY_IMPORT.get(home, set()) | {home}
        found = [
            name
            for name in imported(path)
            if name.partition(".")[0] not in sys.stdlib_module_names
            and not any(inside(name, package) for package in allowed)
        ]
        if home and found:
            wrong[module] = found
    assert wrong == {}


@pytest.mark.parametrize(("package", "layers"), [("taskflow", SDK_LAYERS), (COORDINATOR, COORDINATOR_LAYERS)])
def test_a_module_imports_nothing_above_its_layer(package: str, layers: tuple[str, ...]) -> None:
    upward = [
        (module, name)
        for module, path in modules()
        if inside(module, package)
        for name in imported(path)
        if inside(name, package) and layers.index(home_of(name, layers)) > layers.index(home_of(module, layers))
    ]

    assert upward == []


def test_no_modules_import_each_other() -> None:
    """By the imports of whole modules, those for type checkers included; one inside a function loads later."""
    names = {"taskflow.v1", *(module for module, _ in modules())}
    graph = {
        module: {home_of(name, names) for name in imported(path, in_functions=False)} - {module, ""}
        for module, path in modules()
    }

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_nobody_imports_the_cluster_or_the_command_line() -> None:
    for module, path in modules():
        if not any(inside(module, package) for package in NOBODY_IMPORTS):
            assert not [name for name in imported(path) if any(inside(name, package) for package in NOBODY_IMPORTS)]


def test_the_worker_uses_the_public_sdk_only() -> None:
    for module, path in modules():
        if inside(module, "taskflow_server.worker"):
            private = [
                name for name in imported(path) if name.startswith("taskflow._") and not inside(name, TOPOLOGY)
            ]
            assert private == [], module


def test_only_the_store_and_the_launcher_speak_to_postgres() -> None:
    for module, path in modules():
        if not any(inside(module, package) for package in ("taskflow_server.store", *NOBODY_IMPORTS)):
            assert not [name for name in imported(path) if inside(name, "psycopg") or inside(name, "psycopg_pool")]
