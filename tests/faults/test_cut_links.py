"""The link of a living worker to its coordinator breaks: nobody else starts what it runs (A6, A15, R6)."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from taskflow import JobHandle, TaskFlow
from taskflow.v1 import queue_pb2
from tests.support import rows
from tests.support.api import Api
from tests.support.cluster import Program, ServiceCluster
from tests.support.link import Link
from tests.support.rawworker import RawWorker
from tests.support.recorder import Record
from tests.support.waiting import eventually

LEASE = 6.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def links() -> Iterator[tuple[Link, Link]]:
    """Two ways to the coordinator: an SDK worker takes the first that answers, a RawWorker the last."""
    with Link() as first, Link() as second:
        yield first, second


@pytest.fixture(scope="module")
def cluster(links: tuple[Link, Link], make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    settings = {
        "TASKFLOW_LEASE": f"{LEASE}", "TASKFLOW_HEARTBEAT_INTERVAL": "0.4", "TASKFLOW_LEASE_ROW_AFTER": "0.5",
        "TASKFLOW_ADVERTISE": ",".join(link.address for link in links),
    }  # fmt: skip
    running = make_cluster(env={"coordinator": settings})
    for link in links:
        link.target = running.address("coordinator")
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as client:
        yield client


@pytest.fixture
def api(cluster: ServiceCluster) -> Iterator[Api]:
    with Api(cluster.scheduler_address) as stubs:
        yield stubs


@pytest.fixture
def queue() -> str:
    return f"cut-{next(_numbers)}"


@pytest.fixture
def worker(cluster: ServiceCluster, tmp_path: Path, queue: str) -> Iterator[Callable[[], Program]]:
    """Starts recording workers."""
    made: list[Program] = []

    def start() -> Program:
        name = f"{queue}-{len(made)}"
        made.append(
            cluster.run(
                name, "-m", "tests.support.recorder", str(tmp_path / f"{name}.record"), queue, "5",
                env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
            )
        )  # fmt: skip
        return made[-1]

    yield start
    for program in made:
        program.signal(signal.SIGCONT)
        program.kill()


def record(folder: Path) -> Record:
    return Record.read(*folder.glob("*.record"))


def outcomes(tf: TaskFlow, job: JobHandle) -> list[str]:
    return [str(attempt.outcome) for attempt in tf.jobs.attempts(job.id)]


@pytest.mark.feature("A6", "A15", "R6", "M.4")
def test_a_link_cut_for_less_than_two_thirds_of_the_lease_costs_no_attempt(
    api: Api, tf: TaskFlow, links: tuple[Link, Link], worker: Callable[[], Program], queue: str, tmp_path: Path
) -> None:
    with RawWorker(api, queues=[queue]) as other:
        worker()
        job = tf.new_job(queue, {"sleep": 3.0}, retries=1)
        eventually(lambda: record(tmp_path).starts, 20)

        # The worker's last heartbeat may have been sent 0.4 s before the cut, and it may need 1 s to be back: 0.5 s
        # between two tries, and as long between two connections. With the cut that is 3.2 s of 4 s.
        links[0].cut()
        assert other.poll(seconds=LEASE * 0.3) == []
        links[0].mend()

        job.wait(timeout=20)
    assert outcomes(tf, job) == ["succeeded"]
    assert record(tmp_path).starts[job.id] == 1


@pytest.mark.feature("A6", "A15", "R6", "M.4")
def test_a_worker_cut_off_for_good_has_stopped_its_handlers_when_another_is_given_its_jobs(
    api: Api, tf: TaskFlow, links: tuple[Link, Link], worker: Callable[[], Program], queue: str, tmp_path: Path
) -> None:
    with RawWorker(api, queues=[queue]) as other:
        worker()
        jobs = [tf.new_job(queue, {"sleep": 30}, retries=1) for _ in range(4)]
        eventually(lambda: len(record(tmp_path).starts) == 4, 20)

        links[0].cut()
        handed = other.poll(most=4, seconds=3 * LEASE)

        text = next(tmp_path.glob("*.record")).read_text()
        assert handed and text.count(" stop ") == 4, "before anything was handed out again"
        links[0].mend()
        for job in jobs:
            job.cancel()


@pytest.mark.feature("A6", "M.4")
def test_the_poll_of_a_worker_whose_session_broke_draws_no_job(
    api: Api, tf: TaskFlow, links: tuple[Link, Link], worker: Callable[[], Program], queue: str, tmp_path: Path
) -> None:
    """It has no coordinator to start it under; another worker gets the job at once. It says when it is back."""
    with RawWorker(api, queues=[queue]) as other:

        def polls() -> int:
            stats = other.queue_service.Stats(queue_pb2.StatsRequest(), timeout=5)
            return int(stats.waiting_polls)

        cut_off = worker()
        eventually(lambda: polls() == 1, 20)

        links[0].cut()
        eventually(lambda: polls() == 0, 5)
        job = tf.new_job(queue, {"sleep": 0})
        (handed,) = other.poll(seconds=5)
        other.start(handed)
        other.report(handed.outcome())
        assert job.wait(timeout=20).attempt == 1

        links[0].mend()
        eventually(lambda: polls() == 1, 20)
        assert "no session with coordinator" in cut_off.output
        eventually(lambda: "a session with coordinator coordinator-1 again" in cut_off.output)


@pytest.mark.feature("A8", "M.4")
@pytest.mark.parametrize("fail", [Link.stall, Link.cut])
def test_what_a_worker_finished_behind_a_link_that_failed_counts_when_the_link_is_back(
    cluster: ServiceCluster, tf: TaskFlow, links: tuple[Link, Link], worker: Callable[[], Program], queue: str,
    tmp_path: Path, fail: Callable[[Link], None],
) -> None:  # fmt: skip
    worker()
    jobs = [tf.new_job(queue, {"sleep": 0.8}, retries=1) for _ in range(5)]
    eventually(lambda: len(record(tmp_path).starts) == 5, 20)

    fail(links[0])
    lost = "select count(*) from taskflow.attempt_history where queue = %s and outcome = 'lost'"
    eventually(lambda: rows.found(cluster.dsn, lost, queue) == [(5,)], 20)  # the API would ask by the same link
    links[0].mend()

    assert [job.wait(timeout=20).attempt for job in jobs] == [2] * 5
    assert [outcomes(tf, job) for job in jobs] == [["lost", "succeeded"]] * 5
    assert sorted(record(tmp_path).starts.values()) == [1] * 5, "none ran again"
    assert tf.new_job(queue).wait(timeout=20).attempt == 1


@pytest.mark.feature("A6")
def test_a_handler_whose_attempt_was_declared_lost_is_stopped_as_soon_as_its_worker_is_heard(
    cluster: ServiceCluster, api: Api, tf: TaskFlow, worker: Callable[[], Program], queue: str, tmp_path: Path
) -> None:
    """Somebody else says goodbye under the worker's id: to the coordinator it has left, with an attempt that runs."""
    program = worker()
    job = tf.new_job(queue, {"sleep": 60})
    eventually(lambda: record(tmp_path).starts, 20)
    eventually(lambda: job.get().state == "running", 20)
    with psycopg.connect(cluster.dsn) as conn:
        [(worker_id,)] = conn.execute("select worker_id from taskflow.workers where queues = %s", [[queue]]).fetchall()

    with RawWorker(api, queues=[queue], worker_id=worker_id.bytes):
        pass

    eventually(lambda: "revoked; its handler is stopped" in program.output, 20)
    eventually(lambda: " stop " in next(tmp_path.glob("*.record")).read_text(), 20)
    assert outcomes(tf, job) == ["lost"]
