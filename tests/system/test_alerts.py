"""Alerts, from a fact to a real receiver: how they are signed and gathered, and that none is lost, doubled or loops."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskflow import AlertEvent, AlertKind, JobState, JobUnsuccessful, NewJob, TaskFlow
from taskflow.errors import NotFound
from tests.support import rows
from tests.support.cli import UUID, command_of, failed_in_one_line
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
        "TASKFLOW_SECRET_CHAT": f"{receiver.url}/services/team/room/x7Qk",
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
    assert (*tf.alerts.get(name).events, tf.alerts.get(name).kind) == (AlertEvent.JOB_FAILED, AlertKind.WEBHOOK)


@pytest.mark.feature("S1.10")
def test_many_failures_within_the_window_are_one_message_with_their_count_and_the_first_of_them(
    tf: TaskFlow, receiver: Receiver, rules: Rules
) -> None:
    name = rules.make("job_failed", queue="storm", window=3600)
    jobs = tf.new_jobs([NewJob("storm", {"url": "nowhere"}, task="http.call") for _ in range(40)])
    eventually(lambda: tf.alerts.get(name).gathered == 40, 60)
    assert not receiver.at(f"/{name}")

    tf.alerts.update(name, window=0)

    (got,) = received(receiver, name)
    assert (got.message["count"], got.message["counts"]) == (40, {"job_failed": 40})
    assert len(got.message["first"]) == 5
    assert {fact["job_id"] for fact in got.message["first"]} <= {job.id for job in jobs}
    assert tf.alerts.get(name).gathered == 0


@pytest.mark.feature("S1.10")
def test_no_more_messages_are_sent_in_a_period_than_the_rule_allows_and_what_is_over_waits_for_the_next(
    tf: TaskFlow, receiver: Receiver, rules: Rules
) -> None:
    name = rules.make("job_failed", queue="rated", max_messages=2, period=3600)
    for number in (1, 2):
        fail(tf, "rated")
        received(receiver, name, number)

    fail(tf, "rated")
    fail(tf, "rated")

    eventually(lambda: tf.alerts.get(name).gathered == 2, 60)
    assert len(receiver.at(f"/{name}")) == 2
    tf.alerts.update(name, max_messages=3)
    assert received(receiver, name, 3)[2].message["count"] == 2


@pytest.mark.feature("S1.10")
def test_a_receiver_that_answers_500_is_tried_again_with_the_same_id_and_then_the_delivery_is_a_dead_letter(
    tf: TaskFlow, receiver: Receiver, rules: Rules, cluster: ServiceCluster
) -> None:
    watch_all = rules.make("job_failed", "no_worker", "backlog_old", backlog_age=0.5, no_worker_for=0.5)
    name = rules.make("job_failed", queue="broken")
    receiver.will_answer(f"/{name}", 500, 307)  # a redirect is no delivery either
    failed = fail(tf, "broken")
    hasten(cluster)
    first, second = received(receiver, name, 2)[:2]
    assert first.headers["TaskFlow-Alert-Id"] == second.headers["TaskFlow-Alert-Id"]
    assert first.body == second.body
    hasten(cluster)
    job_id = received(receiver, name, 3)[2].headers["TaskFlow-Alert-Id"]
    assert tf.jobs.wait(job_id, 30).state is JobState.SUCCEEDED
    assert not receiver.at("/elsewhere")

    receiver.will_answer(f"/{name}", 404)
    again = fail(tf, "broken")

    dead = tf.jobs.wait(received(receiver, name, 4)[3].headers["TaskFlow-Alert-Id"], 30)
    assert dead.state is JobState.FAILED and dead.error is not None and "status 404" in dead.error.message
    # A rule for everything hears of these jobs, and never of a delivery: it would go round for ever.
    eventually(lambda: {failed, again} <= {fact["job_id"] for fact in facts(receiver, watch_all)}, 60)
    last = fail(tf, "broken")
    eventually(lambda: last in {fact["job_id"] for fact in facts(receiver, watch_all)}, 60)
    assert "taskflow-alerts" not in {fact["queue"] for fact in facts(receiver, watch_all)}


def hasten(cluster: ServiceCluster) -> None:
    """The delivery that waits for its next try is due now."""
    due = "update taskflow.deferred set due_at = taskflow.now() where queue = 'taskflow-alerts' returning job_id"
    eventually(lambda: rows.found(cluster.dsn, due), 60)


def facts(receiver: Receiver, name: str) -> list[dict[str, Any]]:
    """All facts that a rule's messages have shown so far."""
    return [fact for got in receiver.at(f"/{name}") for fact in got.message["first"]]


