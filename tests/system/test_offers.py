"""Offers are hints (A3): with every one of them lost, each job runs once all the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from taskflow import Job, TaskFlow
from tests.support.cluster import ServiceCluster


@pytest.mark.feature("A3", "S3.1", "S3.2")
@pytest.mark.parametrize(
    "failpoints",
    [
        {"scheduler": "scheduler.offer=skip"},
        {"coordinator": "coordinator.offer=delay:1"},
        {"coordinator": "coordinator.after_page=delay:0.3"},
    ],
    ids=["lost", "late", "pages-read-before-and-merged-after"],
)
def test_every_job_runs_once_whatever_becomes_of_its_offer(
    make_cluster: Callable[..., ServiceCluster], failpoints: dict[str, str]
) -> None:
    cluster = make_cluster(env={name: {"TASKFLOW_FAILPOINTS": points} for name, points in failpoints.items()})
    cluster.start_all()
    starts: Counter[str] = Counter()
    with TaskFlow(cluster.scheduler_address) as tf, ThreadPoolExecutor(1) as pool:

        @tf.task(queue="whatever")
        async def count(job: Job) -> int:
            starts[job.id] += 1
            return job.attempt

        running = pool.submit(lambda: tf.run(concurrency=50))
        made = [count.new_job() for _ in range(5)]
        for priority in (2, 9):
            made += tf.new_jobs(
                [{"queue": "whatever", "task": "count", "priority": priority} for _ in range(300)]
            )
        made += [count.new_job() for _ in range(5)]
        results = [job.wait(timeout=30).result for job in made]
        tf.stop()
        running.result(30)
    cluster.close()

    assert results == [1] * 610
    assert starts == Counter(job.id for job in made)
