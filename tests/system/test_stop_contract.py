"""The stop contract (M.12): a cancel ends every kind of handler with all that it started, in every state of its worker.

Four kinds (a coroutine, a loop in a thread, one call into C, a tree of programs in sessions of their own that ignore
SIGTERM), each while its worker runs, drains, and is cut off.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from taskflow import JobCancelled, JobHandle, TaskFlow
from tests.support.cluster import Program, ServiceCluster
from tests.support.link import Link
from tests.support.processes import runs
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("M.12", "R7")

KINDS = ("coroutine", "loop", "blocking", "tree")
NOTES = 1 + 1 + 1 + 4  # lines of handlers that have begun
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def link() -> Iterator[Link]:
    """The workers' way to the coordinator."""
    with Link() as made:
        yield made


@pytest.fixture(scope="module")
def cluster(link: Link, make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    settings = {
        "TASKFLOW_LEASE": "3", "TASKFLOW_HEARTBEAT_INTERVAL": "0.3", "TASKFLOW_CANCEL_GRACE": "0.5",
        "TASKFLOW_ADVERTISE": link.address,
    }  # fmt: skip
    running = make_cluster(env={"coordinator": settings})
    link.target = running.address("coordinator")
    running.start_all()
    return running


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as made:
        yield made


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.touch()
    return path


@pytest.fixture
def worker(cluster: ServiceCluster, notes: Path) -> Iterator[Program]:
    program = cluster.run(f"stopping-{next(_numbers)}", "-m", "tests.support.stopping_app", str(notes))
    yield program
    program.kill()


def started(tf: TaskFlow, notes: Path, payload: str = "") -> dict[str, JobHandle]:
    """A job of each kind, once all of them are at work."""
    jobs = {kind: tf.new_job("stopping", payload, task=kind, retries=3) for kind in KINDS}
    eventually(lambda: len(notes.read_text().splitlines()) == NOTES, 30)
    return jobs


def are_cancelled(tf: TaskFlow, jobs: dict[str, JobHandle], outcomes: Sequence[list[str]] = (["cancelled"],)) -> None:
    """Each for good: no try runs afterwards, and nothing replaces it."""
    for kind, job in jobs.items():
        with pytest.raises(JobCancelled):
            job.wait(timeout=20)
        found = [str(each.outcome) for each in tf.jobs.attempts(job.id)]
        assert found in outcomes, kind


def have_ended(notes: Path) -> None:
    """Handlers that can say so have ended, and no process of the others is left."""
    eventually(lambda: {"coroutine ended", "loop ended"} <= set(notes.read_text().splitlines()))
    pids = [int(word) for word in notes.read_text().split() if word.isdecimal()]
    assert len(pids) == 5
    eventually(lambda: not any(map(runs, pids)))


def test_a_cancel_ends_every_kind_of_handler_of_a_worker_that_runs(
    tf: TaskFlow, worker: Program, notes: Path
) -> None:
    jobs = started(tf, notes)

    for job in jobs.values():
        job.cancel()

    are_cancelled(tf, jobs)
    have_ended(notes)
    again = started_again(tf, notes)
    for job in again.values():
        job.cancel()
    are_cancelled(tf, again)


def started_again(tf: TaskFlow, notes: Path) -> dict[str, JobHandle]:
    notes.write_text("")
    return started(tf, notes)


def test_a_cancel_ends_every_kind_of_handler_of_a_worker_that_drains(
    tf: TaskFlow, worker: Program, notes: Path
) -> None:
    jobs = started(tf, notes)
    worker.signal(signal.SIGTERM)
    eventually(lambda: "draining" in worker.output)

    for job in jobs.values():
        job.cancel()

    are_cancelled(tf, jobs)
    have_ended(notes)
    assert worker.wait(20) == 0


def test_a_cancel_ends_every_kind_of_handler_of_a_worker_that_is_cut_off(
    tf: TaskFlow, worker: Program, notes: Path, link: Link
) -> None:
    """The handlers stop with the lease, and what they return is refused. The scheduler is cut off, too: the coordinator
    may hear of the cancel before or after it counts the attempt as lost; no other attempt begins in any case."""
    either = (["cancelled"], ["lost", "cancelled"])
    jobs = started(tf, notes, "late")
    link.cut()

    for job in jobs.values():
        job.cancel()

    are_cancelled(tf, jobs, either)
    have_ended(notes)
    link.mend()
    assert tf.new_job("stopping", task="ping").wait(timeout=30).result == "pong"
    are_cancelled(tf, jobs, either)
    assert len(notes.read_text().splitlines()) == NOTES + 2
