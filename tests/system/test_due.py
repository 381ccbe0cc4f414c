"""Deferred jobs whose time has come: no lane with more of them than have room stops those of another (A4, B8)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from taskflow import Constant, Job, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

DEPTH = 50  # of due jobs of one lane in memory
MANY = 1_200  # with one due time: more than a lane's depth, and than any page
SOON = timedelta(seconds=3)  # longer than it takes to submit them: what is due at once is not deferred
HELD = "select count(*) from taskflow.deferred where queue = %s and due_at <= taskflow.now()"


@pytest.fixture(scope="module")
def crowded(make_cluster: Callable[..., ServiceCluster]) -> Iterator[ServiceCluster]:
    """Two queues with due jobs that nobody takes: one has no worker, one is paused."""
    cluster = make_cluster(env={"coordinator": {"TASKFLOW_DUE_DEPTH": str(DEPTH), "TASKFLOW_DUE_REREAD": "2"}})
    cluster.start_all()
    with TaskFlow(cluster.scheduler_address) as tf:
        tf.new_job("paused", task="paused_task")
        tf.queues.pause("paused")
        run_at = datetime.now(UTC) + SOON
        tf.new_jobs([{"queue": "unserved", "task": "unserved_task", "run_at": run_at} for _ in range(MANY)])
        tf.new_jobs([{"queue": "paused", "task": "paused_task", "run_at": run_at} for _ in range(MANY)])
        eventually(lambda: rows.found(cluster.dsn, HELD, "unserved") == [(MANY,)])
        eventually(lambda: rows.found(cluster.dsn, HELD, "paused") == [(MANY,)])
    yield cluster


@pytest.mark.feature("A4", "X.1", "X.14", "S3.8", "B8")
def test_due_jobs_that_nobody_takes_hold_up_no_delay_and_no_retry_of_another_queue(crowded: ServiceCluster) -> None:
    with TaskFlow(crowded.scheduler_address) as tf:

        def served(job: Job) -> int:
            if job.attempt < 3 and job.payload == "fails":
                raise ValueError("again")
            return job.attempt

        with working(tf, "served", served, concurrency=20):
            delayed = tf.new_jobs([{"queue": "served", "delay": 0.2} for _ in range(2 * DEPTH)])
            failing = {"queue": "served", "payload": "fails", "retries": 2, "backoff": Constant(0.1)}
            retried = tf.new_jobs([failing for _ in range(2 * DEPTH)])
            assert {job.wait(timeout=20).result for job in delayed} == {1}
            assert {job.wait(timeout=20).result for job in retried} == {3}

    assert rows.found(crowded.dsn, HELD, "unserved") == [(MANY,)], "they waited all the time"


@pytest.mark.feature("A4", "X.1", "B8")
def test_all_due_jobs_of_a_lane_that_was_behind_run_once_when_its_worker_comes(crowded: ServiceCluster) -> None:
    starts: Counter[str] = Counter()
    with TaskFlow(crowded.scheduler_address) as tf:

        @tf.task(queue="unserved")
        async def unserved_task(job: Job) -> None:
            starts[job.id] += 1

        with working(tf, concurrency=50):
            eventually(lambda: rows.found(crowded.dsn, HELD, "unserved") == [(0,)], 30)

    assert len(starts) == MANY
    assert set(starts.values()) == {1}


@pytest.mark.feature("B8")
def test_a_row_that_is_committed_after_its_time_has_passed_is_found(crowded: ServiceCluster) -> None:
    with TaskFlow(crowded.scheduler_address) as tf, working(tf, "committed-late", lambda job: job.payload):
        late = tf.new_job("committed-late", "late", delay=3600)
        with psycopg.connect(crowded.dsn) as conn:
            conn.execute("update taskflow.deferred set due_at = taskflow.now() where job_id = %s", (late.id,))
            # A read of due rows from the last due time on reads one second of them again.
            passed = [tf.new_job("committed-late", n, delay=2.5) for n in range(2)]
            assert [job.wait(timeout=20).result for job in passed] == [0, 1]
            assert late.get().state == "scheduled"
        assert late.wait(timeout=20).result == "late"
