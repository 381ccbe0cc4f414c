"""`taskflow verify` beside a cluster that works: what is on its way is no finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from taskflow import Constant, NewJob, TaskFlow
from tests.support import history
from tests.support.cluster import ServiceCluster
from tests.support.tier import size
from tests.support.verifying import contradictions, results

LOOKS = 6


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    quick = {"TASKFLOW_LEASE_ROW_AFTER": "0.1", "TASKFLOW_OWNER_TIMEOUT": "2", "TASKFLOW_BEAT_INTERVAL": "0.5"}
    running = make_cluster(env={"coordinator": quick})
    running.start_all()
    return running


@pytest.fixture(scope="module")
def busy(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    """The app of a cluster that has a stream of jobs, schedules and runs to do."""
    cluster.run("worker", "-m", "tests.support.history", cluster.scheduler_address)
    with TaskFlow(cluster.scheduler_address) as tf:
        tf.tasks.create("limited", queue="work", target="one_by_one", concurrency=2)
        history.schedule(tf)
        yield tf


def submit(tf: TaskFlow) -> None:
    for task in ("echo", "flaky", "snooze", "refuse"):
        tf.new_jobs(NewJob("work", task=task, retries=3, backoff=Constant(0.05)) for _ in range(50))
    for _ in range(10):
        tf.tasks.run("limited")
        tf.workflows.start("release")
    for job in tf.new_jobs(NewJob("work", task="forever") for _ in range(3)):
        job.cancel()


@pytest.mark.feature("M.14")
def test_no_check_finds_anything_while_jobs_run_and_a_coordinator_is_killed(
    cluster: ServiceCluster, busy: TaskFlow
) -> None:
    for look in range(size(LOOKS, 60)):
        submit(busy)
        if look == LOOKS // 2:
            cluster.kill("coordinator")
            assert contradictions(results(cluster.dsn)) == {}
            cluster.start("coordinator")
        assert contradictions(results(cluster.dsn, page=100)) == {}
