"""The pages of docs/howto run as written.

A python block is a file: named by its first line (`# shop.py`), or equal to one of sdk/examples; so is one of yaml, and
one of sh or js, which is then equal to the file of that name in examples/executors. A console block holds commands and
what they print; `...` stands for anything, a command that ends in `&` stays until the page's end, and one over several
lines ends each but the last in a backslash.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path

import pytest
from _pytest.mark.structures import ParameterSet

from taskflow_server.cluster.ports import free_ports
from tests.support import forkserver
from tests.support.cluster import SPINE, Program, ServiceCluster
from tests.support.docs import EXAMPLES, ROOT, blocks

PAGES = sorted((ROOT / "docs" / "howto").glob("*.md"))
VARIABLE = re.compile(r"[A-Z_]+=")
PROGRAMS = {
    "python": [sys.executable],
    "taskflow": [sys.executable, "-m", "taskflow._cli"],
    "taskflow-server": [sys.executable, "-m", "taskflow_server.cli"],
}
NOT_OURS = ("sh", "curl", "node", "ray")  # a page that needs one that is not here is skipped, and says so
NAMED = re.compile(r"(?:#!/bin/sh\n)?(?:#|//) (\w+\.(?:py|sh|mjs|yaml))\b")
EXECUTORS = ROOT / "examples" / "executors"
FEATURES = {  # what a page proves by being run
    "from-app-tasks": "S4.6", "from-the-go-taskflow": "S3.1",
    "new-destination": "S1.8", "push-to-kubernetes": "S1.8", "push-to-mesos": "S1.8",
}  # fmt: skip
GATEWAY = "http://localhost:8080"


@pytest.fixture
def cluster(page: Path, make_cluster: Callable[..., ServiceCluster]) -> Iterator[ServiceCluster]:
    """A cluster of the page's own: it shows what there is, and no more."""
    make_cluster()  # the module's database is left to pages that start a cluster themselves
    running = make_cluster(services=(*SPINE, "gateway") if GATEWAY in page.read_text() else SPINE)
    running.start_all()
    yield running
    running.close()


@pytest.fixture
def started() -> Iterator[list[Program]]:
    """Programs of the page that stay."""
    programs: list[Program] = []
    yield programs
    for program in programs:
        program.stop(grace=10)
        print(f"--- {program.log.name}\n{program.output[-2000:]}")  # pytest shows it where a test is red


def write_files(page: Path, folder: Path) -> None:
    known = {path.read_text().strip(): path.name for path in EXAMPLES.glob("*.py")}
    for language in ("python", "sh", "js", "yaml"):
        for text in blocks(page, language):
            named = NAMED.match(text)
            name = named[1] if named else known[text.strip()]
            (folder / name).write_text(text)
            if language in ("sh", "js"):
                assert text == (EXECUTORS / name).read_text()


def needed(program: str) -> list[str]:
    if program in NOT_OURS:
        found = shutil.which(program)
        if found is None:
            pytest.skip(f"{program} is not on this machine")
        return [found]
    return PROGRAMS[program]


def commands(page: Path) -> list[tuple[str, str]]:
    """Each command of the page's console blocks with the output that the page shows."""
    found = []
    for text in blocks(page, "console"):
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, output = part.replace("\\\n", "").partition("\n")
            found.append((command, output))
    return found


def param(page: Path) -> ParameterSet:
    names = [FEATURES[page.stem]] if page.stem in FEATURES else []
    return pytest.param(page, id=page.stem, marks=[pytest.mark.feature(name) for name in names])


def looks_like(shown: str, printed: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in shown.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), flags=re.DOTALL) is not None


@pytest.mark.parametrize("page", [param(page) for page in PAGES])
def test_a_page_runs_as_written(
    page: Path, cluster: ServiceCluster, started: list[Program], tmp_path: Path, database: str
) -> None:
    write_files(page, tmp_path)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    everywhere = {**kept, "TASKFLOW_ADDRESS": cluster.scheduler_address, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    # Stand-ins of a page are in the clone. Pages start a service as on a machine of its own; here it needs a port.
    # TASKFLOW_ADDRESS tells it the scheduler.
    service = {"TASKFLOW_METRICS_PORT": "0"}
    # A cluster that the page starts itself has a database of its own: two on one take each other's shards in turn.
    service["TASKFLOW_DATABASE_URL"] = database if "local_cluster" in page.read_text() else cluster.dsn
    service["NO_PROXY"] = service["no_proxy"] = "127.0.0.1,localhost"
    gateway = f"http://{cluster.address('gateway')}" if GATEWAY in page.read_text() else ""
    everywhere |= {**service, "TASKFLOW_PORT": str(free_ports(1)[0]), "RPC_URL": f"{gateway}/rpc"}

    for command, shown in commands(page):
        words = [word.replace(GATEWAY, gateway) for word in shlex.split(command.removesuffix("&"))]
        given = dict(word.split("=", 1) for word in takewhile(VARIABLE.match, words))
        program, *words = words[len(given) :]
        env = {**everywhere, **given}
        if command.endswith("&"):
            log = tmp_path / f"{len(started)}.log"
            started.append(Program([*needed(program), *words], log, env, cwd=tmp_path))
            continue
        ended = [each.output for each in started if not each.alive and each.wait() != 0]
        assert not ended, f"a program that should stay has ended, before $ {command}\n{ended}"
        done = forkserver.run([*needed(program), *words], cwd=tmp_path, env=env, timeout=90)
        assert looks_like(shown, done.stdout), f"$ {command}\n{done.stdout}{done.stderr}"


def test_there_are_pages_and_each_runs_something() -> None:
    assert PAGES
    assert [page.name for page in PAGES if not commands(page)] == []
