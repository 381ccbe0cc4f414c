"""Clients that leave, and services that go, in the middle of /rpc: nothing is lost, no try is used (S2.2, S2.6)."""

from __future__ import annotations

import random
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from taskflow import TaskFlow
from tests.support import rows
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.rpc import Refused, Rpc
from tests.support.waiting import eventually

CUTS = 60


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


@pytest.fixture
def rpc(running: ServiceCluster) -> Rpc:
    return Rpc(running.address("gateway"))


def new(rpc: Rpc, name: str) -> str:
    return str(rpc("awf.task/create-and-execute", definition=name)["resource"]["id"])


def done_by_one(rpc: Rpc, name: str, wanted: set[str]) -> dict[str, int]:
    """All that is wanted is taken, started and done by a client that stays; how many attempts each had before."""
    found: dict[str, int] = {}

    def all_done() -> bool:
        for task in rpc("awf.task/poll", taskDefinitions=[name], maxBatchSize=100)["resources"]:
            rpc.of("start", task)
            rpc.of("success", task)
            found[task["id"]] = task["retryCount"]
        return found.keys() >= wanted

    eventually(all_done, 40)
    return found


@pytest.mark.feature("S2.2", "R4")
def test_what_a_client_that_leaves_was_being_handed_is_back_within_its_requested_time_out(
    running: ServiceCluster, rpc: Rpc, tf: TaskFlow
) -> None:
    """The connection is cut while it waits, while the task is on its way to it, and when it has come."""
    rng = random.Random(2)
    jobs = set()
    for _ in range(CUTS):
        with rpc.begin("awf.task/long-poll", taskDefinitions=["leaving"], timeout=60_000) as connection:
            jobs.add(new(rpc, "leaving"))
            connection.settimeout(rng.choice([0.0001, 0.002, 0.005, 0.01, 0.05]))
            with suppress(TimeoutError):
                connection.recv(10)
            if rng.random() < 0.5:  # a reset instead of an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    tf.advance_clock(11)
    assert done_by_one(rpc, "leaving", jobs) == dict.fromkeys(jobs, 0)

    counted = "select count(*), max(attempt) from taskflow.attempts a join taskflow.jobs j on j.id = a.job_id"
    assert rows.found(running.dsn, f"{counted} where j.task = 'leaving'") == [(CUTS, 1)]


@pytest.mark.feature("S2.2")
def test_a_poll_that_was_left_takes_nothing(rpc: Rpc) -> None:
    """By the real clock: at once, not after the timeout."""
    for _ in range(20):
        rpc.begin("awf.task/long-poll", taskDefinitions=["left"], timeout=60_000).close()
    ids = {new(rpc, "left") for _ in range(20)}
    assert done_by_one(rpc, "left", ids).keys() == ids


@pytest.mark.feature("S2.2", "S2.6")
def test_with_a_gateway_killed_in_between_every_task_is_back(running: ServiceCluster, rpc: Rpc, tf: TaskFlow) -> None:
    waiting = [rpc.begin("awf.task/long-poll", taskDefinitions=["orphan"], timeout=60_000) for _ in range(10)]
    jobs = {tf.new_job("default", task="orphan").id for _ in range(10)}
    running.kill("gateway")
    for connection in waiting:
        connection.close()
    running.start("gateway")
    running.wait_healthy("gateway")

    tf.advance_clock(11)
    assert done_by_one(rpc, "orphan", jobs) == dict.fromkeys(jobs, 0)


@pytest.mark.feature("S2.3", "M.4")
@pytest.mark.parametrize("name", ["coordinator", "queue", "scheduler", "gateway"])
def test_an_executor_works_through_the_restart_of_each_service(
    running: ServiceCluster, rpc: Rpc, tf: TaskFlow, name: str
) -> None:
    """It repeats what is answered by 503, as it is told to, and connections that break."""

    def again(method: str, **params: object) -> dict[str, object]:
        found: list[dict[str, object]] = []

        def answered() -> bool:
            try:
                found.append(rpc(method, params))
            except Refused as refused:
                assert refused.status == 503 and int(refused.headers["retry-after"]) >= 1, refused
            except OSError:
                assert name == "gateway"
            return bool(found)

        eventually(answered, 60)
        return found[0]

    definition = f"restart-{name}"
    rpc("awf.task/poll", taskDefinitions=[definition])
    job = tf.new_job("default", {"n": 1}, task=definition)
    task = rpc.take(definition)
    rpc.of("start", task)

    running.kill(name, signal.SIGKILL)
    running.start(name)

    attempt = {"id": job.id, "execId": task["execId"]}
    again("awf.task/notify", notification="heartbeat", **attempt)
    ended = again("awf.task/success", result={"ok": True}, **attempt)["resource"]
    assert isinstance(ended, dict) and (ended["outcome"], ended["retryCount"]) == ("succeeded", 1)
    second = tf.new_job("default", {"n": 2}, task=definition)
    found = again("awf.task/long-poll", taskDefinitions=[definition], timeout=30_000)["resources"]
    assert isinstance(found, list) and [task["id"] for task in found] == [second.id]
    again("awf.task/start", id=second.id, execId=found[0]["execId"])
    running.wait_healthy(name)


def test_a_stop_of_the_gateway_answers_who_waits(running: ServiceCluster, rpc: Rpc) -> None:
    with rpc.begin("awf.task/long-poll", taskDefinitions=["stopping"], timeout=60_000) as connection:
        eventually(lambda: rpc("awf.task/poll", taskDefinitions=["stopping"]) == {"resources": []})
        assert running.stop("gateway") == 0
        assert b'{"result":{"resources":[]}}' in connection.recv(4096)
    running.start("gateway")
    running.wait_healthy("gateway")
