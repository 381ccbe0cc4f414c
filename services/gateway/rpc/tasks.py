"""What users ask of tasks: create-and-execute, status, cancel, list."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from services.core.ids import is_uuid7
from services.gateway.errors import Failure
from services.gateway.gateway import Gateway
from services.gateway.rpc import resource
from services.gateway.rpc.definitions import Definitions
from services.gateway.rpc.formats import from_json, to_json
from services.gateway.rpc.params import Params, bad, stored
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import tasks_pb2

OWN_ID = "rpc/"  # before an id that a client chose: the job's idempotency key
CANCEL_PATIENCE = 2  # seconds until a cancel is answered with a job that is not final yet
PAGE = 1000  # jobs of one call
MOST = 10_000  # jobs that a list looks at
MAX_COUNT = 1000
DEFAULT_COUNT = 100
MAX_LOG = 1000  # lines of a status

_STATES: dict[str, list[Any]] = {
    name: [s for s, n in resource.STATUS.items() if n == name] for name in resource.STATUS.values()
}
_OUTCOMES: dict[str, list[Any]] = {name: [state] for state, name in resource.OUTCOME.items()}
_ENDS = {
    pb.OUTCOME_SUCCEEDED: "succeeded",
    pb.OUTCOME_FAILED: "failed",
    pb.OUTCOME_TIMED_OUT: "timed-out",
    pb.OUTCOME_LOST: "in-progress-timeout",
    pb.OUTCOME_CANCELLED: "canceled",
    pb.OUTCOME_SNOOZED: "snoozed",
    pb.OUTCOME_RETURNED: "returned",
}
_FIELDS = {
    "job.payload": "params.params",
    "job.id": "params.id",
    "job.key": "params.id",
    "job.run_at": "params.executeAt",
    "job.options.label": "params.label",
    "job.options.requester": "params.requester",
}
_NOTIFIED = ("heartbeat", "progress")

Gone = Callable[[], Awaitable[None]]  # returns when the client has left


class Tasks:
    def __init__(self, gateway: Gateway, definitions: Definitions) -> None:
        self._upstream = gateway.upstream
        self._definitions = definitions

    # -- methods -----------------------------------------------------------------------------
    async def create(self, params: Params, gone: Gone) -> dict[str, Any]:
        request = tasks_pb2.RunTaskRequest(task=stored(params.wanted("definition"), "definition"))
        payload, requester = params.object("params"), params.object("requester")
        request.payload = to_json(payload) if payload is not None else b"{}"
        request.label = params.text("label")
        if requester:
            request.requester = to_json(requester)
        at = params.instant("executeAt")
        if at is not None:
            request.run_at.FromDatetime(at)
        _give_id(request, params.text("id", most=200))
        return {"resource": resource.of_job(await self._run(request))}

    async def _run(self, request: tasks_pb2.RunTaskRequest) -> pb.Job:
        """Its definition is registered by its first job."""
        run = self._upstream.tasks.RunTask
        try:
            return await self._upstream.call(run, request)
        except Failure as failure:
            if failure.reason != "TASK_NOT_FOUND":
                raise _named(failure) from None
        await self._definitions.register(request.task)
        try:
            return await self._upstream.call(run, request)
        except Failure as failure:
            raise _named(failure) from None

    async def status(self, params: Params, gone: Gone) -> dict[str, Any]:
        job = await self.get(await self.find(params.wanted("id")))
        found: dict[str, Any] = {"resource": resource.of_job(job)}
        if params.flag("include-log?"):
            found["log"] = await self._log(job)
        return found

    async def cancel(self, params: Params, gone: Gone) -> dict[str, Any]:
        job_id = await self.find(params.wanted("id"))
        try:
            await self._upstream.call(self._upstream.jobs.CancelJob, pb.CancelJobRequest(id=_shown(job_id)))
        except Failure as failure:
            if failure.reason != "JOB_FINISHED":
                raise
            words = f"params.id: task {params.wanted('id')[:80]} is done; there is nothing to cancel"
            raise Failure(422, failure.code, words, "params.id", "TASK_HAS_BEEN_DONE") from None
        wait = pb.AwaitJobRequest(id=_shown(job_id), timeout=Duration(seconds=CANCEL_PATIENCE))
        return {"resource": resource.of_job(await self._upstream.call(self._upstream.jobs.AwaitJob, wait))}

    async def listed(self, params: Params, gone: Gone) -> dict[str, Any]:
        filters = params.within("filter")
        names = [*params.names("definitions"), *filters.names("definitions")]
        states = states_of(params, filters, _STATES, _OUTCOMES)
        if states is None:
            return {"resources": [], "total": 0}
        count = params.whole("count", DEFAULT_COUNT, 1, MAX_COUNT)
        page = params.whole("page", 1, 1, MOST)
        jobs = await self._list(names, states)
        shown = jobs[(page - 1) * count : page * count]
        found: dict[str, Any] = {"resources": [resource.of_job(job, listed=True) for job in shown], "total": len(jobs)}
        if len(jobs) >= MOST:
            found["totalCapped"] = True
        return found

    async def _list(self, names: list[str], states: list[Any]) -> list[pb.Job]:
        """Newest first; up to MOST."""
        each = [[job async for job in self._jobs(name, states)] for name in dict.fromkeys(names) or [""]]
        return list(heapq.merge(*each, key=lambda job: job.id, reverse=True))[:MOST]

    async def _jobs(self, name: str, states: list[Any]) -> AsyncIterator[pb.Job]:
        request = pb.ListJobsRequest(task=name, states=states, page_size=PAGE)
        left = MOST
        while True:
            answer = await self._upstream.call(self._upstream.jobs.ListJobs, request)
            for job in answer.jobs:
                if job.task:
                    yield job
                    left -= 1
            request.page_token = answer.next_page_token
            if not request.page_token or left <= 0:
                return

    # -- one task ----------------------------------------------------------------------------
    async def find(self, id: str) -> bytes:
        """The job's id: `id` itself if it may be one, else that of the job which was made under it."""
        with suppress(ValueError):
            found = UUID(id).bytes
            if is_uuid7(found):
                return found
        return UUID((await self._keyed(id)).id).bytes

    async def get(self, job_id: bytes) -> pb.Job:
        return await self._upstream.call(self._upstream.jobs.GetJob, pb.GetJobRequest(id=_shown(job_id)))

    async def shown(self, job_id: bytes) -> dict[str, Any]:
        return {"resource": resource.of_job(await self.get(job_id))}

    async def _keyed(self, id: str) -> pb.Job:
        try:
            return await self._upstream.call(self._upstream.jobs.GetJob, pb.GetJobRequest(key=OWN_ID + id[:200]))
        except Failure as failure:
            if failure.code != "NOT_FOUND":
                raise
            words = f"params.id: there is no task {id[:80]!r}"
            raise Failure(404, failure.code, words, "params.id", "TASK_NOT_FOUND") from None

    async def _log(self, job: pb.Job) -> list[dict[str, Any]]:
        """What happened and what was said, in order of time."""
        attempts = await self._upstream.call(self._upstream.jobs.ListAttempts, pb.ListAttemptsRequest(job_id=job.id))
        lines = await self._upstream.call(
            self._upstream.jobs.ListJobLogs, pb.ListJobLogsRequest(job_id=job.id, page_size=MAX_LOG)
        )
        said: dict[int, Timestamp] = {}  # by attempt, its first line
        for line in lines.logs:
            said.setdefault(line.attempt, line.time)
        found = [(job.create_time, _event("created"))]
        for attempt in attempts.attempts:
            present = attempt.exec_id == job.exec_id and job.state == pb.JOB_STATE_RUNNING
            started = job if present else attempt
            if started.HasField("start_time"):
                # A start is counted back from the end, a line is dated when it comes: a millisecond may lie between.
                at = min(started.start_time, said.get(attempt.number, started.start_time), key=_microseconds)
                found.append((at, _event("started", attempt.exec_id)))
            if attempt.outcome:
                found.append((attempt.finish_time, _event(_ENDS[attempt.outcome], attempt.exec_id)))
        found += [(line.time, _said(line)) for line in lines.logs]
        found.sort(key=lambda entry: _microseconds(entry[0]))
        return [{**entry, "re-time": resource.instant(at)} for at, entry in found]


