"""Many waits at once, of one client: all on one stream. Long waits: one call's limit is not the caller's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import pytest

from taskflow import AsyncTaskFlow, DeadlineExceeded, Job, NotFound, TaskFlow
from taskflow._transport.channels import AT_ONCE
from taskflow.v1 import jobs_pb2, jobs_pb2_grpc, tasks_pb2, tasks_pb2_grpc, workflows_pb2, workflows_pb2_grpc
from tests.support.cluster import ServiceCluster
from tests.support.tier import size
from tests.support.waiting import eventually_async

WAITS = size(1_500, 10_000)
SOME = size(200, 10_000)
NOBODY = "01980000-0000-7000-8000-000000000000"


@pytest.mark.longer
@pytest.mark.feature("X.11", "C1")
async def test_many_waits_of_one_client_end_with_their_jobs(cluster: ServiceCluster) -> None:
    """Their stream breaks once, with its scheduler."""
    async with AsyncTaskFlow(cluster.scheduler_address) as tf:
        handles = await tf.new_jobs([("many", n) for n in range(WAITS)])
        waits = [asyncio.create_task(handle.wait(120)) for handle in handles]
        first = await asyncio.gather(*(handle.get() for handle in handles[:SOME]))
        await asyncio.to_thread(cluster.restart, "scheduler")

        running = asyncio.create_task(tf.run("many", echo, concurrency=100, signals=False))
        finished = await asyncio.gather(*waits)
        tf.stop()
        await running

        assert [job.payload for job in first] == list(range(SOME))
        assert [job.result for job in finished] == list(range(WAITS))


async def echo(job: Job) -> Any:
    return job.payload


class Busy(jobs_pb2_grpc.JobServiceServicer):
    """Holds calls until it is released. Drops the first for each job, as gRPC does when they come by the thousand."""

    def __init__(self) -> None:
        self.dropped: set[str] = set()
        self.now = self.most = 0
        self.released = asyncio.Event()

    async def GetJob(self, request: jobs_pb2.GetJobRequest, context: Any) -> jobs_pb2.Job:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.released.wait()
        self.now -= 1
        if request.id not in self.dropped:
            self.dropped.add(request.id)
            await context.abort(grpc.StatusCode.CANCELLED, "")
        return jobs_pb2.Job(id=request.id, state=jobs_pb2.JOB_STATE_READY)

    async def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: Any) -> jobs_pb2.CancelJobResponse:
        return jobs_pb2.CancelJobResponse()


async def test_calls_of_one_client_go_a_hundred_at_a_time_and_again_when_they_are_dropped() -> None:
    busy, server = Busy(), grpc.aio.server()
    jobs_pb2_grpc.add_JobServiceServicer_to_server(busy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ids = [str(UUID(int=n)) for n in range(3 * AT_ONCE)]

    async with AsyncTaskFlow(f"127.0.0.1:{port}") as tf, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as other:
        gets = asyncio.gather(*(tf.jobs.get(id) for id in ids))
        await eventually_async(lambda: busy.now >= AT_ONCE)
        for _ in range(20):  # while others are answered, no more of this client's come
            await jobs_pb2_grpc.JobServiceStub(other).CancelJob(jobs_pb2.CancelJobRequest())
        assert busy.most == AT_ONCE
        busy.released.set()
        found = await gets

    await server.stop(0)
    assert [job.id for job in found] == ids
    assert (busy.most, len(busy.dropped)) == (AT_ONCE, len(ids))


async def test_waits_for_one_job_end_each_at_its_own_time(cluster: ServiceCluster) -> None:
    async with AsyncTaskFlow(cluster.scheduler_address) as tf:
        job = await tf.new_job("slow", 1)
        patient = asyncio.create_task(job.wait(60))
        for timeout in (0, 0.05):
            said = f"job {job.id} is ready after {timeout} s: no live worker .* in queue 'slow'; it goes on"
            with pytest.raises(DeadlineExceeded, match=said) as short:
                await job.wait(timeout)
            assert short.value.reason == "NOT_FINISHED"
        with pytest.raises(NotFound, match="there is no job"):
            await tf.jobs.wait(NOBODY, 60)

        running = asyncio.create_task(tf.run("slow", echo, signals=False))

        assert (await patient).result == 1
        assert (await job.wait(0)).result == 1
        tf.stop()
        await running


@pytest.mark.feature("R21")
def test_a_wait_may_be_longer_than_one_call_may_wait(make_cluster: Callable[..., ServiceCluster]) -> None:
    cluster = make_cluster(env={"scheduler": {"TASKFLOW_MAX_WAIT": "0.1"}})
    cluster.start_all()
    with TaskFlow(cluster.scheduler_address) as tf:
        tf.tasks.create("report")
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"of task report is ready after 0\.4 s; it goes on"):
            tf.tasks.run_with_result("report", timeout=0.4)
        assert time.monotonic() - began >= 0.4

        (job,) = tf.jobs.list()
        for call in calls_that_wait(cluster.scheduler_address, job.id, timedelta(seconds=320)):
            with pytest.raises(grpc.RpcError) as refused:
                call()
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "320 s exceeds the limit of 0.1 s for one call (TASKFLOW_MAX_WAIT)" in refused.value.details()
        assert len(list(tf.jobs.list())) == 1


def calls_that_wait(address: str, job_id: str, patience: timedelta) -> list[Callable[[], Any]]:
    channel = grpc.insecure_channel(address)
    jobs = jobs_pb2_grpc.JobServiceStub(channel)
    tasks = tasks_pb2_grpc.TaskServiceStub(channel)
    workflows = workflows_pb2_grpc.WorkflowServiceStub(channel)
    return [
        lambda: jobs.AwaitJob(jobs_pb2.AwaitJobRequest(id=job_id, timeout=patience)),
        lambda: tasks.RunTaskWithResult(tasks_pb2.RunTaskWithResultRequest(task="report", timeout=patience)),
        lambda: workflows.GetRun(workflows_pb2.GetRunRequest(id=job_id, wait=patience)),
    ]


async def test_waits_beyond_the_limit_of_a_stream_are_refused(make_cluster: Callable[..., ServiceCluster]) -> None:
    cluster = make_cluster(env={"scheduler": {"TASKFLOW_MAX_STREAM_WAITS": "2"}})
    cluster.start_all()
    async with grpc.aio.insecure_channel(cluster.scheduler_address) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        for wrong, code, said in (
            ([b"short"], grpc.StatusCode.INVALID_ARGUMENT, "add: must be the 16 bytes of a UUID"),
            (
                [n.to_bytes(16, "big") for n in range(3)],
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "exceeds the limit of 2 for one stream (TASKFLOW_MAX_STREAM_WAITS)",
            ),
        ):
            stream = stub.StreamAwaitJobs()
            await stream.write(jobs_pb2.StreamAwaitJobsRequest(add=wrong))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                while await stream.read() is not grpc.aio.EOF:
                    pass
            assert refused.value.code() is code
            assert said in (refused.value.details() or "")
