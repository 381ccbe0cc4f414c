"""`POST /rpc`: every method of tasks, in both formats, with what is refused and how (S2.1 to S2.6, S2.9; R1, R2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow import TaskFlow
from tests.support import rows
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.rpc import JSON, YAML, Refused, Rpc
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


@pytest.fixture(params=[JSON, YAML])
def rpc(running: ServiceCluster, request: pytest.FixtureRequest) -> Rpc:
    return Rpc(running.address("gateway"), request.param)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A definition of the test's own."""
    words = "".join(c if c.isalnum() else "-" for c in request.node.name)[:100]
    return f"tests.rpc/{words}"


def new(rpc: Rpc, name: str, **params: Any) -> dict[str, Any]:
    found: dict[str, Any] = rpc("awf.task/create-and-execute", definition=name, **params)["resource"]
    return found


def refused(call: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value


# -- taking --------------------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.1", "S2.9")
def test_a_poll_hands_out_what_is_ready_up_to_its_batch_and_nothing_when_there_is_nothing(rpc: Rpc, name: str) -> None:
    assert rpc("awf.task/poll", taskDefinitions=[name]) == {"resources": []}
    made = [new(rpc, name, params={"n": n}, label="a label") for n in range(3)]
    assert [task["status"] for task in made] == ["ready"] * 3

    two = eventually(lambda: rpc("awf.task/poll", taskDefinitions=[name], maxBatchSize=2)["resources"])
    one = eventually(lambda: rpc("awf.task/poll", taskDefinitions=["tests.rpc/other", name])["resources"])

    assert [task["params"]["n"] for task in two + one] == [0, 1, 2]
    assert {task["status"] for task in two + one} == {"requested"}
    assert len({task["execId"] for task in two + one}) == 3
    first = two[0]
    assert (first["resourceType"], first["definition"], first["id"], first["label"], first["retryCount"]) == (
        "AidboxTask", name, made[0]["id"], "a label", 0,
    )  # fmt: skip
    assert rpc("awf.task/poll", taskDefinitions=[name]) == {"resources": []}


@pytest.mark.feature("S2.2")
def test_a_long_poll_is_answered_as_soon_as_there_is_a_task_and_empty_at_its_timeout(rpc: Rpc, name: str) -> None:
    began = time.monotonic()
    assert rpc("awf.task/long-poll", taskDefinitions=[name], timeout=300) == {"resources": []}
    assert 0.3 <= time.monotonic() - began < 15

    with rpc.begin("awf.task/long-poll", taskDefinitions=[name], timeout=60_000) as waiting:
        made = new(rpc, name)
        answer = ""
        while made["id"] not in answer and (more := waiting.recv(65536).decode()):
            answer += more
    assert "200 OK" in answer and made["id"] in answer


@pytest.mark.feature("R25", "S2.1")
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "params.taskDefinitions"),
        ({"taskDefinitions": [], "workflowDefinitions": []}, "params.taskDefinitions"),
        ({"taskDefinitions": ["a"], "maxBatchSize": 0}, "params.maxBatchSize"),
        ({"taskDefinitions": ["a"], "maxBatchSize": 1001}, "params.maxBatchSize"),
        ({"taskDefinitions": ["a"], "maxBatchSize": "5"}, "params.maxBatchSize"),
        ({"taskDefinitions": ["a"], "timeout": 300_001}, "params.timeout"),
        ({"taskDefinitions": ["a"], "timeout": -1}, "params.timeout"),
        ({"taskDefinitions": ["a b"]}, "params.taskDefinitions[0]"),
        ({"taskDefinitions": [7]}, "params.taskDefinitions"),
        ({"taskDefinitions": ["a"] * 101}, "params.taskDefinitions"),
    ],
)
def test_a_wrong_parameter_is_named(rpc: Rpc, params: dict[str, Any], field: str) -> None:
    error = refused(lambda: rpc("awf.task/long-poll", params))
    assert (error.status, error.error["code"], error.error["data"]["field"]) == (400, "INVALID_ARGUMENT", field)
    assert field in error.error["message"]
    if field == "params.taskDefinitions" and not params:
        assert "params.workflowDefinitions" in error.error["message"]