def _microseconds(at: Timestamp) -> int:
    return at.ToMicroseconds()


def _event(name: str, exec_id: str = "") -> dict[str, Any]:
    return {"event": f"awf.task.event/{name}"} | ({"execId": exec_id} if exec_id else {})


def _said(line: pb.JobLog) -> dict[str, Any]:
    if line.level not in _NOTIFIED:
        return {"level": line.level, "message": line.message}
    found: dict[str, Any] = {"notification": f"awf.task/{line.level}"}
    told: Any = {"message": line.message} if line.message else {}
    if line.level == "progress":
        with suppress(ValueError):
            told = from_json(line.message.encode())
    return found | told if isinstance(told, dict) else found


def states_of(
    params: Params, filters: Params, of_status: dict[str, list[Any]], of_outcome: dict[str, list[Any]]
) -> list[Any] | None:
    """What `status` and `outcome` ask for together: none of them when all, None when nothing can be both."""
    found: list[list[Any]] = []
    for field, known in (("status", of_status), ("outcome", of_outcome)):
        names = [*params.texts(field), *filters.texts(field)]
        for name in names:
            if name not in known:
                raise bad(field, f"{name[:80]!r} is none of {', '.join(known)}")
        if names:
            found.append([state for name in dict.fromkeys(names) for state in known[name]])
    if len(found) == 2:
        return [state for state in found[1] if state in found[0]] or None
    return found[0] if found else []


def _named(failure: Failure) -> Failure:
    """With the names that a caller of ours knows."""
    ours = _FIELDS.get(failure.field)
    if ours is None:
        return failure
    words = failure.message.replace(failure.field, ours)
    return Failure(failure.status, failure.code, words, ours, failure.reason, failure.retry_after)


def _give_id(request: tasks_pb2.RunTaskRequest, id: str) -> None:
    """A UUIDv7 is the job's own id. Anything else is its idempotency key, and shown as its id."""
    try:
        own = UUID(id).bytes
    except ValueError:
        own = b""
    if is_uuid7(own):
        request.job_id = own
    elif "\0" in id:
        raise bad("id", "may not hold the character NUL")
    elif id:
        request.key = OWN_ID + id
        request.metadata[resource.GIVEN_ID] = id


def _shown(job_id: bytes) -> str:
    return str(UUID(bytes=job_id))
