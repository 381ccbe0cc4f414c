"""Alerts, from a fact to a real receiver: what is sent, how it is signed and gathered, and what is never lost or doubled."""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskflow import AlertEvent, AlertKind, JobState, JobUnsuccessful, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.receiver import Received, Receiver
from tests.support.waiting import eventually

EVERYTHING = ("queue", "coordinator", "scheduler", "worker")
SECRET = "whsec-5d1f0c77"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster], receiver: Receiver) -> ServiceCluster:
    worker = {
        "TASKFLOW_BUILTINS": "http,alert",
        "TASKFLOW_HTTP_ALLOW": f"127.0.0.1:{receiver.port}",
        "TASKFLOW_SECRET_ON_CALL": SECRET,
        "TASKFLOW_SECRET_CHAT": f"{receiver.url}/services/T0/B0/x7Qk",
        "TASKFLOW_LOG_LEVEL": "debug",
    }
    scheduler = {"TASKFLOW_ALERT_INTERVAL": "0.1", "TASKFLOW_ALERT_LANE_INTERVAL": "0.2", "TASKFLOW_ALERT_RETRIES": "2"}
    running = make_cluster(services=EVERYTHING, env={"worker": worker, "scheduler": scheduler})
    running.start_all()
    return running


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:
        yield app


class Rules:
    """Makes rules of the test's own, each with a path of the receiver, and deletes them at its end."""

    def __init__(self, tf: TaskFlow, receiver: Receiver) -> None:
        self._tf = tf
        self._receiver = receiver
        self.names: list[str] = []

    def make(self, *events: str, **options: Any) -> str:
        """A rule's name; its messages come to `/NAME`."""
        name = f"rule-{next(_numbers)}"
        options = {"window": 0, "url": f"{self._receiver.url}/{name}", "secret": "on-call", **options}
        self._tf.alerts.create(name, events=events, **options)
        self.names.append(name)
        return name


@pytest.fixture
def rules(tf: TaskFlow, receiver: Receiver) -> Iterator[Rules]:
    made = Rules(tf, receiver)
    yield made
    for name in made.names:
        tf.alerts.delete(name)


def fail(tf: TaskFlow, queue: str, **options: Any) -> str:
    """A job that has failed for good: its payload names no URL."""
    job = tf.new_job(queue, {"url": "nowhere"}, task="http.call", **options)
    with pytest.raises(JobUnsuccessful):
        job.wait(30)
    return job.id


def received(receiver: Receiver, name: str, count: int = 1) -> list[Received]:
    return eventually(lambda: found if len(found := receiver.at(f"/{name}")) >= count else None, 60) or []


@pytest.mark.feature("S1.10")
def test_a_failed_job_is_told_to_a_webhook_that_can_check_who_sent_it(
    tf: TaskFlow, receiver: Receiver, rules: Rules, cluster: ServiceCluster
) -> None:
    name = rules.make("job_failed", queue="mails")

    job_id = fail(tf, "mails")
    other = fail(tf, "others")

    (got,) = received(receiver, name)
    message = got.message
    assert message["rule"] == name and message["count"] == 1 and message["counts"] == {"job_failed": 1}
    (fact,) = message["first"]
    assert (fact["event"], fact["job_id"], fact["queue"], fact["task"]) == ("job_failed", job_id, "mails", "http.call")
    assert fact["outcome"] == "failed" and "payload.url" in fact["error"]
    assert other not in got.body
    signed = f"{got.headers['TaskFlow-Timestamp']}.{got.body}".encode()
    expected = "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert got.headers["TaskFlow-Signature"] == expected
    delivery = tf.jobs.get(got.headers["TaskFlow-Alert-Id"])
    assert delivery.id == message["id"] and delivery.queue == "taskflow-alerts"
    assert eventually(lambda: tf.jobs.get(delivery.id).result) == {"status": 200}
    told = repr(delivery.payload) + "".join(map(cluster.log, EVERYTHING))
    assert SECRET not in told + repr(rows.found(cluster.dsn, "select * from taskflow.alert_rules"))
    assert (AlertEvent.JOB_FAILED, AlertKind.WEBHOOK) == (*tf.alerts.get(name).events, tf.alerts.get(name).kind)
    assert delivery.state in (JobState.RUNNING, JobState.SUCCEEDED)
