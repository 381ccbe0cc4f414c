"""Processes that handlers start: what they inherit, that they cannot answer for a job, and that none is left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow import JobHandle, JobInfo, JobUnsuccessful, TaskFlow
from tests.support.cluster import Program, ServiceCluster
from tests.support.processes import descendants, runs
from tests.support.waiting import eventually

KINDS = ("in_thread", "on_loop", "in_process", "in_process_loop")
PROCESSES = ("in_process", "in_process_loop")


@pytest.fixture(scope="module")
def worker(cluster: ServiceCluster) -> Program:
    return cluster.run("forks", "-m", "tests.support.forking_app")


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster, worker: Program) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as made:
        yield made


def new(tf: TaskFlow, kind: str, do: str, file: Path | None = None, **options: Any) -> JobHandle:
    return tf.new_job("forks", {"do": do, "file": str(file or "")}, task=kind, **options)


def result(tf: TaskFlow, kind: str, do: str, file: Path | None = None) -> Any:
    return new(tf, kind, do, file).wait(timeout=20).result


def error_of(job: JobHandle) -> str:
    with pytest.raises(JobUnsuccessful) as caught:
        job.wait(timeout=20)
    ended: JobInfo = caught.value.job
    return str(ended.error)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("do", "expected"),
    [
        ("pool", [1, 2]),
        ("terminated_fork", -signal.SIGTERM),
        ("terminated_program", -signal.SIGTERM),
        ("interrupted_fork", 7),
        ("raising_fork", 5),
        ("fork_with_notes", ["FORKED"] * 3),
    ],
)
def test_a_fork_or_program_of_a_handler_is_an_ordinary_process(tf: TaskFlow, kind: str, do: str, expected: Any) -> None:
    assert result(tf, kind, do) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_that_returns_late_answers_for_no_job(
    tf: TaskFlow, worker: Program, tmp_path: Path, kind: str
) -> None:
    before = set(descendants(worker.process.pid))
    assert result(tf, kind, "returning_fork", tmp_path / "go") == "of the handler"
    (fork,) = set(descendants(worker.process.pid)) - before
    next_one = new(tf, kind, "returning_fork", tmp_path / "next")

    (tmp_path / "go").touch()

    assert next_one.wait(timeout=20).result == "of the handler"
    eventually(lambda: not runs(fork))
    (tmp_path / "next").touch()
    assert result(tf, kind, "ping") == "pong"


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_that_dies_is_noticed_at_once_although_its_fork_lives(tf: TaskFlow, kind: str) -> None:
    assert "HandlerProcessDied: the handler's process ended with exit status 7" in error_of(new(tf, kind, "crash"))
    assert result(tf, kind, "ping") == "pong"


@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_that_becomes_another_program_says_so(tf: TaskFlow, kind: str) -> None:
    assert "os.exec" in error_of(new(tf, kind, "become"))
    assert result(tf, kind, "ping") == "pong"


@pytest.mark.parametrize("kind", KINDS)
def test_a_daemon_of_a_handler_outlives_its_job_and_holds_up_no_other(
    tf: TaskFlow, worker: Program, kind: str
) -> None:
    daemon = result(tf, kind, "daemonise")

    assert result(tf, kind, "ping") == "pong"
    assert runs(daemon)
    os.kill(daemon, signal.SIGKILL)


@pytest.mark.feature("R5", "S3.2")
@pytest.mark.parametrize("kind", PROCESSES)
def test_a_timeout_ends_the_whole_tree_of_a_process(tf: TaskFlow, tmp_path: Path, kind: str) -> None:
    notes = tmp_path / "notes"
    job = new(tf, kind, "plant", notes, timeout=1)
    pids = eventually(lambda: planted(notes))

    assert "TimedOut" in error_of(job)

    eventually(lambda: not any(map(runs, pids)))
    assert result(tf, kind, "ping") == "pong"


def planted(notes: Path) -> list[int]:
    """The two programs of `plant`, each in a session of its own, once both have said who they are."""
    pids = notes.read_text().split() if notes.exists() else []
    return [int(pid) for pid in pids] if len(pids) == 2 else []


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_job_changes_is_not_seen_by_the_next(tf: TaskFlow, kind: str) -> None:
    before = result(tf, kind, "state")

    result(tf, kind, "change")

    assert [result(tf, kind, "state") for _ in range(4)] == [before] * 4


@pytest.mark.parametrize("how", ["ignore", "wait"])
def test_a_worker_whose_children_are_waited_for_by_others_wedges_no_job(
    cluster: ServiceCluster, tf: TaskFlow, how: str
) -> None:
    tf.new_job("forks", how, task="reap").wait(timeout=20)

    assert "HandlerProcessDied" in error_of(new(tf, "in_process", "crash"))
    assert "TimedOut" in error_of(new(tf, "in_process", "plant", timeout=0.1))

    assert result(tf, "in_process", "ping") == "pong"


def test_processes_of_a_killed_worker_end_with_all_that_they_started_although_a_fork_of_it_lives(
    cluster: ServiceCluster, tf: TaskFlow, worker: Program, tmp_path: Path
) -> None:
    """The last test: it ends the worker of all."""
    daemon = result(tf, "in_thread", "daemonise")
    notes = tmp_path / "notes"
    job = new(tf, "in_process", "plant", notes)
    pids = [*eventually(lambda: planted(notes)), *descendants(worker.process.pid)]

    worker.kill()

    eventually(lambda: not any(map(runs, set(pids) - {daemon})))
    os.kill(daemon, signal.SIGKILL)
    job.cancel()
