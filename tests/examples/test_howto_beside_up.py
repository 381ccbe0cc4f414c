"""A page that brings a worker of its own, beside a whole cluster on its default ports: nothing is set to make room."""

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path

import pytest

from taskflow_server.cluster import home
from tests.examples.test_howto import PAGES, VARIABLE, commands, looks_like, needed, write_files
from tests.support.cluster import Program
from tests.support.networks import own_network
from tests.support.waiting import eventually

PAGE = next(page for page in PAGES if page.stem == "http-and-shell")


@pytest.fixture
def network() -> Iterator[Sequence[str]]:
    with own_network() as prefix:
        yield prefix


@pytest.fixture
def stays(network: Sequence[str], tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts a program in the network that runs until the end; the last one ends first."""
    programs: list[Program] = []

    def start(*words: str, **variables: str) -> Program:
        log = tmp_path / f"program-{len(programs)}.log"
        programs.append(Program([*network, *words], log, bare() | variables, tmp_path, forked=False))
        return programs[-1]

    yield start
    for program in reversed(programs):
        program.stop(grace=60)
    home.remove(home.locate(tmp_path / "data"))


def bare() -> dict[str, str]:
    """No variable of ours but those that the page sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    return {**kept, "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost"}


def test_http_and_shell_runs_beside_taskflow_up(
    network: Sequence[str], stays: Callable[..., Program], tmp_path: Path
) -> None:
    """No port collides, no variable says where the scheduler is, and the cluster's worker takes none of the jobs."""
    write_files(PAGE, tmp_path)
    up = stays(*needed("taskflow"), "up", "--data-dir", str(tmp_path / "data"))
    eventually(lambda: "logs" in up.output or not up.alive, timeout=60)
    assert "127.0.0.1:9003" in up.output and "127.0.0.1:9004" in up.output, up.output

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*network, *words], cwd=tmp_path, env=bare() | variables, capture_output=True, text=True, timeout=90
        )

    of_the_page: Program | None = None
    for command, shown in commands(PAGE):
        words = shlex.split(command.removesuffix("&"))
        given = dict(word.split("=", 1) for word in takewhile(VARIABLE.match, words))
        program, *words = words[len(given) :]
        if command.endswith("&"):
            of_the_page = stays(*needed(program), *words, **given)
            continue
        done = run(*needed(program), *words, **given)
        assert looks_like(shown, done.stdout), f"$ {command}\n{done.stdout}{done.stderr}"

    assert of_the_page and "its default port is in use" in of_the_page.output
    workers = [json.loads(line) for line in run(*needed("taskflow"), "workers", "list", "--json").stdout.splitlines()]
    serving = {worker["pid"] for worker in workers if {"http.call", "shell.run"} & set(worker["tasks"])}
    assert serving == {of_the_page.process.pid}, workers