@pytest.mark.feature("R25")
def test_unknown_parameters_are_ignored_and_absent_ones_have_defaults(rpc: Rpc, name: str) -> None:
    new(rpc, name), new(rpc, name)
    found = rpc("awf.task/long-poll", taskDefinitions=[name], whatever={"a": [1]}, maxBatchSize=None)
    assert len(found["resources"]) == 1
    assert rpc("taskflow.task/poll", taskDefinitions=[name], maxBatchSize=2.0)["resources"]


# -- running -------------------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.3", "S2.5", "R9")
def test_a_task_is_started_and_succeeds(rpc: Rpc, name: str) -> None:
    made = new(rpc, name, params={"patients": ["pt-1"]}, requester={"resourceType": "User", "id": "admin"})
    task = rpc.take(name)

    started = rpc.of("start", task)["resource"]
    assert (started["status"], started["execId"], "outcome" in started) == ("in-progress", task["execId"], False)

    done = rpc.of("success", task, result={"message": "sent", "n": 10**30})["resource"]
    assert (done["id"], done["status"], done["outcome"]) == (made["id"], "done", "succeeded")
    assert done["result"] == {"message": "sent", "n": 10**30}
    assert done["params"] == {"patients": ["pt-1"]} and done["requester"]["id"] == "admin"
    assert (done["retryCount"], done["taskflow"]["executor"], done["execId"]) == (1, "rpc", task["execId"])
    assert done["meta"]["createdAt"] <= done["meta"]["lastUpdated"]
    assert rpc("awf.task/status", id=made["id"])["resource"] == done


@pytest.mark.feature("S2.5", "S2.9")
@pytest.mark.parametrize("under", ["error", "result"])
def test_a_failure_is_retried_twice_ten_seconds_apart_then_done_with_its_reason(
    rpc: Rpc, tf: TaskFlow, name: str, under: str
) -> None:
    """Retries and delay are those of a definition that is first seen over this API."""
    made = new(rpc, name)
    error = {"code": 42, "message": "no such patient"}
    for tries in range(3):
        task = rpc.take(name)
        assert (task["id"], task["retryCount"]) == (made["id"], tries)
        rpc.of("start", task)
        told = rpc.of("fail", task, **{under: error})["resource"]
        if tries < 2:
            assert (told["status"], "outcome" in told) == ("waiting", False)
            tf.advance_clock(5)
            assert rpc("awf.task/poll", taskDefinitions=[name])["resources"] == []
            tf.advance_clock(6)

    assert (told["status"], told["outcome"], told["error"]) == ("done", "failed", error)
    assert told["outcomeReason"] == {
        "type": "awf.task/failed-by-executor", "message": "no such patient", "data": error,
    }  # fmt: skip
    assert told["retryCount"] == 3


@pytest.mark.feature("R3")
def test_an_error_that_is_not_to_be_retried_is_final_at_once(rpc: Rpc, name: str) -> None:
    new(rpc, name)
    task = rpc.take(name)
    rpc.of("start", task)
    told = rpc.of("fail", task, error={"retryable": False})["resource"]
    assert (told["outcome"], told["outcomeReason"]["message"]) == ("failed", "Failed by executor")


@pytest.mark.feature("R2")
@pytest.mark.parametrize("method", ["success", "fail", "notify"])
def test_what_was_not_started_is_refused(rpc: Rpc, name: str, method: str) -> None:
    new(rpc, name)
    task = rpc.take(name)
    error = refused(lambda: rpc.of(method, task, notification="heartbeat"))
    assert (error.status, error.error["code"], error.reason) == (409, "FAILED_PRECONDITION", "NOT_STARTED")
    assert rpc("awf.task/status", id=task["id"])["resource"]["status"] == "requested"
    rpc.of("start", task)


