"""Jobs through real processes: everything that goes in comes out, once, whatever is restarted or killed."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from taskflow import TaskFlow
from tests.support.cluster import Program, ServiceCluster
from tests.support.recorder import Record
from tests.support.waiting import eventually

_numbers = itertools.count(1)


@pytest.fixture
def worker(cluster: ServiceCluster, tmp_path: Path) -> Callable[..., Program]:
    """Starts recording workers; their record files are `tmp_path/*.record`."""

    def start(queue: str, concurrency: int = 20) -> Program:
        name = f"worker-{next(_numbers)}"
        return cluster.run(
            name,
            "-m", "tests.support.recorder", str(tmp_path / f"{name}.record"), queue, str(concurrency),
            env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
        )  # fmt: skip

    return start


@pytest.fixture
def tf(cluster: ServiceCluster) -> TaskFlow:
    return TaskFlow(cluster.scheduler_address)


def finished(dsn: str, queue: str) -> dict[str, int]:
    """Final attempts of the queue's jobs, by outcome."""
    with psycopg.connect(dsn) as conn:
        rows = conn.execute(
            "select outcome, count(*) from taskflow.attempt_history where final and queue = %s group by 1", (queue,)
        ).fetchall()
    return dict(rows)


def all_succeeded(dsn: str, queue: str, count: int) -> Callable[[], bool]:
    return lambda: finished(dsn, queue) == {"succeeded": count}


def record(tmp_path: Path) -> Record:
    return Record.read(*tmp_path.glob("*.record"))


@pytest.mark.feature("S1.7", "S3.1", "S3.2", "S3.3", "R2", "X.4")
def test_ten_thousand_jobs_run_once_each_through_two_workers(
    tf: TaskFlow, worker: Callable[..., Program], database: str, tmp_path: Path
) -> None:
    workers = [worker("many", 100), worker("many", 100)]

    handles = list(tf.new_jobs([{"queue": "many", "payload": {"n": n}} for n in range(10_000)]))

    eventually(all_succeeded(database, "many", 10_000), 60)
    for program in workers:
        assert program.stop() == 0
    seen = record(tmp_path)
    assert len(seen.starts) == 10_000 and set(seen.starts.values()) == {1}
    assert {h.id for h in handles} == set(seen.starts)
    shares = [len(Record.read(path).starts) for path in tmp_path.glob("*.record")]
    assert min(shares) > 1000, "both workers had their share"


@pytest.mark.feature("M.4", "A5", "A8", "B13")
@pytest.mark.parametrize("service", ["coordinator", "queue", "scheduler"])
@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_a_service_that_goes_under_load_loses_and_doubles_nothing(
    cluster: ServiceCluster,
    tf: TaskFlow,
    worker: Callable[..., Program],
    database: str,
    tmp_path: Path,
    service: str,
    how: str,
) -> None:
    queue = f"{service}-{how}"
    programs = [worker(queue), worker(queue)]
    tf.new_jobs([{"queue": queue, "payload": {"sleep": 0.02}, "retries": 3} for _ in range(1500)])
    eventually(lambda: len(record(tmp_path).ends) > 200)

    if how == "killed":
        cluster.kill(service)
        cluster.start(service)
        cluster.wait_healthy(service)
    else:
        cluster.restart(service)
    tf.new_jobs([{"queue": queue, "payload": {"sleep": 0.02}, "retries": 3} for _ in range(500)])

    eventually(all_succeeded(database, queue, 2000), 60)
    seen = record(tmp_path)
    assert len(seen.ends) == 2000
    assert [job for job, times in seen.starts.items() if times != 1] == []
    for program in programs:
        assert program.stop() == 0


@pytest.mark.feature("M.4", "R3", "R4")
def test_jobs_of_a_killed_worker_run_again_within_their_tries(
    tf: TaskFlow, worker: Callable[..., Program], database: str, tmp_path: Path
) -> None:
    doomed = worker("orphans", 20)
    tf.new_jobs([{"queue": "orphans", "payload": {"sleep": 30}, "retries": 0 if n < 5 else 1} for n in range(10)])
    eventually(lambda: len(record(tmp_path).starts) == 10)

    doomed.signal(signal.SIGKILL)

    eventually(lambda: finished(database, "orphans") == {"lost": 5}, 6)
    with psycopg.connect(database) as conn:
        again = conn.execute(
            "select count(*) from taskflow.deferred where queue = 'orphans' and attempt = 2"
        ).fetchone()
    assert again == (5,), "those with a try left are queued again"
