"""The concurrency of a named task while workers and coordinators are killed (B4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from taskflow import TaskFlow
from tests.support import rows
from tests.support.api import Api
from tests.support.cluster import Program, ServiceCluster
from tests.support.limited_app import most_at_once
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually

LIMIT = 3
JOBS = 150
ALL = JOBS + LIMIT + 10


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"coordinator": {"TASKFLOW_BLOCKED_DEPTH": "20"}})
    running.start_all()
    return running


def run(cluster: ServiceCluster, record: Path, seconds: float) -> Program:
    """A worker whose handlers take so long."""
    return cluster.run(
        f"worker-{record.stem}", "-m", "tests.support.limited_app", str(record), str(seconds),
        env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip


@pytest.mark.feature("S1.1", "R17", "R18", "B4")
def test_the_concurrency_of_a_task_holds_while_workers_and_coordinators_are_killed(
    cluster: ServiceCluster, tmp_path: Path
) -> None:
    records: list[Path] = []
    killed: dict[Path, float] = {}

    def worker() -> Program:
        records.append(tmp_path / f"{len(records)}.record")
        return run(cluster, records[-1], 0.15)

    def ended(task: str) -> int:
        query = "select count(*) from taskflow.attempt_history where task = %s and outcome = 'succeeded'"
        return conn.execute(query, (task,)).fetchall()[0][0]

    with psycopg.connect(cluster.dsn, autocommit=True) as conn, TaskFlow(cluster.scheduler_address) as tf:
        tf.tasks.create("narrow", queue="q", concurrency=LIMIT, retries=20)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: tf.tasks.run("narrow"), range(JOBS)))
        first, _ = worker(), worker()
        eventually(lambda: ended("narrow") >= 20, 60)
        long = [tf.tasks.run("narrow", 8, priority=9).id for _ in range(LIMIT)]
        eventually(lambda: all(any(job in r.read_text() for r in records) for job in long), 60)
        cluster.kill("coordinator")
        cluster.start("coordinator")
        cluster.wait_healthy("coordinator")
        for _ in range(10):  # not in doubt, and in a lane of their own: only the limit holds them back
            tf.tasks.run("narrow", priority=8)
        wide = tf.new_jobs([{"queue": "q", "task": "wide"} for _ in range(100)])
        eventually(lambda: ended("wide") == len(wide), 60)
        eventually(lambda: ended("narrow") >= 60, 60)
        assert ended("narrow") < JOBS, "others of the queue were held up"
        first.kill()
        killed[records[0]] = time.monotonic()
        worker()
        eventually(lambda: ended("narrow") >= 110, 90)
        cluster.kill("queue")
        cluster.start("queue")
        eventually(lambda: ended("narrow") == ALL, 120)
    most, ends = most_at_once("narrow", killed, *records)
    assert most == LIMIT
    assert len(ends) == ALL
    assert sum(ends.values()) - ALL <= LIMIT  # at least once: what the killed worker had ended and not reported
    assert most_at_once("wide", killed, *records)[0] > LIMIT


@pytest.mark.feature("A12", "B4")
def test_after_a_crash_a_blocked_job_leaves_its_trace_when_it_gets_a_permit_and_not_before(
    cluster: ServiceCluster, database: str, tmp_path: Path
) -> None:
    leases = "select job_id::text, handouts from taskflow.leases where task = 'careful'"
    with TaskFlow(cluster.scheduler_address) as tf, Api(cluster.scheduler_address) as api:
        tf.tasks.create("careful", queue="careful", concurrency=1)
        jobs = [tf.tasks.run("careful") for _ in range(3)]
        eventually(lambda: tf.jobs.get(jobs[2].id).warnings)
        other = run(cluster, tmp_path / "other.record", 1)
        eventually(lambda: rows.found(database, "select from taskflow.workers"), 20)
        cluster.kill("coordinator")
        other.kill()  # with its machine, as it were: what was handed out is in doubt
        cluster.start("coordinator")
        cluster.wait_healthy("coordinator")
        eventually(lambda: api.topology().coordinators)
        for job in jobs:
            with RawWorker(api, tasks=["careful"]) as worker:
                handed = worker.take()
                assert rows.shown(handed.task.job_id) == job.id
                assert rows.found(database, leases) == [(job.id, 0)]
                assert worker.report(handed.outcome()) == {}
