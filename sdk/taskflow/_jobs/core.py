"""The base of sync and async clients: one I/O thread, its channels, and each call as a coroutine of its loop."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import grpc.aio

from taskflow import errors
from taskflow._jobs.batching import Created, Creator, create_chunk
from taskflow._jobs.waits import Waits
from taskflow._messages import checks, ids
from taskflow._messages.filters import JobFilter
from taskflow._messages.jobs import attempt_info, job_info, log_info, queue_info, worker_info
from taskflow._messages.options import Seconds, check_name, seconds
from taskflow._policy import JobState
from taskflow._policy.keepalive import INTERVAL
from taskflow._transport.actor import actor
from taskflow._transport.channels import Transport, ask, check_address, to_error
from taskflow._transport.clock import Clock, ClusterClock
from taskflow._transport.io_thread import IoThread, was_closed
from taskflow._values.jobs import AttemptInfo, JobInfo, LogInfo, QueueInfo, WorkerInfo
from taskflow.v1 import cluster_pb2, jobs_pb2, queues_pb2

DEFAULT_ADDRESS = "localhost:9003"
DEFAULT_TIMEOUT = 10.0
_LONGEST_ADVANCE = 600.0  # of the clock, in real seconds


class Core:
    """`scheduler` and `queue` are host:port; `timeout` is the deadline of a call in seconds."""

    def __init__(
        self, scheduler: str | None, queue: str | None, timeout: float | None, clock: Clock | None = None
    ) -> None:
        named = "" if scheduler else os.environ.get("TASKFLOW_ADDRESS", "")
        what = "TASKFLOW_ADDRESS" if named else "scheduler"
        self.scheduler = check_address(named or scheduler or DEFAULT_ADDRESS, what)
        self.pinned_queue = check_address(queue, "queue") if queue else None
        if timeout is None:
            timeout = _from_environment("TASKFLOW_TIMEOUT", DEFAULT_TIMEOUT)
        self.timeout = seconds(timeout, "timeout")
        self.keepalive_interval = _from_environment("TASKFLOW_KEEPALIVE_INTERVAL", INTERVAL)
        self.clock: Clock = clock or ClusterClock()
        self.io = IoThread()
        self._transport: Transport | None = None
        self._creator: Creator | None = None
        self._waits: Waits | None = None

    @property
    def transport(self) -> Transport:
        """To be asked for on the I/O loop."""
        if self._transport is None:
            self._transport = Transport(self.scheduler, self.timeout, self.keepalive_interval)
        return self._transport

    @property
    def creator(self) -> Creator:
        """From any thread. Two made in a race do no harm: each job is in one of them."""
        io_loop = self.io.loop  # says so when this process was forked
        if self._creator is None:
            assert io_loop is not None
            self._creator = Creator(self.io, lambda: self.transport)
        return self._creator

    @property
    def waits(self) -> Waits:
        """To be asked for on the I/O loop."""
        if self._waits is None:
            self._waits = Waits(lambda: self.transport)
        return self._waits

    def close(self) -> None:
        self.io.close(self._close)

    async def _close(self) -> None:
        if self._creator is not None:
            await self._creator.close()
        if self._waits is not None:
            await self._waits.close()
        if self._transport is not None:
            await self._transport.close()

    # -- jobs --------------------------------------------------------------------------------------------------

    async def create_chunk(self, specs: list[jobs_pb2.JobSpec], first: int) -> list[Created]:
        return await create_chunk(self.transport, specs, first)

    async def get_job(self, job_id: str) -> JobInfo:
        t = self.transport
        return job_info(await t.call(t.jobs.GetJob, jobs_pb2.GetJobRequest(id=ids.parse(job_id))))

    async def wait_job(self, job_id: str, timeout: float | None) -> JobInfo:
        """The finished job. DeadlineExceeded when `timeout` seconds have passed first."""
        limit = None if timeout is None else seconds(timeout, "timeout", zero=True)
        job = await self.waits.job(ids.parse(job_id), limit)
        if not job.state.final:
            why = f": {job.warnings[0]}" if job.warnings else ""
            raise errors.DeadlineExceeded(
                f"job {job.id} is {job.state} after {limit:g} s{why}; it goes on, wait again or ask for it later",
                reason="NOT_FINISHED",
            )
        return job

    async def cancel_job(self, job_id: str, reason: str) -> JobInfo:
        t = self.transport
        said = checks.text(reason, "reason")
        request = jobs_pb2.CancelJobRequest(id=ids.parse(job_id), reason=said, actor=actor())
        return job_info((await t.call(t.jobs.CancelJob, request)).job)

    async def retry_job(self, job_id: str) -> JobInfo:
        t = self.transport
        request = jobs_pb2.RetryJobRequest(id=ids.parse(job_id), actor=actor())
        return job_info(await t.call(t.jobs.RetryJob, request))

    async def list_jobs(self, wanted: JobFilter, token: str) -> tuple[list[JobInfo], str]:
        t = self.transport
        page = await t.call(t.jobs.ListJobs, wanted.request(token))
        return [job_info(job) for job in page.jobs], page.next_page_token

    async def list_attempts(self, job_id: str) -> list[AttemptInfo]:
        t = self.transport
        answer = await t.call(t.jobs.ListAttempts, jobs_pb2.ListAttemptsRequest(job_id=ids.parse(job_id)))
        return [attempt_info(attempt) for attempt in answer.attempts]

    async def list_logs(self, job_id: str, page_size: int, token: str) -> tuple[list[LogInfo], str]:
        t = self.transport
        request = jobs_pb2.ListJobLogsRequest(
            job_id=ids.parse(job_id), page_size=checks.page_size(page_size), page_token=token
        )
        page = await t.call(t.jobs.ListJobLogs, request)
        return [log_info(log) for log in page.logs], page.next_page_token

    # -- the clock -----------------------------------------------------------------------------------------------

    async def advance_clock(self, by: Seconds, step: Seconds) -> datetime:
        """Not repeated when it fails: it may have moved the clock."""
        request = cluster_pb2.AdvanceClockRequest()
        request.by.FromNanoseconds(int(seconds(by, "seconds") * 1e9))
        request.step.FromNanoseconds(int(seconds(step, "step") * 1e9))
        try:
            answer = await ask(self.transport.cluster.AdvanceClock, request, _LONGEST_ADVANCE)
        except grpc.aio.UsageError:  # its channel is closed
            raise was_closed() from None
        except grpc.aio.AioRpcError as error:
            raise to_error(error, self.scheduler) from None
        return answer.now.ToDatetime(tzinfo=UTC)

    # -- queues and workers --------------------------------------------------------------------------------------

    async def get_queue(self, name: str) -> QueueInfo:
        t = self.transport
        return queue_info(await t.call(t.queues.GetQueue, queues_pb2.GetQueueRequest(name=check_name(name, "name"))))

    async def pause_queue(self, name: str) -> QueueInfo:
        t = self.transport
        request = queues_pb2.PauseQueueRequest(name=check_name(name, "name"))
        return queue_info(await t.call(t.queues.PauseQueue, request))

    async def resume_queue(self, name: str) -> QueueInfo:
        t = self.transport
        request = queues_pb2.ResumeQueueRequest(name=check_name(name, "name"))
        return queue_info(await t.call(t.queues.ResumeQueue, request))

    async def drain_queue(self, name: str) -> QueueInfo:
        t = self.transport
        request = queues_pb2.DrainQueueRequest(name=check_name(name, "name"))
        return queue_info(await t.call(t.queues.DrainQueue, request))

    async def list_queues(self, page_size: int, token: str) -> tuple[list[QueueInfo], str]:
        t = self.transport
        request = queues_pb2.ListQueuesRequest(page_size=checks.page_size(page_size), page_token=token)
        page = await t.call(t.queues.ListQueues, request)
        return [queue_info(queue) for queue in page.queues], page.next_page_token

    async def list_workers(self, page_size: int, token: str) -> tuple[list[WorkerInfo], str]:
        t = self.transport
        request = cluster_pb2.ListWorkersRequest(page_size=checks.page_size(page_size), page_token=token)
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


def _from_environment(name: str, default: float) -> float:
    text = os.environ.get(name, "")
    try:
        given = float(text) if text else default
    except ValueError:
        raise errors.InvalidArgument(f"{name}: {text!r} is not a number of seconds", field=name) from None
    return seconds(given, name)
