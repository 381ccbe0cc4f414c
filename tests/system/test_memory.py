"""Waiting jobs in memory have a total bound, which the lanes with work share, whatever their number and payloads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from taskflow import Job, TaskFlow
from taskflow.v1 import queue_pb2, queue_pb2_grpc
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually
from tests.support.workers import working

BUDGET = 1 << 20
PAYLOAD = "x" * 20_000
LOOK = 0.01  # seconds between looks
HOGS, EACH = 60, 3  # lanes with work that nobody takes: more of them than have room for one job
SETTINGS = {
    "coordinator": {"TASKFLOW_MEMORY_BYTES": str(BUDGET), "TASKFLOW_SWEEP_INTERVAL": "0.1"},
    "queue": {"TASKFLOW_MEMORY_BYTES": str(BUDGET)},
}


@pytest.fixture(scope="module")
def small(make_cluster: Callable[..., ServiceCluster]) -> Iterator[ServiceCluster]:
    cluster = make_cluster(env=SETTINGS)
    cluster.start_all()
    yield cluster


def stats(queue_service: Any) -> queue_pb2.StatsResponse:
    """The queue service's totals."""
    answer: queue_pb2.StatsResponse = queue_service.Stats(queue_pb2.StatsRequest(), timeout=TIMEOUT)
    time.sleep(LOOK)
    return answer


@pytest.fixture(scope="module")
def queue_service(small: ServiceCluster) -> Iterator[Any]:
    with Api(small.address("queue")) as api:
        yield queue_pb2_grpc.QueueServiceStub(api.channel)


@pytest.mark.feature("M.3")
def test_a_payload_that_the_queue_service_had_once_is_read_again_when_its_job_comes_back(small: ServiceCluster) -> None:
    with Api(small.scheduler_address) as api:
        with RawWorker(api, queues=["returned"]) as first:
            made = api.new("returned", payload=b'"again"')
            taken = first.poll()
        with RawWorker(api, queues=["returned"]) as second:
            again = eventually(lambda: second.poll(), 30)
            second.report(again[0].outcome())

    assert [handed.task.payload for handed in (*taken, *again)] == [b'"again"'] * 2
    assert {handed.task.job_id.hex() for handed in again} == {made.id.replace("-", "")}


@pytest.mark.feature("M.3", "S3.3")
def test_lanes_that_nobody_serves_stay_within_the_budget_and_leave_room_for_one_that_is(
    small: ServiceCluster, queue_service: Any
) -> None:
    starts: Counter[str] = Counter()
    seen: set[str] = set()
    most = 0
    with TaskFlow(small.scheduler_address) as tf:
        for n in range(HOGS):
            tf.new_jobs([{"queue": f"hog-{n}", "task": "hog", "payload": PAYLOAD} for _ in range(EACH)])
        eventually(lambda: stats(queue_service).memory_bytes > 0.7 * BUDGET)

        def served(job: Job) -> None:
            starts[job.id] += 1

        with working(tf, "served", served, concurrency=5):
            made = tf.new_jobs([{"queue": "served", "payload": PAYLOAD} for _ in range(20)])
            while any(not job.get().state.final for job in made):
                most = max(most, stats(queue_service).memory_bytes)
        deadline = time.monotonic() + 30
        while len(seen) < HOGS and time.monotonic() < deadline:
            answer = stats(queue_service)
            most = max(most, answer.memory_bytes)
            seen |= {lane.queue for lane in answer.lanes}

        @tf.task
        def hog(job: Job) -> None:
            starts[job.id] += 1

        with working(tf, concurrency=20):
            eventually(lambda: len(starts) == HOGS * EACH + 20, 40)

    assert most < BUDGET + 2 * len(PAYLOAD)
    assert seen == {f"hog-{n}" for n in range(HOGS)}, "each had its turn"
    assert set(starts.values()) == {1}