@pytest.mark.feature("R1", "S2.3")
@pytest.mark.parametrize("method", ["start", "notify", "success", "fail"])
@pytest.mark.parametrize("exec_id", ["not-an-exec-id", "ea5c0022-16ca-417e-bf5b-ca3ba5c6cc5c", "of another"])
def test_any_other_exec_id_is_stale_and_changes_nothing(rpc: Rpc, name: str, method: str, exec_id: str) -> None:
    new(rpc, name), new(rpc, name)
    task, other = rpc.take(name), rpc.take(name)
    rpc.of("start", task)
    wrong = other["execId"] if exec_id == "of another" else exec_id

    error = refused(lambda: rpc.of(method, {**task, "execId": wrong}, notification="heartbeat"))

    assert (error.status, error.error["code"], error.reason) == (409, "FAILED_PRECONDITION", "STALE_EXEC_ID")
    assert error.error["type"] == "stale-exec-id"
    eventually(lambda: len(log_of(rpc, task["id"])) > 2)
    log = log_of(rpc, task["id"])
    assert "was refused: STALE_EXEC_ID" in log[-1]["message"]
    done = rpc.of("success", task)["resource"]
    assert (done["outcome"], done["retryCount"]) == ("succeeded", 1)


def log_of(rpc: Rpc, id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rpc("awf.task/status", {"id": id, "include-log?": True})["log"]
    return found


@pytest.mark.feature("R1")
def test_the_outcome_recorded_may_be_repeated_and_another_is_refused(rpc: Rpc, name: str) -> None:
    new(rpc, name)
    task = rpc.take(name)
    rpc.of("start", task)
    first = rpc.of("success", task, result={"n": 1})

    assert rpc.of("success", task, result={"n": 1}) == first
    error = refused(lambda: rpc.of("fail", task, error={"message": "too late"}))

    assert (error.status, error.reason) == (409, "OUTCOME_RECORDED")
    assert rpc("awf.task/status", id=task["id"]) == first


@pytest.mark.feature("R1", "A8")
def test_of_outcomes_told_at_once_one_stands_and_all_hear_which(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    tf.tasks.create(name)
    for _ in range(5):
        new(rpc, name)
    tasks = eventually(lambda: rpc("awf.task/poll", taskDefinitions=[name], maxBatchSize=9)["resources"])

    def told(task: dict[str, Any], method: str) -> str:
        try:
            return str(rpc.of(method, task)["resource"]["outcome"])
        except Refused as refused:
            assert refused.status == 409, refused
            return refused.reason

    with ThreadPoolExecutor(16) as many:
        assert {r["resource"]["status"] for r in many.map(lambda t: rpc.of("start", t), [*tasks, *tasks])} == {
            "in-progress"
        }
        for task in tasks:
            heard = set(many.map(lambda method, t=task: told(t, method), ["success", "fail"] * 8))
            assert heard in ({"succeeded", "OUTCOME_RECORDED"}, {"failed", "OUTCOME_RECORDED"})
            assert [a.final for a in tf.jobs.attempts(task["id"])] == [True]


@pytest.mark.feature("S2.4")
def test_a_notification_prolongs_and_is_logged(rpc: Rpc, tf: TaskFlow, running: ServiceCluster, name: str) -> None:
    new(rpc, name)
    task = rpc.take(name)
    rpc.of("start", task)
    before = rpc.of("notify", task, notification="heartbeat", message="still at it")["inProgressTimeoutAt"]
    tf.advance_clock(100)
    progress = {"notification": "awf.task/progress", "progress-current": 12.5, "progress-total": 20}
    after = rpc.of("notify", task, **progress, **{"progress-unit": "rows"})["inProgressTimeoutAt"]

    ((now,),) = rows.found(running.dsn, "select extract(epoch from taskflow.now()) * 1000")
    assert 95_000 < after - before < 140_000
    assert 100_000 < after - float(now) <= 121_000
    tf.advance_clock(100)
    rpc.of("success", task)
    eventually(lambda: len(log_of(rpc, task["id"])) == 5)
    log = log_of(rpc, task["id"])
    assert [entry.get("event") or entry.get("notification") for entry in log] == [
        "awf.task.event/created", "awf.task.event/started", "awf.task/heartbeat", "awf.task/progress",
        "awf.task.event/succeeded",
    ]  # fmt: skip
    assert log[2]["message"] == "still at it"
    assert (log[3]["progress-current"], log[3]["progress-total"], log[3]["progress-unit"]) == (12.5, 20, "rows")
    assert [entry["re-time"] for entry in log] == sorted(entry["re-time"] for entry in log)


@pytest.mark.feature("S2.4")
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "params.notification"),
        ({"notification": "shout"}, "params.notification"),
        ({"notification": "progress"}, "params.progress-current"),
        ({"notification": "progress", "progress-current": "5"}, "params.progress-current"),
    ],
)
def test_a_wrong_notification_is_named(rpc: Rpc, params: dict[str, Any], field: str) -> None:
    task = {"id": rows.shown(rows.new_id()), "execId": "x"}
    error = refused(lambda: rpc.of("notify", task, **params))
    assert (error.status, error.error["data"]["field"]) == (400, field)


