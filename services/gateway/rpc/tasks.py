"""Users' requests about tasks: create-and-execute, status, cancel, list."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import tasks_pb2, workflows_pb2
from taskflow_server.core.ids import is_uuid7
from taskflow_server.core.workflow.builtin import is_wait, why_not
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.rpc import activities, resource, waits
from taskflow_server.gateway.rpc.definitions import Definitions
from taskflow_server.gateway.rpc.formats import from_json
from taskflow_server.gateway.rpc.listing import MOST, Wanted, select, wanted
from taskflow_server.gateway.rpc.params import Params

OWN_ID = "rpc/"  # before an id that a client chose: the job's idempotency key
CANCEL_PATIENCE = 2  # seconds until a cancel is answered with a job that is not final yet
PAGE = 1000  # jobs of one call
MAX_LOG = 1000  # lines of a status

STATES: dict[str, list[Any]] = {
    "created": [],  # a status that clients know, and that no task of TaskFlow has
    **{name: [s for s, n in resource.STATUS.items() if n == name] for name in resource.STATUS.values()},
}
OUTCOMES: dict[str, list[Any]] = {name: [state] for state, name in resource.OUTCOME.items()}
_ENDS = {  # event, and the action that it is a record of
    pb.OUTCOME_SUCCEEDED: ("succeeded", "success"),
    pb.OUTCOME_FAILED: ("failed", "fail"),
    pb.OUTCOME_TIMED_OUT: ("timed-out", "timeout"),
    pb.OUTCOME_LOST: ("in-progress-timeout", "in-progress-timeout"),
    pb.OUTCOME_CANCELLED: ("canceled", "cancel"),
    pb.OUTCOME_SNOOZED: ("snoozed", "snooze"),
    pb.OUTCOME_RETURNED: ("returned", "return"),
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
        definition = params.stored("definition", params.wanted("definition"))
        if is_wait(definition):
            return {"resource": resource.of_job(await self._wait(params))}
        if why := why_not(definition):
            raise params.bad("definition", why, "BUILT_IN")
        request = tasks_pb2.RunTaskRequest(task=definition)
        payload, requester = params.object("params"), params.object("requester")
        request.payload = params.json("params", payload) if payload is not None else b"{}"
        request.label = params.text("label")
        if requester:
            request.requester = params.json("requester", requester)
        at = params.instant("executeAt")
        if at is not None:
            request.run_at.FromDatetime(at)
        request.job_id, request.key, given = _given_id(params)
        request.metadata.update(given)
        return {"resource": resource.of_job(await self._run(request))}

    async def _wait(self, params: Params) -> pb.Job:
        spec = waits.spec_of(params)
        spec.payload = params.json("params", params.object("params"))
        spec.options.label = params.text("label")
        requester = params.object("requester")
        if requester:
            spec.options.requester = params.json("requester", requester)
        spec.id, spec.key, given = _given_id(params)
        spec.options.metadata.update(given)
        try:
            return await self._upstream.call(self._upstream.jobs.CreateJob, pb.CreateJobRequest(job=spec))
        except Failure as failure:
            raise _named(failure) from None

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
        activity = await self.activity(params.wanted("id"), "AidboxTask")
        if activity is not None:
            return {"resource": activity} | ({"log": []} if params.flag("include-log?") else {})
        job = await self.get(await self.find(params.wanted("id")))
        found: dict[str, Any] = {"resource": resource.of_job(job)}
        if params.flag("include-settings?"):
            found["settings"] = await self._settings(job.task)
        if params.flag("include-log?"):
            found["log"] = await self._log(job)
        return found

    async def _settings(self, name: str) -> dict[str, Any]:
        """The options of its definition, under the names that clients know; times in milliseconds."""
        try:
            task = await self._upstream.call(self._upstream.tasks.GetTask, tasks_pb2.GetTaskRequest(task=name))
        except Failure as failure:
            if failure.code != "NOT_FOUND":
                raise
            return {}
        options = task.options
        found = {"allowedRetryCount": task.retries}
        for ours, at in (
            ("requestedToStartTimeout", options.requested_timeout if options.HasField("requested_timeout") else None),
            ("inProgressTimeout", options.in_progress_timeout if options.HasField("in_progress_timeout") else None),
            ("retryDelay", options.backoff.first if options.HasField("backoff") else None),
        ):
            if at is not None:
                found[ours] = at.ToMilliseconds()
        return found

    async def cancel(self, params: Params, gone: Gone) -> dict[str, Any]:
        activity = await self.activity(params.wanted("id"), "AidboxTask")
        if activity is not None and activity["status"] != "done":
            words = "params.id: a wait of a decision ends by itself, or with its workflow; cancel that"
            raise Failure(422, "FAILED_PRECONDITION", words, "params.id", "WAIT_OF_A_WORKFLOW")
        if activity is not None:
            raise _done(params)
        job_id = await self.find(params.wanted("id"))
        try:
            request = pb.CancelJobRequest(id=_shown(job_id), actor=resource.ACTOR)
            await self._upstream.call(self._upstream.jobs.CancelJob, request)
        except Failure as failure:
            if failure.reason != "JOB_FINISHED":
                raise
            raise _done(params) from None
        wait = pb.AwaitJobRequest(id=_shown(job_id), timeout=Duration(seconds=CANCEL_PATIENCE))
        return {"resource": resource.of_job(await self._upstream.call(self._upstream.jobs.AwaitJob, wait))}

    async def listed(self, params: Params, gone: Gone) -> dict[str, Any]:
        asked = wanted(params, STATES, OUTCOMES)
        found = await asyncio.to_thread(select, await self.matching(asked), asked, _listed)
        if asked.settings:
            names = {task["definition"] for task in found["resources"]} - {resource.DECISION_TASK}
            found["settings"] = {name: await self._settings(name) for name in sorted(names)}
        return found

    async def matching(self, asked: Wanted) -> list[pb.Job]:
        """Newest first; up to MOST."""
        if asked.states is None:
            return []
        names = dict.fromkeys(asked.definitions)
        if not names or resource.DECISION_TASK in names:  # decisions are jobs of a task for each workflow
            names = {"": None}
        each = [[job async for job in self._jobs(name, asked)] for name in names]
        return list(heapq.merge(*each, key=lambda job: job.id, reverse=True))[:MOST]

    async def _jobs(self, name: str, asked: Wanted) -> AsyncIterator[pb.Job]:
        request = pb.ListJobsRequest(task=name, states=asked.states, page_size=PAGE)
        left = MOST
        while True:
            answer = await self._upstream.call(self._upstream.jobs.ListJobs, request)
            for job in answer.jobs:
                if job.task and asked.wants(resource.definition_of(job.task)):
                    yield job
                left -= 1
            request.page_token = answer.next_page_token
            if not request.page_token or left <= 0:
                return

    # -- one task ----------------------------------------------------------------------------
    async def activity(self, id: str, kind: str) -> dict[str, Any] | None:
        """The activity of a run's decision that is neither job nor run, if this is its id."""
        named = activities.parse(id)
        if named is None:
            return None
        request = workflows_pb2.GetRunRequest(id=named.run)
        try:
            run = await self._upstream.call(self._upstream.workflows.GetRun, request)
        except Failure as failure:
            if failure.code != "NOT_FOUND":
                raise
            return None
        found = [each for step in run.steps if step.name == named.name for each in activities.shown(run, step)]
        return next((each for each in found if each["resourceType"] == kind), None)

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
        """Events and log lines, in order of time."""
        attempts = await self._upstream.call(self._upstream.jobs.ListAttempts, pb.ListAttemptsRequest(job_id=job.id))
        lines = await self._upstream.call(
            self._upstream.jobs.ListJobLogs, pb.ListJobLogsRequest(job_id=job.id, page_size=MAX_LOG)
        )
        said: dict[int, Timestamp] = {}  # by attempt, its first line
        for line in lines.logs:
            said.setdefault(line.attempt, line.time)
        first = "waiting" if job.HasField("run_time") and not attempts.attempts else "ready"
        made = {"definition": resource.definition_of(job.task)}
        found = [(job.create_time, _event("created", _action("create-and-execute", made, None, first)))]
        for attempt in attempts.attempts:
            present = attempt.exec_id == job.exec_id and job.state == pb.JOB_STATE_RUNNING
            started = job if present else attempt
            if started.HasField("start_time"):
                # A start is counted back from the end, a line is dated when it comes: a millisecond may lie between.
                at = min(started.start_time, said.get(attempt.number, started.start_time), key=_microseconds)
                told = _action("start", {"execId": attempt.exec_id}, "requested", "in-progress")
                found.append((at, _event("started", told, attempt.exec_id)))
            if attempt.outcome:
                found.append((attempt.finish_time, _end(attempt)))
        found += [(line.time, _said(line)) for line in lines.logs]
        found.sort(key=lambda entry: _microseconds(entry[0]))
        subject = {"resourceType": "AidboxTask", "id": job.options.metadata.get(resource.GIVEN_ID, job.id)}
        return [{**entry, "subject": subject, "re-time": resource.instant(at)} for at, entry in found]


