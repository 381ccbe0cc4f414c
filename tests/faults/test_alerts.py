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

DEATHS = ("scheduler.before_alerts=kill@1", "scheduler.after_alerts=kill@1")
WAVE = 3  # failures between two deaths: a message shows all of them
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
        wanted: set[str] = set()
        for number in range(4):
            cluster.stop("scheduler")
            cluster.start("scheduler", {"TASKFLOW_FAILPOINTS": DEATHS[number % 2]})
            cluster.wait_healthy("scheduler")
            if number == 2:  # the coordinator dies as well, after a commit that it has told nobody of
                cluster.restart("coordinator", {"TASKFLOW_FAILPOINTS": "coordinator.after_commit=kill@1"})
            jobs = tf.new_jobs([NewJob("q", number) for _ in range(WAVE)])
            wanted |= {job.id for job in jobs}
            cluster.wait_dead("scheduler", 60)
            if number == 2:
                cluster.wait_dead("coordinator", 60)
                cluster.start("coordinator")
            cluster.start("scheduler")
            cluster.wait_healthy("scheduler")
            eventually(lambda wanted=wanted: wanted <= set(told(cluster)), 60)

        assert sorted(told(cluster)) == sorted(wanted)
        assert rows.found(cluster.dsn, "select count(*) from taskflow.alert_facts") == [(0,)]
