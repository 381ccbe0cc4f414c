"""Offers are hints (A3): lost, late, or overtaken by a page, each job runs once all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from taskflow import Job, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.tier import size
from tests.support.waiting import eventually
from tests.support.workers import working

COVERED = """
    select bool_and(m.tx > j.tx) from taskflow.jobs j
    join taskflow.lanes m on (m.queue, m.task, m.priority) = (j.queue, j.task, j.priority)
"""


@pytest.mark.longer
@pytest.mark.feature("A3", "S3.1", "S3.2")
@pytest.mark.parametrize(
    "failpoints",
    [
        {},
        {"scheduler": "scheduler.offer=skip"},
        {"coordinator": "coordinator.offer=delay:1"},
        {"coordinator": "coordinator.after_page=delay:0.3"},
    ],
    ids=["in-time", "lost", "late", "pages-read-before-and-merged-after"],
)
def test_every_job_runs_once_whatever_becomes_of_its_offer(
    make_cluster: Callable[..., ServiceCluster], failpoints: dict[str, str]
) -> None:
    cluster = make_cluster(env={name: {"TASKFLOW_FAILPOINTS": points} for name, points in failpoints.items()})
    cluster.start_all()
    starts: Counter[str] = Counter()
    with TaskFlow(cluster.scheduler_address) as tf:

        @tf.task(queue="whatever")
        async def count(job: Job) -> int:
            starts[job.id] += 1
            return job.attempt

        with working(tf, concurrency=50):
            singles = [count.new_job() for _ in range(3)]
            results = [job.wait(timeout=30).result for job in singles]
            singles += [count.new_job() for _ in range(3)]
            many = [{"queue": "whatever", "task": "count", "priority": n % 2 + 5} for n in range(size(150, 600))]
            made = [*tf.new_jobs(many), *singles]
            results += [job.wait(timeout=30).result for job in made[:-3]]
            eventually(lambda: rows.found(cluster.dsn, COVERED) == [(True,)])  # pages have seen all of them by now
    cluster.close()

    assert results == [1] * (size(150, 600) + 6)
    assert starts == Counter(job.id for job in made)


def test_the_answer_does_not_wait_for_the_offer(make_cluster: Callable[..., ServiceCluster]) -> None:
    held_up = 30.0  # seconds: more than a call may take
    cluster = make_cluster(env={"scheduler": {"TASKFLOW_FAILPOINTS": f"scheduler.offer=delay:{held_up}"}})
    cluster.start_all()

    with TaskFlow(cluster.scheduler_address, timeout=held_up / 2) as tf:
        job = tf.new_job("whatever", {"n": 1})

    assert rows.found(cluster.dsn, "select id::text from taskflow.jobs") == [(job.id,)]
