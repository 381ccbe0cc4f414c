"""Processes of handlers that cannot be started: `run` never waits for ever, and no slot and no job is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow import JobFailed, JobHandle, TaskFlow
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually

APP = "tests.support.spawning_app"


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as made:
        yield made


@pytest.fixture
def start(cluster: ServiceCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Program]]:
    """Starts the app, with `tf.run`'s keywords, in a directory, and with variables of its environment."""
    started: list[Program] = []

    def begin(*keywords: str, directory: Path = tmp_path, env: dict[str, str] | None = None) -> Program:
        name = f"{request.node.name[:40].replace('/', '_')}-{len(started)}"
        started.append(cluster.run(name, "-m", APP, str(directory), *keywords, env=env))
        return started[-1]

    yield begin
    for program in started:
        program.stop(grace=5.0)


def new(tf: TaskFlow, payload: Any = None, **options: Any) -> JobHandle:
    return tf.new_job("spawning", payload, task="work", **options)


def test_a_run_whose_processes_the_system_refuses_ends_and_says_why(start: Callable[..., Program]) -> None:
    program = start(env={"PYTHON_OF_CHILDREN": "/no/such/python"})

    assert program.wait(20) == 1

    assert "handler work cannot be started in a process of its own" in program.output
    assert "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/python'" in program.output


def test_a_run_whose_handler_is_imported_for_too_long_ends_and_says_why(
    start: Callable[..., Program], tmp_path: Path
) -> None:
    (tmp_path / "endless").touch()
    program = start("start_timeout=1")

    assert program.wait(20) == 1

    assert "handler work cannot be imported in a process of its own" in program.output
    assert "it was not ready within 1 s (start_timeout)" in program.output


def test_a_run_is_stopped_while_a_handler_is_imported(start: Callable[..., Program], tmp_path: Path) -> None:
    (tmp_path / "endless").touch()
    program = start()
    eventually(lambda: " runs task work" in program.output)

    program.signal(signal.SIGTERM)

    assert program.wait(10) == 0


def test_a_process_that_cannot_be_started_again_keeps_no_job_and_comes_back(
    tf: TaskFlow, start: Callable[..., Program], tmp_path: Path
) -> None:
    first = start()
    busy = new(tf, "end")  # holds one of its two processes
    eventually(lambda: busy.get().start_time, 20)
    (tmp_path / "unimportable").touch()
    with pytest.raises(JobFailed, match="exit status 9"):
        new(tf, "die").wait(timeout=20)
    eventually(lambda: "cannot be started, again in" in first.output)
    waiting = [new(tf) for _ in range(3)]

    second = start(directory=tmp_path / "of the second")

    assert [job.wait(timeout=20).attempt for job in waiting] == [1, 1, 1], "none waits for the process of the first"
    assert second.stop() == 0
    (tmp_path / "unimportable").unlink()
    assert new(tf).wait(timeout=20).result, "the first has its other process again"
    assert not busy.get().state.final
    (tmp_path / "end").touch()
    busy.wait(timeout=20)


def test_a_worker_whose_processes_the_system_refuses_keeps_no_job(
    tf: TaskFlow, start: Callable[..., Program], tmp_path: Path
) -> None:
    first = start()
    assert new(tf).wait(timeout=20).result
    tf.new_job("spawning", "/no/such/python", task="python").wait(timeout=20)
    for _ in range(2):
        with pytest.raises(JobFailed, match="exit status 9"):
            new(tf, "die").wait(timeout=20)
    eventually(lambda: first.output.count("cannot be started, again in") >= 2)
    waiting = [new(tf) for _ in range(4)]  # some are brought by polls that were under way

    start(directory=tmp_path / "of the second")

    assert [job.wait(timeout=20).attempt for job in waiting] == [1, 1, 1, 1]
    assert first.alive
