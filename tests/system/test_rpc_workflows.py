"""Workflows over `POST /rpc`: decided by an executor, started, seen and cancelled by users (S2.7, S2.9)."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from taskflow import RunState, TaskFlow
from tests.support import rows
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.rpc import Refused, Rpc, formats
from tests.support.waiting import eventually
from tests.support.workers import working

EVENT, ACTION = "awf.workflow.event/", "awf.workflow.action/"

pytestmark = pytest.mark.longer


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rpc" in metafunc.fixturenames:
        metafunc.parametrize("rpc", formats(metafunc.function.__name__), indirect=True)


@pytest.fixture
def rpc(running: ServiceCluster, request: pytest.FixtureRequest) -> Rpc:
    return Rpc(running.address("gateway"), request.param)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A workflow of the test's own; its tasks are `<name>-task`."""
    return "wf/" + "".join(c if c.isalnum() else "-" for c in request.node.name)[-100:]


def begin(rpc: Rpc, name: str, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = rpc("awf.workflow/create-and-execute", definition=name, **params)["resource"]
    return found


def decision(rpc: Rpc, name: str) -> dict[str, Any]:
    """The next one, started."""
    polled = rpc("awf.task/long-poll", workflowDefinitions=[name], timeout=20_000)["resources"]
    assert len(polled) == 1, "no decision was asked for"
    rpc.of("start", polled[0])
    found: dict[str, Any] = polled[0]
    return found


def decide(rpc: Rpc, task: dict[str, Any], *actions: dict[str, Any]) -> None:
    rpc.of("success", task, result=list(actions) if len(actions) != 1 else actions[0])


def schedule(definition: str, **params: Any) -> dict[str, Any]:
    return {"action": f"{ACTION}schedule-task", "task-request": {"definition": definition, "params": params}}


def work(rpc: Rpc, definition: str, **result: Any) -> dict[str, Any]:
    task = rpc.take(definition)
    rpc.of("start", task)
    rpc.of("success", task, result=result)
    return task


@pytest.mark.feature("S2.7", "S2.9")
def test_an_executor_decides_a_workflow_from_its_beginning_to_its_end(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    """A definition that nobody has stored is one whose executor decides."""
    one, two = f"{name}-one", f"{name}-two"
    for each in (one, two):
        rpc("awf.task/poll", taskDefinitions=[each])
    run = begin(rpc, name, params={"patient": "pt-1"}, label="a reminder")
    assert (run["resourceType"], run["definition"], run["label"]) == ("AidboxWorkflow", name, "a reminder")

    first = decision(rpc, name)
    assert (first["definition"], first["workflow-definition"]) == ("awf.workflow/decision-task", name)
    assert first["requester"] == {"resourceType": "AidboxWorkflow", "id": run["id"]}
    assert first["params"] == {"event": f"{EVENT}workflow-init"}
    decide(rpc, first, schedule(one, n=1), schedule(two, n=2))

    done = {work(rpc, two)["id"], work(rpc, one)["id"]}
    seen = set()
    for _ in range(2):
        asked = decision(rpc, name)
        assert asked["params"]["event"] == f"{EVENT}task-completed"
        seen.add(asked["params"]["task-id"])
        if len(seen) == 1:
            decide(rpc, asked)  # nothing: the other is awaited
        else:
            decide(rpc, asked, {"action": f"{ACTION}schedule-task", "task-request": {
                "definition": "awf.task/wait", "params": {"duration": 3600}}})  # fmt: skip
    assert seen == done

    assert rpc("awf.task/poll", workflowDefinitions=[name]) == {"resources": []}
    eventually(lambda: tf.workflows.get_run(run["id"]).waiting)  # from then on the hour counts
    tf.advance_clock(3601, step=600)
    last = decision(rpc, name)
    assert last["params"]["event"] == f"{EVENT}task-completed"
    wait = rpc("awf.task/status", id=last["params"]["task-id"])["resource"]
    assert (wait["definition"], wait["status"], wait["outcome"]) == ("awf.task/wait", "done", "succeeded")
    decide(rpc, last, {"action": f"{ACTION}complete-workflow", "result": {"reminded": True}})

    found = eventually(lambda: (s := status(rpc, run["id"]))["resource"]["status"] == "done" and s)
    assert isinstance(found, dict)
    assert (found["resource"]["outcome"], found["resource"]["result"]) == ("succeeded", {"reminded": True})
    assert found["resource"]["params"] == {"patient": "pt-1"}
    assert {task["id"] for task in found["activities"]} == {*done, wait["id"]}
    assert found["activities"][-1] == wait
    assert {task["requester"]["id"] for task in found["activities"]} == {run["id"]}
    assert [task["params"]["event"].removeprefix(EVENT) for task in found["decisions"]] == [
        "workflow-init", "task-completed", "task-completed", "task-completed",
    ]  # fmt: skip


def status(rpc: Rpc, id: str) -> dict[str, Any]:
    return rpc("awf.workflow/status", {"id": id, "include-activities?": True, "include-decisions?": True})


@pytest.mark.feature("S2.7")
@pytest.mark.parametrize("known", [True, False])
def test_a_workflow_begins_another_and_hears_of_its_end(rpc: Rpc, name: str, known: bool) -> None:
    """Also one that nobody has polled for or started: a decision registers it as they do."""
    child = f"{name}-child"
    if known:
        rpc("awf.task/poll", workflowDefinitions=[name, child])
    run = begin(rpc, name)
    action = {"action": f"{ACTION}schedule-workflow", "task-request": {"definition": child, "params": {"of": "it"}}}
    decide(rpc, decision(rpc, name), action)

    decide(rpc, decision(rpc, child), {"action": f"{ACTION}fail", "error": {"message": "not today"}})

    asked = decision(rpc, name)
    assert asked["params"]["event"] == f"{EVENT}workflow-completed"
    ended = rpc("awf.workflow/status", id=asked["params"]["workflow-id"])["resource"]
    assert (ended["definition"], ended["outcome"], ended["params"]) == (child, "failed", {"of": "it"})
    assert ended["error"]["message"] == "not today" and ended["requester"]["id"] == run["id"]
    decide(rpc, asked, {"action": f"{ACTION}unknown-error", "error": {"message": "the child failed"}})
    (parent,) = eventually(lambda: rpc("awf.workflow/list", definitions=[name], status="done")["resources"])
    assert (parent["outcome"], parent["error"]["message"]) == ("failed", "the child failed")


@pytest.mark.feature("S2.7", "R10")
@pytest.mark.parametrize("first", ["decision", "poll", "create"])
def test_a_task_has_two_retries_if_a_decision_a_poll_or_a_call_names_it_first(
    rpc: Rpc, tf: TaskFlow, name: str, first: str
) -> None:
    task = f"{name}-t"
    if first == "poll":
        rpc("awf.task/poll", taskDefinitions=[task])
    elif first == "create":
        rpc("awf.task/cancel", id=rpc("awf.task/create-and-execute", definition=task)["resource"]["id"])
    begin(rpc, name)
    decide(rpc, decision(rpc, name), schedule(task))

    taken = rpc.take(task)
    assert taken["taskflow"]["retries"] == 2
    rpc.of("start", taken)
    again = rpc.of("fail", taken)["resource"]
    assert again["status"] == "waiting"
    delay = datetime.fromisoformat(again["executeAt"]) - datetime.fromisoformat(again["meta"]["lastUpdated"])
    assert delay.total_seconds() == pytest.approx(10, abs=1)
    known = tf.tasks.get(task)
    assert (known.retries, known.backoff.first) == (2, 10)


@pytest.mark.feature("S2.7", "R10")
def test_retries_that_a_worker_s_task_has_of_its_own_count_over_rpc_too(
    running: ServiceCluster, tf: TaskFlow, name: str
) -> None:
    rpc = Rpc(running.address("gateway"))
    by_decision, by_create = f"{name}-decided", f"{name}-created"
    app = TaskFlow(running.scheduler_address)
    for each in (by_decision, by_create):
        app.task(name=each, retries=5)(lambda: None)
    with working(app):
        eventually(lambda: [w for w in tf.workers.list() if by_create in w.tasks])
        run = begin(rpc, name)
        decide(rpc, decision(rpc, name), schedule(by_decision))

        (decided,) = eventually(lambda: status(rpc, run["id"])["activities"])
        created = eventually(
            lambda: (
                (t := rpc("awf.task/create-and-execute", definition=by_create)["resource"])["taskflow"]["retries"] and t
            )
        )

    assert isinstance(created, dict)
    assert [task["taskflow"]["retries"] for task in (decided, created)] == [5, 5]
    backoffs = [tf.tasks.get(each).backoff for each in (by_decision, by_create)]
    assert [backoff and backoff.first for backoff in backoffs] == [10, 10], "the worker says nothing of it"


@pytest.mark.feature("S2.7")
def test_an_action_that_cannot_be_carried_out_is_an_event_whose_id_can_be_asked_for(
    rpc: Rpc, tf: TaskFlow, name: str
) -> None:
    run = begin(rpc, name)
    workflow = {"action": f"{ACTION}schedule-workflow", "task-request": {"definition": "aidbox.task/other"}}
    decide(rpc, decision(rpc, name), schedule("awf.task/subscribe"), workflow)

    for kind, definition in (("task", "awf.task/subscribe"), ("workflow", "aidbox.task/other")):
        asked = decision(rpc, name)
        assert asked["params"]["event"] == f"{EVENT}{kind}-completed"
        assert definition in asked["params"]["error"]["message"]
        found = rpc(f"awf.{kind}/status", id=asked["params"][f"{kind}-id"])["resource"]
        assert (found["definition"], found["status"], found["outcome"]) == (definition, "done", "failed")
        assert found["outcomeReason"]["type"] == "awf.executor/unknown-error"
        assert found["outcomeReason"]["message"] == asked["params"]["error"]["message"]
        assert found["requester"]["id"] == run["id"]
        if kind == "workflow":
            decide(rpc, asked, {"action": f"{ACTION}unknown-error", "error": {"type": "mine", "message": "no such"}})
        else:
            decide(rpc, asked)

    ended = eventually(lambda: (s := status(rpc, run["id"]))["resource"]["status"] == "done" and s)
    assert isinstance(ended, dict)
    assert [(a["resourceType"], a["outcome"]) for a in ended["activities"]] == [
        ("AidboxTask", "failed"), ("AidboxWorkflow", "failed"),
    ]  # fmt: skip
    assert ended["resource"]["outcomeReason"]["type"] == "awf.executor/unknown-error"
    assert ended["resource"]["error"] == {"type": "mine", "message": "no such"}
    steps = {step.name: str(step.state) for step in tf.workflows.get_run(run["id"]).steps}
    assert steps == {"decision": "succeeded", "task-1": "failed", "task-2": "failed"}


@pytest.mark.feature("S2.7")
def test_a_wait_of_a_decision_is_an_activity_that_ends_with_its_workflow(rpc: Rpc, name: str) -> None:
    run = begin(rpc, name)
    decide(rpc, decision(rpc, name), schedule("awf.task/wait", duration={"hours": 1}))

    (wait,) = eventually(lambda: status(rpc, run["id"])["activities"])
    assert (wait["definition"], wait["status"], "outcome" in wait) == ("awf.task/wait", "waiting", False)
    assert wait["params"] == {"until": wait["executeAt"]} and wait["executeAt"] > wait["meta"]["createdAt"]
    assert rpc("awf.task/status", id=wait["id"])["resource"] == wait
    with pytest.raises(Refused) as caught:
        rpc("awf.task/cancel", id=wait["id"])
    assert (caught.value.status, caught.value.reason) == (422, "WAIT_OF_A_WORKFLOW")

    rpc("awf.workflow/cancel", id=run["id"])
    assert rpc("awf.task/status", id=wait["id"])["resource"]["outcome"] == "canceled"


@pytest.mark.feature("S2.9")
@pytest.mark.parametrize("outcome", ["complete-workflow", "fail", "cancel"])
def test_a_workflow_resource_has_the_fields_that_clients_know(rpc: Rpc, name: str, outcome: str) -> None:
    run = begin(rpc, name)
    assert run["status"] in ("created", "in-progress")
    assert (run["execId"], run["retryCount"], run["executeAt"]) == (run["id"], 0, run["meta"]["createdAt"])
    if outcome == "cancel":
        rpc("awf.workflow/cancel", id=run["id"])
    else:
        decide(rpc, decision(rpc, name), {"action": f"{ACTION}{outcome}", "error": {"code": 7}})
    ended = eventually(lambda: (r := status(rpc, run["id"])["resource"])["status"] == "done" and r)
    assert isinstance(ended, dict)
    assert "result" not in ended and ended["retryCount"] == 1
    assert ("error" in ended, "outcomeReason" in ended) == (outcome == "fail", outcome == "fail")
    if outcome == "fail":
        assert ended["outcomeReason"] == {
            "type": "awf.workflow/failed-by-executor", "message": "Failed by executor", "data": ended["error"],
        }  # fmt: skip
        assert ended["error"]["code"] == 7
    listed = rpc("awf.workflow/list", filter={"includeDefinitions": [name], "status": "done"})["resources"]
    assert [(r["id"], "params" in r) for r in listed] == [(run["id"], False)]
    for wrong in ({"filter": {"status": "ready"}}, {"status": "ready"}):
        with pytest.raises(Refused) as caught:
            rpc("awf.workflow/list", wrong)
        assert caught.value.error["data"]["field"] in ("params.filter.status", "params.status")
        assert "is none of created, in-progress, done" in caught.value.error["message"]


@pytest.mark.feature("S2.7", "S2.6")
def test_a_decision_that_times_out_is_handed_out_again_and_its_actions_are_applied_once(
    rpc: Rpc, tf: TaskFlow, running: ServiceCluster, name: str
) -> None:
    begin(rpc, name)
    first = decision(rpc, name)
    tf.advance_clock(125, step=20)
    second = decision(rpc, name)
    assert (second["id"], second["execId"] == first["execId"]) == (first["id"], False)

    with pytest.raises(Refused) as caught:
        decide(rpc, first, schedule(f"{name}-t", by="first"))
    assert caught.value.reason == "STALE_EXEC_ID"
    decide(rpc, second, schedule(f"{name}-t", by="second"))
    decide(rpc, second, schedule(f"{name}-t", by="second"))

    assert rpc.take(f"{name}-t")["params"] == {"by": "second"}
    assert rpc("awf.task/poll", taskDefinitions=[f"{name}-t"]) == {"resources": []}


@pytest.mark.feature("S2.7", "S2.1")
def test_decisions_of_one_run_are_handed_out_one_at_a_time_and_beside_tasks(rpc: Rpc, name: str) -> None:
    task = f"{name}-t"
    rpc("awf.task/poll", taskDefinitions=[task])
    begin(rpc, name)
    decide(rpc, decision(rpc, name), *[schedule(task, n=n) for n in range(3)])
    for _ in range(3):
        work(rpc, task)

    for left in (2, 1, 0):
        both = rpc(
            "awf.task/long-poll", workflowDefinitions=[name], taskDefinitions=[task], maxBatchSize=10, timeout=20_000
        )["resources"]
        assert [found["definition"] for found in both] == ["awf.workflow/decision-task"]
        rpc.of("start", both[0])
        decide(rpc, both[0], *([{"action": f"{ACTION}complete-workflow"}] if not left else []))
    eventually(lambda: rpc("awf.workflow/list", definitions=[name], outcome="succeeded")["total"] == 1)


@pytest.mark.feature("S2.7", "M.4")
def test_a_decided_run_goes_on_through_a_kill_of_its_owner(rpc: Rpc, running: ServiceCluster, name: str) -> None:
    task = f"{name}-t"
    rpc("awf.task/poll", taskDefinitions=[task])
    run = begin(rpc, name)
    asked = decision(rpc, name)
    running.kill("coordinator", signal.SIGKILL)
    running.start("coordinator")
    running.wait_healthy("coordinator")

    decide(rpc, asked, schedule(task))
    work(rpc, task)
    decide(rpc, decision(rpc, name), {"action": f"{ACTION}complete-workflow", "result": [1]})

    ended = eventually(lambda: (r := status(rpc, run["id"]))["resource"]["status"] == "done" and r)
    assert isinstance(ended, dict) and ended["resource"]["result"] == [1]
    assert (len(ended["decisions"]), [d["retryCount"] for d in ended["decisions"]]) == (2, [1, 1])


@pytest.mark.feature("S2.9")
def test_users_cancel_list_and_name_their_workflows(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    own = rows.shown(rows.new_id())
    ids = [begin(rpc, name)["id"], begin(rpc, name, id=own)["id"], begin(rpc, name)["id"]]
    assert ids[1] == own and begin(rpc, name, id=own)["id"] == own
    decision(rpc, name)

    cancelled = rpc("awf.workflow/cancel", id=own)["resource"]

    assert (cancelled["status"], cancelled["outcome"]) == ("done", "canceled")
    with pytest.raises(Refused) as caught:
        rpc("awf.workflow/cancel", id=own)
    assert (caught.value.status, caught.value.error["type"]) == (422, "workflow-has-been-done")
    found = rpc("awf.workflow/list", definitions=[name], count=2)
    assert (len(found["resources"]), found["total"]) == (2, 3)
    assert [r["id"] for r in rpc("awf.workflow/list", definitions=[name], outcome="canceled")["resources"]] == [own]
    for id in ids:
        if id != own:
            rpc("awf.workflow/cancel", id=id)
    assert all(tf.workflows.get_run(id).state is RunState.CANCELLED for id in ids)


@pytest.mark.feature("S2.9")
@pytest.mark.parametrize(
    ("method", "params", "status", "field"),
    [
        ("status", {"id": "no-such"}, 404, "params.id"),
        ("status", {}, 400, "params.id"),
        ("create-and-execute", {"definition": "a b"}, 400, "params.definition"),
        ("create-and-execute", {"definition": "a", "executeAt": "2030-01-01T00:00:00Z"}, 400, "params.executeAt"),
        ("create-and-execute", {"definition": "a", "id": "819c2499-16ca-417e-bf5b-ca3ba5c6cc5c"}, 400, "params.id"),
        ("list", {"status": "asleep"}, 400, "params.status"),
    ],
)
def test_a_wrong_parameter_of_a_workflow_is_named(
    rpc: Rpc, method: str, params: dict[str, Any], status: int, field: str
) -> None:
    with pytest.raises(Refused) as caught:
        rpc(f"awf.workflow/{method}", params)
    assert (caught.value.status, caught.value.error["data"]["field"]) == (status, field)


@pytest.mark.feature("S4.6", "S2.7")
def test_a_decision_may_name_a_task_in_a_namespace_that_has_all_its_tasks(rpc: Rpc, tf: TaskFlow) -> None:
    """The run goes on; a definition that is polled for is a task more, and refused."""
    space = f"full-{rpc.kind.partition('/')[2]}"
    tf.namespaces.create(space, quota_tasks=0)
    begin(rpc, f"{space}/decided")

    decide(rpc, decision(rpc, f"{space}/decided"), schedule(f"{space}/named"))

    eventually(lambda: any((task.namespace, task.name) == (space, "named") for task in tf.tasks.get()))
    work(rpc, f"{space}/named")
    with pytest.raises(Refused) as refused:
        rpc("awf.task/poll", taskDefinitions=[f"{space}/polled"])
    assert (refused.value.status, refused.value.error["code"]) == (429, "RESOURCE_EXHAUSTED")
    assert refused.value.reason == "QUOTA_TASKS"
