"""`POST /rpc` as HTTP: formats asked for and given, what is no call, what is too much, statuses (R25)."""

from __future__ import annotations

import http.client
import json
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import yaml

from taskflow import TaskFlow
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.rpc import JSON, YAML, Refused, Rpc
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("R25", "S2.1")


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    few = {"TASKFLOW_LONG_POLLS": "2", "TASKFLOW_CALL_TIMEOUT": "3"}
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"gateway": few})
    cluster.start_all()
    return cluster


@pytest.fixture
def rpc(running: ServiceCluster) -> Rpc:
    return Rpc(running.address("gateway"))


@pytest.fixture
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


POLL = {"method": "awf.task/poll", "params": {"taskDefinitions": ["a"]}}


@pytest.mark.parametrize(
    ("body", "sent", "accept", "answered"),
    [
        (json.dumps(POLL), "application/json", "", JSON),
        (json.dumps(POLL), "application/json; charset=utf-8", "*/*", JSON),
        (json.dumps(POLL), "application/json", "text/yaml", YAML),
        (yaml.safe_dump(POLL), "text/yaml", "", YAML),
        (yaml.safe_dump(POLL), "application/yaml", "text/html, */*", YAML),
        (yaml.safe_dump(POLL), "text/yaml", "application/json", JSON),
    ],
)
def test_a_call_is_read_by_its_content_type_and_answered_by_what_it_accepts(
    rpc: Rpc, body: str, sent: str, accept: str, answered: str
) -> None:
    status, headers, answer = rpc.send(body.encode(), {"content-type": sent} | ({"accept": accept} if accept else {}))
    assert (status, headers["content-type"].partition(";")[0]) == (200, answered)
    assert (json.loads if answered == JSON else yaml.safe_load)(answer) == {"result": {"resources": []}}


@pytest.mark.parametrize(
    ("body", "sent", "status", "reason"),
    [
        (b"", JSON, 400, "BAD_BODY"),
        (b"{", JSON, 400, "BAD_BODY"),
        (b"[]", JSON, 400, "BAD_CALL"),
        (b'"awf.task/poll"', JSON, 400, "BAD_CALL"),
        (b"{}", JSON, 400, "BAD_CALL"),
        (b'{"method": 7}', JSON, 400, "BAD_CALL"),
        (b'{"method": "awf.task/poll", "params": []}', JSON, 400, "BAD_CALL"),
        (b'{"method": "awf.task/poll"}', JSON, 400, "NO_DEFINITIONS"),
        (b"a: [", YAML, 400, "BAD_BODY"),
        (b"[" * 200_000, YAML, 400, "BAD_BODY"),
        (b"[" * 200_000, JSON, 400, "BAD_BODY"),
        (json.dumps(POLL).encode(), "text/plain", 415, "UNSUPPORTED_CONTENT_TYPE"),
        (json.dumps(POLL).encode(), "application/x-www-form-urlencoded", 415, "UNSUPPORTED_CONTENT_TYPE"),
        (b"a: b\n" * 500_000, YAML, 413, "TOO_LARGE"),
        (b"{" + b" " * (5 << 20) + b"}", JSON, 413, "TOO_LARGE"),
    ],
)
def test_what_is_no_call_is_told_so(rpc: Rpc, body: bytes, sent: str, status: int, reason: str) -> None:
    answered, headers, answer = rpc.send(body, {"content-type": sent})
    error = (yaml.safe_load if headers["content-type"].startswith(YAML) else json.loads)(answer)["error"]
    assert (answered, error["data"]["reason"]) == (status, reason)
    assert error["code"] and error["type"] and len(error["message"]) < 500
    assert rpc(POLL["method"], POLL["params"]) == {"resources": []}  # type: ignore[arg-type]


def test_a_method_that_is_not_there_is_told_with_those_that_are(rpc: Rpc) -> None:
    for method in ("awf.task/nothing", "task/poll", "poll", "", "awf.awf.task/poll"):
        with pytest.raises(Refused) as caught:
            rpc(method)
        assert (caught.value.status, caught.value.error["code"]) == (404, "NOT_FOUND")
        for known in ("poll", "long-poll", "start", "notify", "success", "fail", "create-and-execute", "list"):
            assert f"awf.task/{known}" in caught.value.error["message"]


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_only_a_post_is_a_call(running: ServiceCluster, method: str) -> None:
    connection = http.client.HTTPConnection(running.address("gateway"), timeout=10)
    connection.request(method, "/rpc", json.dumps(POLL), {"content-type": JSON})
    assert connection.getresponse().status == 405
    connection.close()


def test_more_long_polls_than_are_held_are_told_to_come_again(rpc: Rpc) -> None:
    """Two are held here, whichever of three arrives first."""
    wait: dict[str, Any] = {"taskDefinitions": ["many"], "timeout": 60_000}

    def told() -> Refused | None:
        try:
            rpc("awf.task/long-poll", wait | {"timeout": 1})
        except Refused as refused:
            return refused
        return None

    with ExitStack() as held:
        calls = [held.enter_context(rpc.begin("awf.task/long-poll", **wait)) for _ in range(3)]
        (answered,), _, _ = select.select(calls, [], [], 10)
        assert answered.recv(65_536).startswith(b"HTTP/1.1 429 ")

        refused = told()
        assert refused is not None
        assert (refused.status, refused.reason, refused.headers["retry-after"]) == (429, "TOO_MANY_LONG_POLLS", "1")
        assert rpc("awf.task/poll", taskDefinitions=["many"]) == {"resources": []}
    eventually(lambda: told() is None)


def test_payloads_of_any_type_and_size_come_as_they_are(rpc: Rpc, tf: TaskFlow) -> None:
    """From the SDK, which knows more types than objects."""
    sent = [{"a": [1, 2.5, None, "ü \u0000"]}, [1], "text", 10**40, None, b"\x00\xff"]
    for payload in sent:
        tf.new_job("default", payload, task="payloads")
    tasks: list[Any] = []

    def all_there() -> bool:
        tasks.extend(rpc("awf.task/poll", taskDefinitions=["payloads"], maxBatchSize=10)["resources"])
        return len(tasks) == len(sent)

    eventually(all_there)
    assert [task["params"] for task in tasks] == [*sent[:4], {}, "AP8="]

    with pytest.raises(Refused) as caught:
        rpc("awf.task/create-and-execute", definition="payloads", params={"a": "x" * (1 << 20)})
    assert (caught.value.status, caught.value.error["data"]["field"]) == (413, "params.params")


def test_without_a_scheduler_or_a_coordinator_it_is_unavailable_and_says_for_how_long(
    running: ServiceCluster, rpc: Rpc
) -> None:
    rpc("awf.task/poll", taskDefinitions=["away"])
    for name, call in (
        ("scheduler", ("awf.task/status", {"id": "x"})),
        ("coordinator", ("awf.task/start", {"id": "0198c0de-0000-7000-8000-000000000000", "execId": "x"})),
        ("queue", ("awf.task/poll", {"taskDefinitions": ["away"]})),
    ):
        running.kill(name)
        with pytest.raises(Refused) as caught:
            rpc(*call)
        assert (caught.value.status, caught.value.error["code"]) == (503, "UNAVAILABLE")
        assert int(caught.value.headers["retry-after"]) >= 1
        running.start(name)
        running.wait_healthy(name)
