"""The queries of docs/reference/sql-views.md on a real cluster, where jobs, runs and schedules have left their rows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from taskflow import Constant, Fail, JobState, RunState, TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.docs import ROOT, blocks
from tests.support.waiting import eventually
from tests.support.workers import working

PAGE = ROOT / "docs" / "reference" / "sql-views.md"
PERMITS = {
    "name": "permits",
    "steps": [
        {"name": "fees", "kind": "task", "meta": {"task": "fees", "input": {"n": "{{ input.n }}"}}},
        {"name": "sign", "kind": "wait", "depends_on": ["fees"], "meta": {"signal": "signed"}},
    ],
}
JOBS_OF_RUN = "select id::text from taskflow.task_instances where workflow_instance_id = %s"
TIME_LINE = "select event, actor, attempt, detail from taskflow.events where job_id = %s order by at, attempt"


@dataclass
class Happened:
    """Ids of what was done; everything has ended but `running`."""

    cluster: ServiceCluster
    retried: str
    cancelled: str
    by_user: str
    by_address: str
    by_run: str
    running: str
    scheduled: str
    run: str
    cancelled_run: str


@pytest.fixture(scope="module")
def happened(make_cluster: Callable[..., ServiceCluster]) -> Iterator[Happened]:
    cluster = make_cluster(env={"coordinator": {"TASKFLOW_LEASE_ROW_AFTER": "0.2"}})
    cluster.start_all()
    leave = threading.Event()
    with TaskFlow(cluster.scheduler_address) as tf, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TASKFLOW_ACTOR", "ann@city")

        @tf.task(queue="city", retries=1, backoff=Constant(0.01))
        def vacuum(table: str = "permits") -> str:
            if table == "none":
                raise ValueError("no such table")
            return table

        @tf.task(queue="city")
        def fees(n: int) -> int:
            if n < 0:
                raise Fail("no negative fees")
            return n

        @tf.task(queue="city")
        def long() -> None:
            leave.wait(120)

        with working(tf):
            yield _do(tf, cluster, patch)
            leave.set()


def _do(tf: TaskFlow, cluster: ServiceCluster, patch: pytest.MonkeyPatch) -> Happened:
    eventually(lambda: len(list(tf.workers.list())) == 1, 30)  # from here on the retries of its tasks are known
    retried = tf.new_job("city", {"table": "none"}, task="vacuum", requester={"user": "u1"}).id
    eventually(lambda: tf.jobs.get(retried).state is JobState.FAILED, 30)
    tf.jobs.retry(retried)
    eventually(lambda: tf.jobs.get(retried).state is JobState.FAILED and tf.jobs.get(retried).attempt == 4, 30)
    cancelled = tf.new_job("nobody", 1).id
    tf.jobs.cancel(cancelled, reason="not needed")
    by_user, by_address = (tf.new_job("nobody", n).id for n in (2, 3))
    with patch.context() as without:
        without.delenv("TASKFLOW_ACTOR")
        tf.jobs.cancel(by_user)
    with Api(cluster.scheduler_address) as api:
        api.jobs.CancelJob(pb.CancelJobRequest(id=by_address), timeout=TIMEOUT)
    tf.schedules.create("vacuum", cron="* * * * * *", payload={"table": "licenses"})
    tf.workflows.put(PERMITS)
    tf.tasks.create("nobody-has-it", queue="nobody")
    tf.workflows.put({"name": "stuck", "steps": [{"name": "a", "kind": "task", "meta": {"task": "nobody-has-it"}}]})
    cancelled_run = tf.workflows.start("stuck").id
    ((by_run,),) = eventually(lambda: rows.found(cluster.dsn, JOBS_OF_RUN, cancelled_run), 30)
    tf.workflows.cancel(cancelled_run)
    eventually(lambda: tf.jobs.get(by_run).state is JobState.CANCELLED, 30)
    run = tf.workflows.start("permits", {"n": -1}).id
    eventually(lambda: tf.workflows.get_run(run).state is RunState.FAILED, 30)
    running = tf.new_job("city", None, task="long").id
    fired = "select job_id::text from taskflow.schedule_firings where state = 'fired' order by instant limit 1"
    ((scheduled,),) = eventually(lambda: rows.found(cluster.dsn, fired), 30)
    eventually(lambda: tf.jobs.get(scheduled).state is JobState.SUCCEEDED, 30)
    leased = "select from taskflow.leases where job_id = %s and started"
    eventually(lambda: rows.found(cluster.dsn, leased, running), 30)
    return Happened(cluster, retried, cancelled, by_user, by_address, by_run, running, scheduled, run, cancelled_run)


def told(happened: Happened, job: str) -> list[tuple[Any, ...]]:
    return rows.found(happened.cluster.dsn, TIME_LINE, job)


@pytest.mark.feature("S1.2")
@pytest.mark.parametrize("query", blocks(PAGE, "sql"), ids=lambda q: " ".join(q.split())[:40])
def test_a_query_of_the_page_answers_with_what_happened(happened: Happened, query: str) -> None:
    assert rows.found(happened.cluster.dsn, query.replace(":'job'", f"'{happened.retried}'"))


@pytest.mark.feature("S1.2")
def test_the_time_line_of_a_job_says_who_submitted_tried_and_retried_it(happened: Happened) -> None:
    found = [(event, actor, attempt) for event, actor, attempt, _ in told(happened, happened.retried)]

    worker = max(actor for event, actor, _ in found if event == "started")
    assert worker
    tries = [(event, worker, attempt) for attempt in (1, 2, 3, 4) for event in ("started", "failed")]
    assert sorted(found) == sorted([("submitted", '{"user": "u1"}', 0), *tries, ("retried", "ann@city", 0)])
    assert [event for event, _, attempt in found if attempt] == ["started", "failed"] * 4
    details = [detail for event, _, _, detail in told(happened, happened.retried) if event == "failed"]
    assert details[0] == {"final": False, "type": "ValueError", "message": "no such table"}
    assert details[1]["final"] is True


@pytest.mark.feature("S1.2")
def test_the_time_line_says_who_cancelled_a_job_and_why(happened: Happened) -> None:
    found = {event: (actor, detail) for event, actor, _, detail in told(happened, happened.cancelled)}
    by_address, by_user, by_run = (
        {event: actor for event, actor, _, _ in told(happened, job)}
        for job in (happened.by_address, happened.by_user, happened.by_run)
    )

    assert found.keys() == {"submitted", "cancel_requested", "cancelled"} == by_address.keys()
    assert found["submitted"][0] == ""
    assert found["cancel_requested"] == ("ann@city", {"reason": "not needed"})
    assert by_address["cancel_requested"] == "127.0.0.1"
    assert by_user["cancel_requested"].endswith(f"@{socket.gethostname()}")
    assert by_run["cancel_requested"] == by_run["submitted"] == f"run {happened.cancelled_run}"


@pytest.mark.feature("S1.2")
def test_a_job_of_a_schedule_has_its_firing_in_its_time_line(happened: Happened) -> None:
    found = {event: actor for event, actor, _, _ in told(happened, happened.scheduled)}

    ((schedule,),) = rows.found(
        happened.cluster.dsn,
        "select schedule_id::text from taskflow.task_instances where id = %s and scheduled and status = 'success'",
        happened.scheduled,
    )
    assert found["submitted"] == found["fired"] == f"schedule {schedule}"
    assert {"started", "succeeded"} <= found.keys()


@pytest.mark.feature("S1.2")
def test_a_run_its_steps_and_its_jobs_are_instances(happened: Happened) -> None:
    dsn = happened.cluster.dsn
    ask = "select workflow_name, status, trigger, error is not null from taskflow.workflow_instances where id = %s"
    assert rows.found(dsn, ask, happened.run) == [("permits", "failed", "manual", True)]
    steps = "select step, status, state from taskflow.workflow_steps where workflow_instance_id = %s order by 1"
    assert ("fees", "failed", "failed") in rows.found(dsn, steps, happened.run)
    assert rows.found(dsn, ask, happened.cancelled_run) == [("stuck", "dequeued", "manual", False)]
    of_the_run = "select task_name, step, status, error from taskflow.task_instances where workflow_instance_id = %s"
    assert rows.found(dsn, of_the_run, happened.run) == [("fees", "fees", "failed", "no negative fees")]
    line = "select event, actor from taskflow.events where workflow_instance_id = %s"
    assert rows.found(dsn, line, happened.cancelled_run) == [("run_cancel_requested", "ann@city")]


@pytest.mark.feature("S1.2")
def test_an_attempt_that_runs_has_started(happened: Happened) -> None:
    events = [event for event, _, _, _ in told(happened, happened.running)]
    status = "select status, attempts from taskflow.task_instances where id = %s"

    assert sorted(events) == ["started", "submitted"]  # instants of two processes, a moment apart
    assert rows.found(happened.cluster.dsn, status, happened.running) == [("running", 1)]