@pytest.mark.feature("S2.6", "R4", "R5")
def test_time_outs_bring_a_task_back_under_another_exec_id(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    new(rpc, name)
    first = rpc.take(name)
    tf.advance_clock(11)
    second = rpc.take(name)
    assert (second["retryCount"], second["execId"] == first["execId"]) == (0, False)
    assert refused(lambda: rpc.of("start", first)).reason == "STALE_EXEC_ID"

    rpc.of("start", second)
    tf.advance_clock(125)
    third = rpc.take(name)
    assert third["retryCount"] == 1
    assert refused(lambda: rpc.of("success", second)).reason == "STALE_EXEC_ID"

    rpc.of("start", third)
    tf.advance_clock(125)
    rpc.of("start", rpc.take(name))
    tf.advance_clock(125)
    ended = eventually(lambda: (r := rpc("awf.task/status", id=first["id"])["resource"])["status"] == "done" and r)
    assert (ended["outcome"], ended["retryCount"]) == ("failed", 3)
    assert ended["outcomeReason"]["type"] == "awf.task/failed-due-to-in-progress-timeout"


# -- what users ask ------------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.9")
def test_a_task_waits_for_its_time(rpc: Rpc, tf: TaskFlow, running: ServiceCluster, name: str) -> None:
    ((now,),) = rows.found(running.dsn, "select taskflow.now()")
    assert isinstance(now, datetime)
    at = (now + timedelta(hours=1)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    made = new(rpc, name, executeAt=at)

    assert (made["status"], made["executeAt"]) == ("waiting", at)
    assert rpc("awf.task/poll", taskDefinitions=[name])["resources"] == []
    tf.advance_clock(3601, step=600)
    assert rpc.take(name)["id"] == made["id"]


@pytest.mark.feature("S2.9")
@pytest.mark.parametrize("id", ["order-17", "819c2499-16ca-417e-bf5b-ca3ba5c6cc5c"])
def test_a_task_has_the_id_that_its_maker_gave_it(rpc: Rpc, name: str, id: str) -> None:
    """Whatever it is: a text, or a UUID of another version than our own."""
    own = f"{id}/{name[-40:]}" if id == "order-17" else id if rpc.kind == JSON else id[:-4] + "aaaa"
    made = new(rpc, name, id=own, params={"n": 1})
    again = new(rpc, name, id=own, params={"n": 1})

    assert made["id"] == again["id"] == own
    task = rpc.take(name)
    assert task["id"] == own
    rpc.of("start", task)
    assert rpc.of("success", task)["resource"]["id"] == own
    assert rpc("awf.task/status", id=own)["resource"]["outcome"] == "succeeded"
    assert rpc("awf.task/poll", taskDefinitions=[name])["resources"] == []


@pytest.mark.feature("S2.9")
def test_an_id_as_ours_is_the_job_s(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    own = rows.shown(rows.new_id())
    assert new(rpc, name, id=own)["id"] == own
    assert tf.jobs.get(own).task == name
    late = refused(lambda: new(rpc, name, id=rows.shown(rows.new_id(-9_000_000))))
    assert (late.status, late.reason, late.error["data"]["field"]) == (400, "ID_TIME", "params.id")


@pytest.mark.feature("S2.9", "R7", "R9")
@pytest.mark.parametrize("when", ["ready", "requested", "in-progress"])
def test_a_task_is_cancelled_wherever_it_is(rpc: Rpc, name: str, when: str) -> None:
    made = new(rpc, name)
    task = rpc.take(name) if when != "ready" else {}
    if when == "in-progress":
        rpc.of("start", task)

    cancelled = rpc("awf.task/cancel", id=made["id"])["resource"]

    assert (cancelled["status"], cancelled["outcome"], "outcomeReason" in cancelled) == ("done", "canceled", False)
    error = refused(lambda: rpc("awf.task/cancel", id=made["id"]))
    assert (error.status, error.error["type"]) == (422, "task-has-been-done")
    if task:
        assert refused(lambda: rpc.of("success", task)).reason == "STALE_EXEC_ID"


@pytest.mark.feature("S2.9")
def test_a_list_filters_and_counts(rpc: Rpc, name: str) -> None:
    made = [new(rpc, name, params={"n": n})["id"] for n in range(5)]
    rpc.take(name)
    task = rpc.take(name)
    rpc.of("start", task)
    rpc.of("success", task)

    def listed(**params: Any) -> tuple[list[str], int]:
        found = rpc("awf.task/list", definitions=[name], **params)
        return [task["id"] for task in found["resources"]], found["total"]

    assert eventually(lambda: listed()[0]) == made[::-1]
    assert listed(count=2, page=2) == ([made[2], made[1]], 5)
    assert listed(status="done") == listed(outcome=["succeeded"]) == ([made[1]], 1)
    assert listed(status=["requested", "in-progress"]) == ([made[0]], 1)
    assert listed(status="done", outcome="failed") == ([], 0)
    assert listed(filter={"status": "ready"}) == (made[:1:-1], 3)
    big = new(rpc, name, params={"text": "x" * 2000})["id"]
    eventually(lambda: listed()[1] == 6)
    (shown, *_) = rpc("awf.task/list", definitions=[name])["resources"]
    assert (shown["id"], "params" in shown) == (big, False)
    assert refused(lambda: listed(status="asleep")).error["data"]["field"] == "params.status"


@pytest.mark.feature("S2.9")
def test_a_task_that_is_not_there_is_not_found(rpc: Rpc) -> None:
    for method in ("status", "cancel"):
        for id in ("nobody", rows.shown(rows.new_id())):
            error = refused(lambda m=method, i=id: rpc(f"awf.task/{m}", id=i))  # type: ignore[misc]
            assert (error.status, error.error["code"]) == (404, "NOT_FOUND")
    error = refused(lambda: rpc("awf.task/start", id=rows.shown(rows.new_id()), execId="x"))
    assert error.status == 404


@pytest.mark.feature("R10", "S2.1")
def test_a_definition_is_a_task_of_its_namespace_which_people_see(rpc: Rpc, tf: TaskFlow) -> None:
    rpc("awf.task/poll", taskDefinitions=["aidbox.bulk/import-resource-task"])
    task = tf.tasks.get("aidbox.bulk/import-resource-task")
    assert (task.name, task.namespace, task.retries) == ("import-resource-task", "aidbox.bulk", 2)
    job = tf.new_job("default", {"n": 1}, task="aidbox.bulk/import-resource-task")
    handed = rpc.take("aidbox.bulk/import-resource-task")
    assert (handed["id"], handed["params"], handed["taskflow"]["retries"]) == (job.id, {"n": 1}, 0)
    rpc.of("start", handed)
    rpc.of("success", handed)


@pytest.mark.feature("S2.6")
def test_the_time_outs_are_settings_of_the_task_and_of_a_job(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    tf.tasks.create(name, requested_timeout=60, in_progress_timeout=600)
    assert tf.tasks.get(name).in_progress_timeout == 600
    new(rpc, name)
    task = rpc.take(name)
    tf.advance_clock(50)
    rpc.of("start", task)
    tf.advance_clock(500)
    rpc.of("success", task)

    job = tf.new_job("default", task=name, requested_timeout=2)
    first = rpc.take(name)
    tf.advance_clock(3)
    again = rpc.take(name)
    assert (first["id"], again["id"], first["execId"] == again["execId"]) == (job.id, job.id, False)
    rpc.of("start", again)
    rpc.of("success", again)


def test_an_inactive_or_changed_task_keeps_its_settings(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    tf.tasks.create(name, retries=0)
    rpc("awf.task/poll", taskDefinitions=[name])
    assert tf.tasks.get(name).retries == 0
