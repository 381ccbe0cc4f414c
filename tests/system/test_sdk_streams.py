"""Calls that follow each other go on a stream: schedulers that know none, streams at rest, and those that are cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest

from taskflow import TaskFlow
from taskflow._jobs import stream
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import jobs_pb2_grpc
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually


class Scheduler(jobs_pb2_grpc.JobServiceServicer):
    """Takes every job and keeps none. As one of an earlier version it knows no streams."""

    def __init__(self, streams: bool) -> None:
        self.calls = self.messages = self.opened = self.ended = 0
        self._streams = streams

    def CreateJobs(self, request: pb.CreateJobsRequest, context: Any) -> pb.CreateJobsResponse:
        self.calls += 1
        return pb.CreateJobsResponse(ids=[job.id for job in request.jobs])

    def StreamCreateJobs(self, requests: Any, context: Any) -> Iterator[pb.CreateJobsResponse]:
        self.opened += 1
        if not self._streams:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        for request in requests:
            self.messages += 1
            yield pb.CreateJobsResponse(ids=[job.id for job in request.jobs])
        self.ended += 1


@contextmanager
def serving(scheduler: Scheduler) -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(4))
    jobs_pb2_grpc.add_JobServiceServicer_to_server(scheduler, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


@pytest.mark.feature("X.4")
def test_the_first_call_is_a_call_and_those_that_follow_go_on_one_stream() -> None:
    scheduler = Scheduler(streams=True)

    with serving(scheduler) as address, TaskFlow(address) as tf:
        ids = {tf.new_job("q", n).id for n in range(20)}

    assert len(ids) == 20
    assert (scheduler.calls, scheduler.opened, scheduler.messages) == (1, 1, 19)


@pytest.mark.feature("X.4")
def test_a_scheduler_of_an_earlier_version_is_seldom_asked_for_a_stream() -> None:
    scheduler = Scheduler(streams=False)

    with serving(scheduler) as address, TaskFlow(address) as tf:
        ids = {tf.new_job("q", n).id for n in range(20)}

    assert len(ids) == 20
    assert (scheduler.calls, scheduler.opened) == (20, 1)


def test_a_stream_at_rest_is_ended_and_the_next_call_opens_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "IDLE", 0.1)
    scheduler = Scheduler(streams=True)

    with serving(scheduler) as address, TaskFlow(address) as tf:
        for n in range(3):
            tf.new_job("q", n)
        eventually(lambda: scheduler.ended == 1)
        tf.new_job("q", 3)

        assert (scheduler.calls, scheduler.opened, scheduler.messages) == (1, 2, 3)


def test_callers_on_streams_and_a_scheduler_that_comes_and_goes_make_each_job_once(cluster: ServiceCluster) -> None:
    made: list[str] = []
    enough = threading.Event()

    with TaskFlow(cluster.scheduler_address, timeout=30) as tf:

        def call() -> None:
            while not enough.is_set():
                made.append(tf.new_job("streamed").id)

        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        eventually(lambda: len(made) > 50)
        cluster.restart("scheduler")
        now = len(made)
        eventually(lambda: len(made) > now + 50)
        cluster.kill("scheduler")
        cluster.start("scheduler")
        now = len(made)
        eventually(lambda: len(made) > now + 50)
        enough.set()
        for caller in callers:
            caller.join()
        there = [job.id for job in tf.jobs.list(queue="streamed")]

    assert sorted(there) == sorted(made)
    assert len(set(made)) == len(made)
