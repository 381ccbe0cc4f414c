"""`POST /rpc`: every method of tasks, in both formats, with what is refused and how (S2.1 to S2.6, S2.9; R1, R2)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow import TaskFlow
from tests.support import rows
from tests.support.api import pending
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.rpc import JSON, Refused, Rpc, formats
from tests.support.waiting import eventually

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


@pytest.mark.feature("S2.1", "S2.9", "R9")
def test_a_poll_hands_out_what_is_ready_up_to_its_batch_and_nothing_when_there_is_nothing(
    running: ServiceCluster, rpc: Rpc, name: str
) -> None:
    assert rpc("awf.task/poll", taskDefinitions=[name]) == {"resources": []}
    made = [new(rpc, name, params={"n": n}, label="a label") for n in range(3)]
    assert [task["status"] for task in made] == ["ready"] * 3

    eventually(lambda: pending(running.address("queue"), name) == 3)

    two = rpc("awf.task/poll", taskDefinitions=[name], maxBatchSize=2)["resources"]
    one = rpc("awf.task/poll", taskDefinitions=["tests.rpc/other", name])["resources"]

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


@pytest.mark.long
@pytest.mark.feature("S2.2")
def test_a_long_poll_without_a_timeout_waits_for_a_minute(running: ServiceCluster) -> None:
    """By the real clock."""
    rpc, began = Rpc(running.address("gateway")), time.monotonic()
    with rpc.begin("awf.task/long-poll", taskDefinitions=["tests.rpc/nobody"]) as waiting:
        waiting.settimeout(80)
        told = b""
        while b'{"result":{"resources":[]}}' not in told:
            told += waiting.recv(4096) or pytest.fail(f"closed after {told!r}")
    assert 60 <= time.monotonic() - began < 75


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


@pytest.mark.feature("R25", "S2.1")
def test_unknown_parameters_are_ignored_and_absent_ones_have_defaults(rpc: Rpc, name: str) -> None:
    new(rpc, name), new(rpc, name)
    found = rpc("awf.task/long-poll", taskDefinitions=[name], whatever={"a": [1]}, maxBatchSize=None)
    assert len(found["resources"]) == 1
    eventually(lambda: rpc("taskflow.task/poll", taskDefinitions=[name], maxBatchSize=2.0)["resources"])


# -- running -------------------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.3", "S2.5", "R9", "M.10")
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


@pytest.mark.feature("S2.5", "S2.9", "R9")
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


@pytest.mark.feature("S2.5")
@pytest.mark.parametrize("value", ["text", "", 7, 0.5, True, False, [1, {"a": None}], {}, {"a": []}])
def test_a_result_or_an_error_is_any_json_value(rpc: Rpc, name: str, value: Any) -> None:
    for method, field in (("success", "result"), ("fail", "error"), ("fail", "result")):
        new(rpc, name)
        task = rpc.take(name)
        rpc.of("start", task)
        told = rpc.of(method, task, **{field: value})["resource"]
        if method == "success":
            assert (told["outcome"], told["result"]) == ("succeeded", value)
        else:
            expected = (
                value if value != {} else {"type": "awf.task/failed-by-executor", "message": "Failed by executor"}
            )
            assert (told["error"], type(told["error"])) == (expected, type(expected))
            rpc("awf.task/cancel", id=task["id"])


@pytest.mark.feature("S2.5", "R14")
@pytest.mark.parametrize("number", ["1e400", "-1e999", "Infinity", "NaN"])
@pytest.mark.parametrize("method", ["success", "fail", "create-and-execute"])
def test_no_infinity_enters_or_leaves(running: ServiceCluster, name: str, method: str, number: str) -> None:
    rpc = Rpc(running.address("gateway"))
    task = {"id": "", "execId": ""}
    if method != "create-and-execute":
        new(rpc, name)
        task = rpc.take(name)
        rpc.of("start", task)
    names = json.dumps({"definition": name, "id": task["id"], "execId": task["execId"]})[:-1]
    values = ", ".join(f'"{field}": {{"limit": [{number}]}}' for field in ("params", "result", "error"))
    body = f'{{"method": "awf.task/{method}", "params": {names}, {values}}}}}'

    status, _, answer = rpc.send(body.encode(), {"content-type": JSON})

    assert (status, json.loads(answer)["error"]["data"]["reason"]) == (400, "BAD_BODY")
    if task["id"]:
        assert rpc("awf.task/status", id=task["id"])["resource"]["status"] == "in-progress"


@pytest.mark.feature("S2.5", "R14")
@pytest.mark.parametrize(("method", "field"), [("success", "result"), ("fail", "error"), ("fail", "result")])
def test_a_value_nested_too_deeply_is_refused_and_changes_nothing(
    running: ServiceCluster, name: str, method: str, field: str
) -> None:
    rpc = Rpc(running.address("gateway"))
    deep: Any = 0
    for _ in range(501):
        deep = [deep]
    new(rpc, name)
    task = rpc.take(name)
    rpc.of("start", task)
    error = refused(lambda: rpc.of(method, task, **{field: deep}))
    assert (error.status, error.error["data"]["field"], error.reason) == (400, f"params.{field}", "BAD_VALUE")
    assert rpc.of(method, task, **{field: deep[0]})["resource"].get(field, deep[0]) == deep[0]


@pytest.mark.feature("S2.9", "S1.2")
def test_what_was_not_given_is_not_there(rpc: Rpc, running: ServiceCluster, name: str) -> None:
    """No result of a success without one, no error of a task that was cancelled."""
    new(rpc, name), new(rpc, name)
    first, second = rpc.take(name), rpc.take(name)
    rpc.of("start", first)
    assert "result" not in rpc.of("success", first)["resource"]
    rpc.of("start", second)
    cancelled = rpc("awf.task/cancel", id=second["id"])["resource"]
    assert (cancelled["outcome"], "error" in cancelled) == ("canceled", False)
    asked = "select actor from taskflow.events where job_id = %s and event = 'cancel_requested'"
    assert rows.found(running.dsn, asked, second["id"]) == [("executor API",)]


@pytest.mark.feature("S2.1")
def test_a_poll_answers_with_all_fields_of_a_task(rpc: Rpc, tf: TaskFlow, running: ServiceCluster, name: str) -> None:
    new(rpc, name)
    now = rpc.take(name)
    assert now["executeAt"] == now["meta"]["createdAt"] <= now["meta"]["lastUpdated"]
    assert now["meta"]["versionId"].isdigit()
    rpc.of("start", now)
    rpc.of("success", now)

    ((time,),) = rows.found(running.dsn, "select taskflow.now() + interval '1 h'")
    assert isinstance(time, datetime)
    made = new(rpc, name, executeAt=time.isoformat())
    tf.advance_clock(3601, step=600)
    assert rpc.take(name)["executeAt"] == made["executeAt"]


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


@pytest.mark.feature("R1", "M.10")
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
def test_of_outcomes_told_at_once_one_stands_and_all_hear_which(
    running: ServiceCluster, rpc: Rpc, tf: TaskFlow, name: str
) -> None:
    tf.tasks.create(name)
    for _ in range(5):
        new(rpc, name)
    eventually(lambda: pending(running.address("queue"), name) == 5)
    tasks = rpc("awf.task/poll", taskDefinitions=[name], maxBatchSize=9)["resources"]

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


@pytest.mark.feature("S2.4", "R5", "R9", "R25")
def test_a_notification_prolongs_and_is_logged(rpc: Rpc, tf: TaskFlow, running: ServiceCluster, name: str) -> None:
    new(rpc, name)
    task = rpc.take(name)
    rpc.of("start", task)
    before = rpc.of("notify", task, notification="heartbeat", message="still at it")["inProgressTimeoutAt"]
    tf.advance_clock(100, step=20)
    progress = {"notification": "awf.task/progress", "progress-current": 12.5, "progress-total": 20}
    after = rpc.of("notify", task, **progress, **{"progress-unit": "rows"})["inProgressTimeoutAt"]

    ((now,),) = rows.found(running.dsn, "select extract(epoch from taskflow.now()) * 1000")
    assert 95_000 < after - before < 140_000
    assert 100_000 < after - float(now) <= 121_000
    tf.advance_clock(100, step=20)
    rpc.of("success", task)
    eventually(lambda: len(log_of(rpc, task["id"])) == 5)
    log = log_of(rpc, task["id"])
    assert [entry.get("event") or entry.get("notification") for entry in log] == [
        "awf.task.event/created", "awf.task.event/started", "awf.task/heartbeat", "awf.task/progress",
        "awf.task.event/succeeded",
    ]  # fmt: skip
    assert log[2]["message"] == "still at it"
    assert (log[3]["progress-current"], log[3]["progress-total"], log[3]["progress-unit"]) == (12.5, 20, "rows")
    assert type(log[3]["progress-total"]) is int
    assert {(entry["subject"]["resourceType"], entry["subject"]["id"]) for entry in log} == {("AidboxTask", task["id"])}
    assert [(e["action"].removeprefix("awf.task/"), e.get("status-before"), e["status-after"]) for e in log] == [
        ("create-and-execute", None, "ready"), ("start", "requested", "in-progress"),
        ("notify", "in-progress", "in-progress"), ("notify", "in-progress", "in-progress"),
        ("success", "in-progress", "done"),
    ]  # fmt: skip
    assert log[1]["action-params"] == {"execId": task["execId"]}
    assert log[2]["action-params"] == {"notification": "awf.task/heartbeat", "message": "still at it"}
    assert [entry["re-time"] for entry in log] == sorted(entry["re-time"] for entry in log)


@pytest.mark.feature("S2.4", "R25")
@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({}, "params.notification"),
        ({"notification": "shout"}, "params.notification"),
        ({"notification": "progress"}, "params.progress-current"),
        ({"notification": "progress", "progress-current": "5"}, "params.progress-current"),
        ({"notification": "progress", "progress-current": 10**400}, "params.progress-current"),
        ({"notification": "progress", "progress-current": 1, "progress-total": 10**400}, "params.progress-total"),
    ],
)
def test_a_wrong_notification_is_named(rpc: Rpc, params: dict[str, Any], field: str) -> None:
    task = {"id": rows.shown(rows.new_id()), "execId": "x"}
    error = refused(lambda: rpc.of("notify", task, **params))
    assert (error.status, error.error["data"]["field"]) == (400, field)


@pytest.mark.feature("S2.6", "R4", "R5", "M.10")
def test_time_outs_bring_a_task_back_under_another_exec_id(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    new(rpc, name)
    first = rpc.take(name)
    tf.advance_clock(11)
    second = rpc.take(name)
    assert (second["retryCount"], second["execId"] == first["execId"]) == (0, False)
    assert refused(lambda: rpc.of("start", first)).reason == "STALE_EXEC_ID"

    rpc.of("start", second)
    tf.advance_clock(125, step=20)
    third = rpc.take(name)
    assert third["retryCount"] == 1
    assert refused(lambda: rpc.of("success", second)).reason == "STALE_EXEC_ID"

    rpc.of("start", third)
    tf.advance_clock(125, step=20)
    rpc.of("start", rpc.take(name))
    tf.advance_clock(125, step=20)
    ended = eventually(lambda: (r := rpc("awf.task/status", id=first["id"])["resource"])["status"] == "done" and r)
    assert (ended["outcome"], ended["retryCount"]) == ("failed", 3)
    assert ended["outcomeReason"]["type"] == "awf.task/failed-due-to-in-progress-timeout"


# -- what users ask ------------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.9", "R9")
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
    assert listed(filter={"status": "created"}) == listed(status="created", outcome="failed") == ([], 0)


@pytest.mark.feature("S2.9")
def test_a_list_has_the_filters_and_the_order_that_clients_know(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    one, two = f"{name}-one", f"{name}-two"
    a, b = (new(rpc, one, params={"to": who})["id"] for who in ("Ada", "Bob_100%"))
    c = new(rpc, two, label="for ada")["id"]
    tf.tasks.update(one, requested_timeout=2.5)
    rpc.of("start", rpc.take(one))  # a, which is the last that was changed
    both = {"includeDefinitions": [one, two]}

    def listed(filter: dict[str, Any], **params: Any) -> list[str]:
        return [task["id"] for task in rpc("awf.task/list", filter=filter, **params)["resources"]]

    assert eventually(lambda: listed(both) == [c, b, a])
    assert listed({"includeDefinitions": [one]}) == [b, a]
    assert listed({**both, "excludeDefinitions": [one]}) == [c]
    mine = listed({"excludeDefinitions": [one, "awf.workflow/decision-task"], "ilike": "ada"})
    assert c in mine and a not in mine and b not in mine
    assert listed({"includeDefinitions": ["awf.workflow/decision-task"]}) == []
    assert listed({**both, "ilike": "ADA"}) == [c, a] and listed({**both, "ilike": "b_b%100"}) == [b]
    assert listed(both, sort={"createdAt": "asc"}) == [a, b, c]
    assert listed(both, sort={"lastUpdated": "desc"}) == [a, c, b]
    assert listed(both, sort={"lastUpdated": "asc"}, count=1, page=3) == [a]
    settings = {"allowedRetryCount": 2, "requestedToStartTimeout": 2500, "retryDelay": 10_000}
    assert rpc("awf.task/list", {"filter": both, "include-settings?": True})["settings"][one] == settings
    assert rpc("awf.task/status", {"id": a, "include-settings?": True})["settings"] == settings


@pytest.mark.feature("R25", "S2.9")
@pytest.mark.parametrize("kind", ["task", "workflow"])
@pytest.mark.parametrize(
    ("params", "field", "reason"),
    [
        ({"definition": "a"}, "params.definition", "UNKNOWN_PARAMETER"),
        ({"filter": {"definition": "a"}}, "params.filter.definition", "UNKNOWN_PARAMETER"),
        ({"filter": {"status": "asleep"}}, "params.filter.status", "BAD_PARAMETER"),
        ({"filter": {"outcome": ["gone"]}}, "params.filter.outcome", "BAD_PARAMETER"),
        ({"filter": {"includeDefinitions": ["a", "a b"]}}, "params.filter.includeDefinitions[1]", "BAD_NAME"),
        ({"filter": []}, "params.filter", "BAD_PARAMETER"),
        ({"filter": {"ilike": 7}}, "params.filter.ilike", "BAD_PARAMETER"),
        ({"sort": {"id": "asc"}}, "params.sort.id", "UNKNOWN_PARAMETER"),
        ({"sort": {"createdAt": "up"}}, "params.sort.createdAt", "BAD_PARAMETER"),
        ({"sort": {"createdAt": "asc", "lastUpdated": "asc"}}, "params.sort", "BAD_PARAMETER"),
    ],
)
def test_a_list_refuses_what_it_would_not_apply(
    rpc: Rpc, kind: str, params: dict[str, Any], field: str, reason: str
) -> None:
    error = refused(lambda: rpc(f"awf.{kind}/list", params))
    assert (error.status, error.error["data"]["field"], error.reason) == (400, field, reason)
    assert error.error["message"].startswith(f"{field}: ")


# -- waits and other built-in definitions ---------------------------------------------------------------------------


@pytest.mark.feature("S2.9")
def test_a_wait_by_itself_ends_when_it_is_due(rpc: Rpc, tf: TaskFlow) -> None:
    wait = new(rpc, "awf.task/wait", params={"duration": {"hours": 4, "minutes": 30}}, label="a pause")
    gone = new(rpc, "awf.task/wait", params={"until": "2199-01-01"})
    assert (wait["status"], wait["params"]["duration"]["hours"], wait["label"]) == ("waiting", 4, "a pause")
    assert gone["executeAt"] == "2199-01-01T00:00:00Z"

    tf.advance_clock(4.6 * 3600, step=3600)

    ended = eventually(lambda: (r := rpc("awf.task/status", id=wait["id"])["resource"])["status"] == "done" and r)
    assert (ended["outcome"], "result" in ended) == ("succeeded", False)
    assert rpc("awf.task/cancel", id=gone["id"])["resource"]["outcome"] == "canceled"


@pytest.mark.feature("S2.9", "R25")
@pytest.mark.parametrize(
    ("method", "params", "field", "words"),
    [
        (
            "awf.task/create-and-execute",
            {"definition": "awf.task/subscribe"},
            "params.definition",
            "only awf.task/wait",
        ),
        ("awf.task/create-and-execute", {"definition": "aidbox.task/x"}, "params.definition", "only awf.task/wait"),
        ("awf.task/create-and-execute", {"definition": "awf.task/wait"}, "params.params", "`until` or `duration`"),
        (
            "awf.task/create-and-execute",
            {"definition": "awf.task/wait", "params": {"until": "soon"}},
            "params.params",
            "'soon' is not a time",
        ),
        (
            "awf.workflow/create-and-execute",
            {"definition": "awf.workflow/x"},
            "params.definition",
            "only awf.task/wait",
        ),
        ("awf.workflow/create-and-execute", {"definition": "awf.task/wait"}, "params.definition", "is a task"),
        ("awf.task/poll", {"taskDefinitions": ["a", "awf.task/wait"]}, "params.taskDefinitions[1]", "itself"),
        (
            "awf.task/poll",
            {"taskDefinitions": ["awf.workflow/decision-task"]},
            "params.taskDefinitions[0]",
            "params.workflowDefinitions",
        ),
    ],
)
def test_other_built_in_definitions_are_refused_in_a_line_that_says_why(
    rpc: Rpc, method: str, params: dict[str, Any], field: str, words: str
) -> None:
    error = refused(lambda: rpc(method, params))
    assert (error.status, error.error["data"]["field"]) == (400, field)
    assert words in error.error["message"] and "\n" not in error.error["message"]


# -- resources by GET -----------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.9")
def test_tasks_and_workflows_are_counted_as_clients_count_them(running: ServiceCluster, name: str) -> None:
    """As the TypeScript client's pendingTasks, pendingDecisions and inProgress count them."""
    rpc = Rpc(running.address("gateway"))

    def total(path: str, **query: str) -> Any:
        status, found = rpc.get(path, {"_count": "0", **query})
        assert (status, list(found)) == (200, ["total"])
        return found["total"]

    pending = {".status": "ready", "definition-not": "awf.workflow/decision-task"}
    decisions = {".status": "ready", "definition": "awf.workflow/decision-task"}
    before = (
        total("/AidboxTask", **pending),
        total("/AidboxTask", **decisions),
        total("/AidboxWorkflow", **{".status": "in-progress"}),
    )
    new(rpc, name), new(rpc, name)
    run = rpc("awf.workflow/create-and-execute", definition=f"{name}-w")["resource"]
    rpc.of("start", rpc.take(name))

    eventually(lambda: total("/AidboxTask", **decisions) == before[1] + 1)
    assert total("/AidboxTask", **pending) == before[0] + 1
    assert total("/AidboxWorkflow", **{".status": "in-progress"}) == before[2] + 1
    assert total("/AidboxTask", definition=name) == 2
    assert total("/AidboxTask", definition=name, **{".status": "in-progress,done"}) == 1
    assert total("/AidboxWorkflow", **{"definition-not": f"{name}-w"}) == total("/AidboxWorkflow") - 1

    status, found = rpc.get("/AidboxTask", {"_count": "1", "definition": name})
    assert (status, found["total"], len(found["entry"])) == (200, 2, 1)
    (entry,) = found["entry"]
    assert rpc.get(f"/AidboxTask/{entry['resource']['id']}", {})[1]["definition"] == name
    assert rpc.get(f"/AidboxWorkflow/{run['id']}", {}) == (200, rpc("awf.workflow/status", id=run["id"])["resource"])