def _microseconds(at: Timestamp) -> int:
    return at.ToMicroseconds()


def _action(name: str, params: dict[str, Any], before: str | None, after: str) -> dict[str, Any]:
    """The action in a history record: the call or the timeout that caused it."""
    statuses = ({"status-before": before} if before else {}) | {"status-after": after}
    return {"action": f"awf.task/{name}", "action-params": params, **statuses}


def _event(name: str, action: dict[str, Any], exec_id: str = "") -> dict[str, Any]:
    return {"event": f"awf.task.event/{name}", **action} | ({"execId": exec_id} if exec_id else {})


def _end(attempt: pb.Attempt) -> dict[str, Any]:
    event, action = _ENDS[attempt.outcome]
    params = {"execId": attempt.exec_id} if attempt.exec_id else {}
    before = "in-progress" if attempt.HasField("start_time") else "requested" if attempt.exec_id else "ready"
    return _event(event, _action(action, params, before, "done" if attempt.final else "waiting"), attempt.exec_id)


def _said(line: pb.JobLog) -> dict[str, Any]:
    if line.level not in _NOTIFIED:
        return {"level": line.level, "message": line.message}
    told: Any = {"message": line.message} if line.message else {}
    if line.level == "progress":
        with suppress(ValueError):
            told = from_json(line.message.encode())
    found = {"notification": f"awf.task/{line.level}"} | (told if isinstance(told, dict) else {})
    return {**found, **_action("notify", found, "in-progress", "in-progress")}


