"""JobService: translates; does not think."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from services.core import ids
from services.core.errors import FailedPrecondition, InvalidArgument, TaskFlowFault
from services.rpc.errors import CODES
from services.rpc.streams import until_closing
from services.rpc.values import seconds, stamp
from services.runtime import metrics
from services.scheduler.coordinators import Coordinators
from services.scheduler.intake import Intake
from services.scheduler.lists import Lists, page_size
from services.scheduler.reading import Reading
from services.scheduler.settings import SchedulerSettings
from services.store import jobs as store
from services.store.database import Database
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import jobs_pb2_grpc

MAX_AWAIT = 300.0


class JobServicer(jobs_pb2_grpc.JobServiceServicer):
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        intake: Intake,
        reading: Reading,
        lists: Lists,
        coordinators: Coordinators,
        closing: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._db = db
        self._intake = intake
        self._reading = reading
        self._lists = lists
        self._coordinators = coordinators
        self._closing = closing
        self._streamed = metrics.rpc_seconds.labels("/taskflow.v1.JobService/StreamCreateJobs")

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.Job:
        result = (await self._intake.create([request.job], "job", partial=False))[0]
        assert not isinstance(result, TaskFlowFault)
        return await self._reading.job(result.id)

    async def CreateJobs(self, request: pb.CreateJobsRequest, context: Any) -> pb.CreateJobsResponse:
        if not 1 <= len(request.jobs) <= self._settings.max_batch:
            raise InvalidArgument(
                f"jobs: {len(request.jobs)} of them; a call may bring 1 to {self._settings.max_batch}"
                " (TASKFLOW_MAX_BATCH); send more calls",
                "jobs",
            )
        results = await self._intake.create(request.jobs, "jobs[{}]", partial=request.allow_partial)
        answer = pb.CreateJobsResponse()
        for index, (spec, result) in enumerate(zip(request.jobs, results, strict=True)):
            if isinstance(result, TaskFlowFault):
                answer.errors.append(_item_error(index, result))
                answer.ids.append(spec.id)
                continue
            answer.ids.append(result.id)
            if not result.tx and result.id != spec.id:
                answer.existing.append(index)
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
            return await self._reading.job(await self._reading.keyed(request.key))
        return await self._reading.job(ids.parse(request.id, field="id"))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        return await self._lists.page(request)

    async def AwaitJob(self, request: pb.AwaitJobRequest, context: Any) -> pb.Job:
        timeout = seconds(request.timeout, "timeout") if request.HasField("timeout") else 60.0
        return await self._reading.await_final(ids.parse(request.id, field="id"), min(timeout, MAX_AWAIT))

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        job_id = ids.parse(request.id, field="id")
        await self._reading.row(job_id)
        reason = request.reason.replace("\0", "")[:1000]
        async with self._reading.watching(job_id) as final:
            if not await self._db.rows("request_cancel", id=UUID(bytes=job_id), reason=reason):
                raise FailedPrecondition(f"job {request.id} is finished; nothing is left to cancel", "JOB_FINISHED")
            await self._coordinators.wake(None, job_id)
            return pb.CancelJobResponse(job=await self._reading.cancelled(job_id, final))

    async def RetryJob(self, request: pb.RetryJobRequest, context: Any) -> pb.Job:
        job_id = ids.parse(request.id, field="id")
        await self._reading.row(job_id)
        if not await store.retry_by_hand(self._db, job_id):
            raise FailedPrecondition(
                f"job {request.id} is not finished; only a succeeded, failed or cancelled job is retried by hand",
                "JOB_NOT_FINISHED",
            )
        await self._coordinators.wake(None, job_id)
        return await self._reading.job(job_id)

    async def ListAttempts(self, request: pb.ListAttemptsRequest, context: Any) -> pb.ListAttemptsResponse:
        job_id = ids.parse(request.job_id, field="job_id")
        return pb.ListAttemptsResponse(attempts=await self._reading.attempts(job_id))

    async def ListJobLogs(self, request: pb.ListJobLogsRequest, context: Any) -> pb.ListJobLogsResponse:
        job_id = ids.parse(request.job_id, field="job_id")
        size, after = page_size(request.page_size), _sequence(request.page_token)
        await self._reading.row(job_id)
        rows = await self._db.rows("list_logs", job_id=UUID(bytes=job_id), after=after, limit=size + 1)
        logs = [
            pb.JobLog(attempt=r["attempt"], time=stamp(r["logged_at"]), level=r["level"], message=r["message"])
            for r in rows[:size]
        ]
        return pb.ListJobLogsResponse(logs=logs, next_page_token=str(rows[size - 1]["seq"]) if len(rows) > size else "")


def _sequence(token: str) -> int:
    if token and not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidArgument("page_token: not one that this method gave out", "page_token")
    return int(token or 0)


def _item_error(index: int, fault: TaskFlowFault) -> pb.ItemError:
    return pb.ItemError(
        index=index,
        code=CODES[type(fault)],
        message=fault.message,
        field=getattr(fault, "field", ""),
        reason=getattr(fault, "reason", ""),
    )