@pytest.mark.feature("R25")
@pytest.mark.parametrize(
    ("path", "query", "field"),
    [
        ("/AidboxTask", {"subject": "Patient/1"}, "query.subject"),
        ("/AidboxTask", {"_count": "-1"}, "query._count"),
        ("/AidboxTask", {".status": "asleep"}, "query..status"),
        ("/AidboxWorkflow", {".status": "ready"}, "query..status"),
        ("/AidboxWorkflow", {"definition": "a b"}, "query.definition[0]"),
    ],
)
def test_a_count_refuses_what_it_does_not_know(
    running: ServiceCluster, path: str, query: dict[str, str], field: str
) -> None:
    status, found = Rpc(running.address("gateway")).get(path, query)
    assert (status, found["error"]["data"]["field"]) == (400, field)


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


@pytest.mark.feature("S4.6", "S2.9")
def test_a_task_over_a_quota_of_waiting_jobs_is_refused_with_when_to_come_again(rpc: Rpc, tf: TaskFlow) -> None:
    space = f"narrow-{rpc.kind.partition('/')[2]}"
    tf.namespaces.create(space, quota_waiting_jobs=1)
    tf.tasks.create(f"{space}/task", queue=f"{space}/q")
    new(rpc, f"{space}/task")

    error = refused(lambda: new(rpc, f"{space}/task"))

    assert (error.status, error.error["code"], error.reason) == (429, "RESOURCE_EXHAUSTED", "QUOTA_WAITING_JOBS")
    assert int(error.headers["retry-after"]) == 1


@pytest.mark.feature("S2.6")
def test_the_time_outs_are_settings_of_the_task_and_of_a_job(rpc: Rpc, tf: TaskFlow, name: str) -> None:
    tf.tasks.create(name, requested_timeout=60, in_progress_timeout=600)
    assert tf.tasks.get(name).in_progress_timeout == 600
    new(rpc, name)
    task = rpc.take(name)
    tf.advance_clock(50)
    rpc.of("start", task)
    tf.advance_clock(500, step=50)
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