def _listed(job: pb.Job) -> dict[str, Any]:
    return resource.of_job(job, listed=True)


def _done(params: Params) -> Failure:
    words = f"params.id: task {params.wanted('id')[:80]} is done; there is nothing to cancel"
    return Failure(422, "FAILED_PRECONDITION", words, "params.id", "TASK_HAS_BEEN_DONE")


def _named(failure: Failure) -> Failure:
    """The failure with the names of the executor protocol."""
    ours = _FIELDS.get(failure.field)
    if ours is None:
        return failure
    words = failure.message.replace(failure.field, ours)
    return Failure(failure.status, failure.code, words, ours, failure.reason, failure.retry_after)


def _given_id(params: Params) -> tuple[bytes, str, dict[str, str]]:
    """The job's own id, if a UUIDv7 is given; else its idempotency key, and metadata that shows it as the job's id."""
    id = params.text("id", most=200)
    try:
        own = UUID(id).bytes
    except ValueError:
        own = b""
    if is_uuid7(own):
        return own, "", {}
    if "\0" in id:
        raise params.bad("id", "may not hold the character NUL")
    return (b"", OWN_ID + id, {resource.GIVEN_ID: id}) if id else (b"", "", {})


def _shown(job_id: bytes) -> str:
    return str(UUID(bytes=job_id))