@pytest.mark.feature("S1.10", "S1.3")
def test_failed_runs_and_missed_slas_are_told_each_once(
    tf: TaskFlow, receiver: Receiver, rules: Rules, cluster: ServiceCluster
) -> None:
    failing = {"name": "parcels", "steps": [{"name": "call", "kind": "task", "meta": {"task": "http.call"}}]}
    tf.workflows.put(failing)
    late = {**failing, "name": "late", "concurrency": 1, "steps": [WAITS]}
    tf.workflows.put(late)
    tf.workflows.put({**failing, "name": "hasty", "sla": 0.001})
    hasty = rules.make("sla_missed", workflow="hasty")
    name = rules.make("run_failed", workflow="parcels")
    slow = rules.make("sla_missed", workflow="late")

    run = tf.workflows.start("parcels")
    holder = tf.workflows.start("late")  # it has no sla that it could miss on a busy machine
    tf.workflows.put({**late, "sla": 1})
    held = tf.workflows.start("late")

    (got,) = received(receiver, name)
    (fact,) = got.message["first"]
    assert (fact["event"], fact["run_id"], fact["workflow"]) == ("run_failed", run.id, "parcels")
    assert fact["error"]
    (fact,) = received(receiver, slow)[0].message["first"]
    assert (fact["event"], fact["run_id"]) == ("sla_missed", held.id)
    begun = tf.workflows.start("hasty")
    (fact,) = received(receiver, hasty)[0].message["first"]
    assert (fact["event"], fact["run_id"]) == ("sla_missed", begun.id)
    tf.workflows.cancel(holder.id)
    tf.workflows.cancel(held.id)
    assert rows.found(cluster.dsn, "select count(*) from taskflow.alert_facts") == [(0,)]
    assert (len(receiver.at(f"/{name}")), len(receiver.at(f"/{slow}"))) == (1, 1)


WAITS = {"name": "wait", "kind": "wait", "meta": {"signal": "go"}}


@pytest.mark.feature("S1.10", "S1.1")
def test_a_job_that_misses_its_sla_is_told_once(tf: TaskFlow, receiver: Receiver, rules: Rules) -> None:
    name = rules.make("sla_missed", queue="tardy")
    job = tf.new_job("tardy", 1, sla=0.1)
    other = tf.new_job("tardy", 2, sla=3600)

    (got,) = received(receiver, name)

    assert [(fact["event"], fact["job_id"]) for fact in got.message["first"]] == [("sla_missed", job.id)]
    job.cancel()
    other.cancel()


@pytest.mark.feature("S1.10")
def test_waiting_jobs_without_a_worker_and_old_backlogs_are_told_once_until_they_are_over(
    tf: TaskFlow, receiver: Receiver, rules: Rules, cluster: ServiceCluster
) -> None:
    name = rules.make("no_worker", "backlog_old", queue="lonely", no_worker_for=0, backlog_age=0.5)
    first = tf.new_job("lonely", 1, task="nobody-has-it")

    eventually(lambda: {fact["event"] for fact in facts(receiver, name)} == {"no_worker", "backlog_old"}, 60)
    told = {fact["event"]: fact for fact in facts(receiver, name)}
    assert "nobody-has-it" in told["no_worker"]["detail"] and told["no_worker"]["task"] == "nobody-has-it"
    assert "the rule's limit is 0.5 s" in told["backlog_old"]["detail"]

    first.cancel()
    eventually(lambda: not rows.found(cluster.dsn, LONELY), 60)
    assert len(facts(receiver, name)) == 2
    second = tf.new_job("lonely", 2, task="nobody-has-it")

    eventually(lambda: len(facts(receiver, name)) == 4, 60)
    second.cancel()


LONELY = "select 1 from taskflow.alert_conditions where queue = 'lonely'"


