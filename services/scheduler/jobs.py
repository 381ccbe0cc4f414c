"""JobService: converts requests and rows; decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import jobs_pb2_grpc
from taskflow_server.core import ids
from taskflow_server.core.errors import FailedPrecondition, InvalidArgument, TaskFlowFault
from taskflow_server.rpc.callers import actor_of
from taskflow_server.rpc.errors import CODES, retry_delay
from taskflow_server.rpc.streams import until_closing
from taskflow_server.rpc.values import patience, stamp
from taskflow_server.runtime import metrics
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.job_lists import JobLists, page_size
from taskflow_server.scheduler.job_reader import JobReader
from taskflow_server.scheduler.job_writer import JobWriter
from taskflow_server.scheduler.serving import Serving
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.unserved import add_warnings
from taskflow_server.scheduler.waits import Waits
from taskflow_server.store import jobs as store
from taskflow_server.store.database import Database

DEFAULT_WAIT = 60.0  # seconds


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        job_writer: JobWriter,
        reading: JobReader,
        lists: JobLists,
        coordinators: Coordinators,
        serving: Serving,
        closing: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._db = db
        self._job_writer = job_writer
        self._reader = reading
        self._lists = lists
        self._coordinators = coordinators
        self._serving = serving
        self._closing = closing
        self._streamed = metrics.rpc_seconds.labels("/taskflow.v1.JobService/StreamCreateJobs")

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.Job:
        (result,), _ = await self._job_writer.create([request.job], "job", partial=False)
        assert not isinstance(result, TaskFlowFault)
        return await self._reader.job(result.id)

    async def CreateJobs(self, request: pb.CreateJobsRequest, context: Any) -> pb.CreateJobsResponse:
        if not 1 <= len(request.jobs) <= self._settings.max_batch:
            raise InvalidArgument(
                f"jobs: {len(request.jobs)} jobs; a call may have 1 to {self._settings.max_batch}"
                " (TASKFLOW_MAX_BATCH); send more calls",
                "jobs",
            )
        results, stored_in = await self._job_writer.create(request.jobs, "jobs[{}]", partial=request.allow_partial)
        answer = pb.CreateJobsResponse()
        answer.ids.extend([
            spec.id if isinstance(result, TaskFlowFault) else result.id
            for spec, result in zip(request.jobs, results, strict=True)
        ])  # fmt: skip
        for index, result in enumerate(results):
            if isinstance(result, TaskFlowFault):
                answer.errors.append(_item_error(index, result))
            elif not result.tx and result.id != request.jobs[index].id:
                answer.existing.append(index)
        warnings = await self._serving.warnings((lane.queue, lane.task) for lane in stored_in)
        if warnings:
            add_warnings(answer, request.jobs, results, warnings, stored_in)
        return answer

    async def StreamCreateJobs(
        self, requests: AsyncIterator[pb.CreateJobsRequest], context: Any
    ) -> AsyncIterator[pb.CreateJobsResponse]:
        async for request in until_closing(requests, self._closing):
            with self._streamed.time():
                answer = await self.CreateJobs(request, context)
            yield answer

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.Job:
        if request.key:
            return await self._reader.job(await self._reader.keyed(request.key))
        return await self._reader.job(ids.parse(request.id, field="id"))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        return await self._lists.page(request)

    async def AwaitJob(self, request: pb.AwaitJobRequest, context: Any) -> pb.Job:
        job_id = ids.parse(request.id, field="id")
        timeout = DEFAULT_WAIT
        if request.HasField("timeout"):
            timeout = patience(request.timeout, "timeout", self._settings.max_wait)
        return await self._reader.await_final(job_id, timeout)

    async def StreamAwaitJobs(
        self, requests: AsyncIterator[pb.StreamAwaitJobsRequest], context: Any
    ) -> AsyncIterator[pb.StreamAwaitJobsResponse]:
        waits = Waits(self._db, self._coordinators, self._serving, self._settings.max_stream_waits)
        async with aclosing(waits.answers(until_closing(requests, self._closing))) as answers:
            async for answer in answers:
                yield answer

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        job_id = ids.parse(request.id, field="id")
        await self._reader.row(job_id)
        reason = request.reason.replace("\0", "")[:1000]
        actor = actor_of(request.actor, context)
        async with self._reader.watching(job_id) as final:
            if not await self._db.rows("request_cancel", id=UUID(bytes=job_id), reason=reason, actor=actor):
                raise FailedPrecondition(f"job {request.id} is finished and cannot be cancelled", "JOB_FINISHED")
            await self._coordinators.wake(job_id)
            return pb.CancelJobResponse(job=await self._reader.cancelled(job_id, final))

    async def RetryJob(self, request: pb.RetryJobRequest, context: Any) -> pb.Job:
        job_id = ids.parse(request.id, field="id")
        await self._reader.row(job_id)
        for row in await self._db.rows("run_of_job", id=UUID(bytes=job_id)):
            raise FailedPrecondition(
                f"job {request.id} is of the run {row['run_id']}, which this would not resume; retry the run instead: "
                f"taskflow workflow retry {row['run_id']}",
                "JOB_OF_A_RUN",
            )
        if not await store.retry_by_hand(self._db, job_id, actor_of(request.actor, context)):
            raise FailedPrecondition(
                f"job {request.id} is not finished; only a succeeded, failed or cancelled job is retried by hand",
                "JOB_NOT_FINISHED",
            )
        await self._coordinators.wake(job_id)
        return await self._reader.job(job_id)

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:
        job_id = ids.parse(request.job_id, field="job_id")
        return pb.ListAttemptsResponse(attempts=await self._reader.attempts(job_id))

    async def ListJobLogs(self, request: pb.ListJobLogsRequest, context: Any) -> pb.ListJobLogsResponse:
        job_id = ids.parse(request.job_id, field="job_id")
        size, after = page_size(request.page_size), _sequence(request.page_token)
        await self._reader.row(job_id)
        rows = await self._db.rows("list_logs", job_id=UUID(bytes=job_id), after=after, limit=size + 1)
        logs = [
            pb.JobLog(attempt=r["attempt"], time=stamp(r["logged_at"]), level=r["level"], message=r["message"])
            for r in rows[:size]
        ]
        return pb.ListJobLogsResponse(logs=logs, next_page_token=str(rows[size - 1]["seq"]) if len(rows) > size else "")


def _sequence(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidArgument("page_token: is not a valid token of this method", "page_token")
    return int(token or 0)


def _item_error(index: int, fault: TaskFlowFault) -> pb.ItemError:
    return pb.ItemError(
        index=index,
        code=CODES[type(fault)],
        message=fault.message,
        field=getattr(fault, "field", ""),
        reason=getattr(fault, "reason", ""),
        metadata=getattr(fault, "metadata", None),
        retry_delay=retry_delay(fault),
    )
