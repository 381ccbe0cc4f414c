"""Leaders that are killed between a fact and its message: each failure is in one message, and in one only."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from taskflow import Fail, Job, NewJob, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

WAVE = 3  # failures: a message shows all of them
MESSAGES = "select convert_from(payload, 'UTF8') from taskflow.jobs where queue = 'taskflow-alerts' order by id"


def told(cluster: ServiceCluster) -> list[str]:
    """The failed jobs that messages tell, however often."""
    messages = [json.loads(payload)["message"] for (payload,) in rows.found(cluster.dsn, MESSAGES)]
    assert all(message["count"] == len(message["first"]) for message in messages)
    return [fact["job_id"] for message in messages for fact in message["first"]]


@pytest.mark.feature("S1.10", "M.4")
def test_no_failure_is_missing_or_doubled_when_the_leader_or_the_coordinator_dies(
    make_cluster: Callable[..., ServiceCluster],
) -> None:
    settings = {"scheduler": {"TASKFLOW_ALERT_INTERVAL": "0.1", "TASKFLOW_LEADER_TIMEOUT": "1"}}
    cluster = make_cluster(env=settings)
    cluster.start_all()

    def handle(job: Job) -> None:
        raise Fail("not possible")

    with TaskFlow(cluster.scheduler_address) as tf, working(TaskFlow(cluster.scheduler_address), "q", handler=handle):
        tf.alerts.create("all", events=["job_failed"], window=0, max_messages=100, url="http://127.0.0.1/", secret="s")
        # The coordinator dies after a commit that it has told nobody of, a leader before its commit, the next after.
        cluster.restart("coordinator", {"TASKFLOW_FAILPOINTS": "coordinator.after_commit=kill@1"})
        cluster.restart("scheduler", {"TASKFLOW_FAILPOINTS": "scheduler.before_alerts=kill@1"})
        wanted = {job.id for job in tf.new_jobs([NewJob("q", number) for number in range(WAVE)])}
        cluster.wait_dead("coordinator", 60)
        cluster.start("coordinator")
        cluster.wait_dead("scheduler", 60)
        assert told(cluster) == []
        cluster.start("scheduler", {"TASKFLOW_FAILPOINTS": "scheduler.after_alerts=kill@1"})
        cluster.wait_dead("scheduler", 60)
        cluster.start("scheduler")
        cluster.wait_healthy("scheduler")
        wanted |= {job.id for job in tf.new_jobs([NewJob("q", number) for number in range(WAVE)])}

        eventually(lambda: wanted <= set(told(cluster)), 60)
        assert sorted(told(cluster)) == sorted(wanted)
        assert rows.found(cluster.dsn, "select count(*) from taskflow.alert_facts") == [(0,)]
