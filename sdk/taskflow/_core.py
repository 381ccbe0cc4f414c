"""What sync and async clients share: one I/O thread, its channels, and each call once, as a coroutine of its loop."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc.aio

from taskflow import _ids, errors
from taskflow._clock import SYSTEM, Clock, ClusterClock
from taskflow._create import Created, Creator, create_chunk
from taskflow._filters import JobFilter
from taskflow._io import IoThread
from taskflow._options import Seconds, check_name, seconds
from taskflow._resources import (
    AttemptInfo,
    JobInfo,
    JobState,
    LogInfo,
    QueueInfo,
    WorkerInfo,
    attempt_info,
    job_info,
    log_info,
    queue_info,
    worker_info,
)
from taskflow._transport import Transport, check_address, to_error
from taskflow.v1 import cluster_pb2, jobs_pb2, queues_pb2

if TYPE_CHECKING:
    from taskflow._tasks import Registry

DEFAULT_ADDRESS = "localhost:9003"
DEFAULT_TIMEOUT = 10.0
_LONGEST_ADVANCE = 600.0  # of the clock, in real seconds
_LONGEST_AWAIT = 60.0  # one AwaitJob; a wait repeats it


class Core:
    """`scheduler` and `queue` are host:port; `timeout` is the deadline of a call in seconds."""

    def __init__(
        self, scheduler: str | None, queue: str | None, timeout: float | None, clock: Clock | None = None
    ) -> None:
        self.scheduler = check_address(scheduler or os.environ.get("TASKFLOW_ADDRESS") or DEFAULT_ADDRESS, "scheduler")
        self.pinned_queue = check_address(queue, "queue") if queue else None
        self.timeout = seconds(timeout if timeout is not None else _default_timeout(), "timeout")
        self.clock: Clock = clock or ClusterClock()
        self.io = IoThread()
        self.registry: Registry | None = None
        self._transport: Transport | None = None
        self._creator: Creator | None = None

    @property
    def transport(self) -> Transport:
        """To be asked for on the I/O loop."""
        if self._transport is None:
            self._transport = Transport(self.scheduler, self.timeout)
        return self._transport

    @property
    def creator(self) -> Creator:
        """From any thread. Two made in a race do no harm: each job is in one of them."""
        io_loop = self.io.loop  # says so when this process was forked
        if self._creator is None:
            assert io_loop is not None
            self._creator = Creator(self.io, lambda: self.transport)
        return self._creator

    def close(self) -> None:
        self.io.close(self._close if self._transport is not None else None)

    async def _close(self) -> None:
        if self._creator is not None:
            await self._creator.close()
        await self.transport.close()

    # -- jobs --------------------------------------------------------------------------------------------------

    async def create_chunk(self, specs: list[jobs_pb2.JobSpec], first: int) -> list[Created]:
        return await create_chunk(self.transport, specs, first)

    async def get_job(self, job_id: str) -> JobInfo:
        t = self.transport
        return job_info(await t.call(t.jobs.GetJob, jobs_pb2.GetJobRequest(id=_ids.parse(job_id))))

    async def wait_job(self, job_id: str, timeout: float | None) -> JobInfo:
        """The finished job. DeadlineExceeded when `timeout` seconds have passed first."""
        t = self.transport
        deadline = None if timeout is None else SYSTEM.monotonic() + seconds(timeout, "timeout", zero=True)
        while True:
            left = _LONGEST_AWAIT if deadline is None else min(_LONGEST_AWAIT, max(deadline - SYSTEM.monotonic(), 0.0))
            request = jobs_pb2.AwaitJobRequest(id=_ids.parse(job_id))
            request.timeout.FromMilliseconds(int(left * 1000))
            job = job_info(await t.call(t.jobs.AwaitJob, request, timeout=left + self.timeout))
            if job.state.final:
                return job
            if deadline is not None and SYSTEM.monotonic() >= deadline:
                raise errors.DeadlineExceeded(
                    f"job {job.id} is {job.state} after {timeout:g} s; it goes on, wait again or ask for it later",
                    reason="NOT_FINISHED",
                )

    async def cancel_job(self, job_id: str, reason: str) -> JobInfo:
        t = self.transport
        request = jobs_pb2.CancelJobRequest(id=_ids.parse(job_id), reason=reason)
        return job_info((await t.call(t.jobs.CancelJob, request)).job)

    async def retry_job(self, job_id: str) -> JobInfo:
        t = self.transport
        return job_info(await t.call(t.jobs.RetryJob, jobs_pb2.RetryJobRequest(id=_ids.parse(job_id))))

    async def list_jobs(self, wanted: JobFilter, token: str) -> tuple[list[JobInfo], str]:
        t = self.transport
        page = await t.call(t.jobs.ListJobs, wanted.request(token))
        return [job_info(job) for job in page.jobs], page.next_page_token

    async def list_attempts(self, job_id: str) -> list[AttemptInfo]:
        t = self.transport
        answer = await t.call(t.jobs.ListAttempts, jobs_pb2.ListAttemptsRequest(job_id=_ids.parse(job_id)))
        return [attempt_info(attempt) for attempt in answer.attempts]

    async def list_logs(self, job_id: str, page_size: int, token: str) -> tuple[list[LogInfo], str]:
        t = self.transport
        request = jobs_pb2.ListJobLogsRequest(job_id=_ids.parse(job_id), page_size=page_size, page_token=token)
        page = await t.call(t.jobs.ListJobLogs, request)
        return [log_info(log) for log in page.logs], page.next_page_token

    # -- the clock -----------------------------------------------------------------------------------------------

    async def advance_clock(self, by: Seconds, step: Seconds) -> datetime:
        """Not repeated when it fails: it may have moved the clock."""
        request = cluster_pb2.AdvanceClockRequest()
        request.by.FromNanoseconds(int(seconds(by, "seconds") * 1e9))
        request.step.FromNanoseconds(int(seconds(step, "step") * 1e9))
        try:
            answer = await self.transport.cluster.AdvanceClock(request, timeout=_LONGEST_ADVANCE)
        except grpc.aio.AioRpcError as error:
            raise to_error(error, self.scheduler) from None
        return answer.now.ToDatetime(tzinfo=UTC)

    # -- queues and workers --------------------------------------------------------------------------------------

    async def get_queue(self, name: str) -> QueueInfo:
        t = self.transport
        return queue_info(await t.call(t.queues.GetQueue, queues_pb2.GetQueueRequest(name=check_name(name, "name"))))

    async def pause_queue(self, name: str, paused: bool) -> QueueInfo:
        t = self.transport
        name = check_name(name, "name")
        if paused:
            return queue_info(await t.call(t.queues.PauseQueue, queues_pb2.PauseQueueRequest(name=name)))
        return queue_info(await t.call(t.queues.ResumeQueue, queues_pb2.ResumeQueueRequest(name=name)))

    async def list_queues(self, page_size: int, token: str) -> tuple[list[QueueInfo], str]:
        t = self.transport
        request = queues_pb2.ListQueuesRequest(page_size=page_size, page_token=token)
        page = await t.call(t.queues.ListQueues, request)
        return [queue_info(queue) for queue in page.queues], page.next_page_token

    async def list_workers(self, page_size: int, token: str) -> tuple[list[WorkerInfo], str]:
        t = self.transport
        request = cluster_pb2.ListWorkersRequest(page_size=page_size, page_token=token)
        page = await t.call(t.cluster.ListWorkers, request)
        return [worker_info(worker) for worker in page.workers], page.next_page_token


def outcome_or_raise(job: JobInfo) -> JobInfo:
    """The job, if it succeeded; else JobFailed or JobCancelled."""
    if job.state is JobState.FAILED:
        why = job.error or "no error given"
        raise errors.JobFailed(f"job {job.id} failed in attempt {job.attempt}: {why}", job)
    if job.state is JobState.CANCELLED:
        raise errors.JobCancelled(f"job {job.id} was cancelled", job)
    return job


def _default_timeout() -> float:
    text = os.environ.get("TASKFLOW_TIMEOUT", "")
    try:
        return float(text) if text else DEFAULT_TIMEOUT
    except ValueError:
        raise errors.InvalidArgument(
            f"TASKFLOW_TIMEOUT: {text!r} is not a number of seconds", field="TASKFLOW_TIMEOUT"
        ) from None