@pytest.mark.feature("S1.10")
def test_slack_is_sent_a_text_at_a_url_that_nobody_is_shown(
    tf: TaskFlow, receiver: Receiver, rules: Rules, cluster: ServiceCluster
) -> None:
    path = "/services/team/room/x7Qk"
    name = rules.make("job_failed", queue="chatty", kind="slack", url="", url_secret="chat", secret="")

    job_id = fail(tf, "chatty")

    got = eventually(lambda: receiver.at(path), 60)[0]
    assert list(got.message) == ["text"]
    assert f"TaskFlow alert {name}: 1 × job failed" in got.message["text"] and job_id in got.message["text"]
    assert "TaskFlow-Signature" not in got.headers
    receiver.will_answer(path, 403)
    fail(tf, "chatty")
    eventually(lambda: len(receiver.at(path)) == 2, 60)
    dead = tf.jobs.wait(tf.alerts.get(name).last_job_id, 30)
    assert dead.error is not None and "status 403" in dead.error.message
    assert "x7Qk" not in repr(dead) + "".join(map(cluster.log, EVERYTHING))


@pytest.mark.feature("S1.10")
def test_a_rule_is_tested_paused_changed_and_deleted(tf: TaskFlow, receiver: Receiver, rules: Rules) -> None:
    name = rules.make("job_failed", queue="tried", window=3600)

    job_id = tf.alerts.test(name)

    assert tf.jobs.wait(job_id, 30).result == {"status": 200}
    assert received(receiver, name)[0].message["counts"] == {"test": 1}
    fail(tf, "tried")
    eventually(lambda: tf.alerts.get(name).gathered == 1, 60)
    assert not tf.alerts.update(name, active=False).active
    assert tf.alerts.get(name).gathered == 0
    fail(tf, "tried")
    assert tf.alerts.update(name, active=True, queue="").gathered == 0
    changed = tf.alerts.get(name)
    assert (changed.queue, changed.window, changed.events) == ("", 3600, (AlertEvent.JOB_FAILED,))
    assert name in [rule.name for rule in tf.alerts.list()]
    tf.alerts.delete(name)
    rules.names.remove(name)
    with pytest.raises(NotFound):
        tf.alerts.get(name)


@pytest.mark.feature("S1.10")
def test_alert_rules_by_the_command_line(
    tf: TaskFlow, receiver: Receiver, rules: Rules, cluster: ServiceCluster
) -> None:
    cli = command_of(cluster)
    words = ["--on", "job_failed", "--queue", "shell", "--secret", "on-call", "--url", f"{receiver.url}/shell"]

    made = cli("alert", "create", "shell", *words, "--window", "1m30s")
    rules.names.append("shell")

    assert (made.returncode, made.stderr) == (0, "")
    shown = dict(line.split(maxsplit=1) for line in made.stdout.splitlines() if line.count("  "))
    assert (shown["window"], shown["secret"]) == ("90.0", "on-call")
    lines = [re.sub(" +", " ", line) for line in cli("alert", "list").stdout.splitlines()]
    assert "shell yes job_failed queue shell webhook 0 -" in lines
    assert cli("alert", "update", "shell", "--max-messages", "3", "--paused").returncode == 0
    assert (tf.alerts.get("shell").max_messages, tf.alerts.get("shell").active) == (3, False)
    rule = json.loads(cli("alert", "show", "shell", "--json").stdout)
    assert (rule["queue"], rule["period"], rule["events"]) == ("shell", 3600, ["job_failed"])
    sent = cli("alert", "test", "shell")
    assert (sent.returncode, sent.stderr) == (0, "delivered; the receiver answered 200\n")
    assert UUID.fullmatch(sent.stdout.strip())
    receiver.will_answer("/shell", 410)
    failed_in_one_line(cli("alert", "test", "shell"), 1, "was not delivered", "status 410")
    failed_in_one_line(cli("alert", "create", "x", "--on", "nothing"), 2, "'nothing' is not one of job_failed")
    assert cli("alert", "delete", "shell").returncode == 0
    rules.names.remove("shell")
    with pytest.raises(NotFound, match="there is no alert rule 'shell'"):
        tf.alerts.get("shell")
