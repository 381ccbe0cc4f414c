"""The console's pages of workflows and runs: steps as a graph and a list, cancel, retry (S3.7)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskflow import RunInfo, RunState, StepState, TaskFlow
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.visitor import Answer, Stream, Visitor
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("S3.7")

SOON = {"TASKFLOW_LIVE_INTERVAL": "0.2"}


def task(name: str, task: str, input: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "task", "queue": "steps", "meta": {"task": task, "input": input}, **more}


ORDER = {
    "name": "order",
    "title": "An order & its <ends>",
    "schedule": {"cron": "0 6 * * *"},
    "steps": [
        task("reserve", "add", [1, 2]),
        task("charge", "fail_once", "{{ input.card }}"),
        {"name": "parcel", "kind": "wait", "meta": {"signal": "shipped", "duration": "3d"}},
        task("release", "shout", {"text": "released"}),
    ],
    "edges": [
        {"from": "reserve", "to": "charge"},
        {"from": "charge", "to": "parcel"},
        {"from": "parcel", "to": "release", "on": "failure"},
    ],
    "output": {"sum": "{{ steps.reserve.result }}"},
}


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"gateway": SOON})
    cluster.start_all()
    cluster.run("app", "-m", "tests.support.workflow_app", cluster.scheduler_address)
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        client.workflows.put(ORDER)
        yield client


@pytest.fixture
def visitor(running: ServiceCluster) -> Visitor:
    return Visitor(running.address("gateway"))


def drawn(page: Answer) -> dict[str, str]:
    """The boxes of the drawing: name -> what else stands in it."""
    return dict(re.findall(r"<title>([\w-]+): ([^<]*)</title>", page.source))


def reach(tf: TaskFlow, run: RunInfo, step: str, state: StepState) -> None:
    eventually(lambda: tf.workflows.get_run(run.id).step(step).state is state, timeout=30)


@pytest.mark.feature("S0.10")
def test_a_workflow_s_page_draws_its_document(tf: TaskFlow, visitor: Visitor) -> None:
    row = visitor.get("/workflows").row(Workflow="order An order & its <ends>")
    assert (row["Version"], row["Schedule"]) == ("1", "0 6 * * *")
    assert "06:00:00 UTC" in row["Next run"]

    page = visitor.get("/workflows/order")

    assert drawn(page) == {"reserve": "task", "charge": "task", "parcel": "wait", "release": "task"}
    assert page.source.count("url(#end-failure)") == 1
    assert "reserve → charge, on success" in page.source
    assert '"offset"' not in page.words and '"signal": "shipped"' in page.words
    tf.workflows.put({"name": "typo", "steps": [{"name": "a", "kind": "task", "meta": {"task": "nobody-has-it"}}]})
    assert "step 'a': no worker has ever had a handler for task 'nobody-has-it'" in visitor.get("/workflows/typo").words
    assert visitor.get("/workflows/order?version=9").status == 404
    assert visitor.get("/workflows/order?version=-1").status == 400


@pytest.mark.feature("S0.10")
def test_a_run_is_followed_from_its_failure_over_a_retry_and_a_wait_to_its_end(tf: TaskFlow, visitor: Visitor) -> None:
    run = tf.workflows.start("order", {"card": "4711"}, metadata={"user": "u1"}, label="the first")
    eventually(lambda: tf.workflows.get_run(run.id).state is RunState.FAILED, timeout=30)

    failed = visitor.get(f"/runs/{run.id}")
    states = {"reserve": "task · succeeded", "charge": "task · failed"}
    assert drawn(failed) == {**states, "parcel": "wait · skipped", "release": "task · skipped"}
    assert failed.row(Step="charge")["State"] == "failed"
    assert "not the first time" in failed.row(Step="charge")["Error"]
    listed = visitor.get("/runs", workflow="order", state="failed", metadata="user=u1").row(Workflow="order version 1")
    assert "the first" in listed["Run"]

    goes_on = visitor.send(failed, f"/runs/{run.id}/retry")
    assert "The run resumed from its failed steps." in goes_on.words
    reach(tf, run, "parcel", StepState.WAITING)
    with Stream(visitor, f"/runs/{run.id}") as stream:
        waits = stream.until("page", "shipped")
        assert waits.row(Step="charge began 2 times")["State"] == "succeeded"
        assert "in 3 d" in waits.row(Step="parcel")["State"]
        tf.workflows.signal(run.id, "shipped", {"by": "post"})
        done = stream.until("page", "Output")

    assert drawn(done)["parcel"] == "wait · succeeded" and '"sum": 3' in done.words
    job = visitor.get(done.links[next(text for text in done.links if "…" in text)])
    assert run.id[:8] in job.words, "a job leads to its run"
    assert job.links["retry its run"] == f"/runs/{run.id}" and "/retry" not in job.source, "which alone is retried"


def test_a_run_is_cancelled_by_its_button(tf: TaskFlow, visitor: Visitor) -> None:
    first = tf.workflows.start("order", {"card": "0815"})
    eventually(lambda: tf.workflows.get_run(first.id).state is RunState.FAILED, timeout=30)
    run = tf.workflows.start("order", {"card": "0815"})
    reach(tf, run, "parcel", StepState.WAITING)

    visitor.send(visitor.get(f"/runs/{run.id}"), f"/runs/{run.id}/cancel")

    eventually(lambda: tf.workflows.get_run(run.id).state is RunState.CANCELLED, timeout=30)
    assert "cancelled" in visitor.get(f"/runs/{run.id}").words
    late = visitor.post(f"/runs/{run.id}/cancel", {"form_token": visitor.cookies["taskflow_forms"]})
    assert late.status == 409 and "RUN_FINISHED" in late.words


def test_a_run_that_an_executor_decides_leads_to_its_tasks_and_runs(tf: TaskFlow, visitor: Visitor) -> None:
    tf.workflows.put({"name": "counted", "steps": [task("a", "add", "{{ input }}")]})
    tf.workflows.put({"name": "decided", "decider": {"timeout": 30, "retries": 2}})
    tf.tasks.create("shout", queue="steps")
    run = tf.workflows.wait(tf.workflows.start("decided").id, 60)

    page = visitor.get(f"/runs/{run.id}")

    (child,) = tf.workflows.runs("counted")
    assert f"/runs/{child.id}" in page.links.values()
    assert "succeeded" in page.words and "<svg" not in page.source
    assert f"Run of counted , version 1 {child.id}" in visitor.get(f"/runs/{child.id}").words
    assert visitor.get("/workflows/decided").status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [("/runs/01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c", 404), ("/runs?state=bored", 400), ("/workflows/none-such", 404)],
)
def test_what_is_not_there_is_said(tf: TaskFlow, visitor: Visitor, path: str, status: int) -> None:
    assert visitor.ask("GET", path).status == status


def test_a_schedule_of_a_workflow_leads_to_it(tf: TaskFlow, visitor: Visitor) -> None:
    page = visitor.get("/schedules")

    assert page.links["order"] == "/workflows/order"
    assert page.row(Runs="order workflow")["When"] == "0 6 * * * UTC"
