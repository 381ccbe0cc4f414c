"""WorkflowService: documents and runs as resources. The owner of a run, a coordinator, decides its steps."""

from __future__ import annotations

import asyncio
import functools
import json
from collections import defaultdict
from contextlib import suppress
from typing import Any
from uuid import UUID

from taskflow._policy import PRIORITY_OF_RUN
from taskflow.v1 import jobs_pb2, workflows_pb2_grpc
from taskflow.v1 import workflows_pb2 as pb
from taskflow_server.core import ids
from taskflow_server.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from taskflow_server.core.names import qualify
from taskflow_server.core.workflow import (
    FINAL_RUNS,
    CancelRequested,
    Event,
    RetryRequested,
    RunState,
    RunStatus,
    Signal,
)
from taskflow_server.rpc.callers import actor_of
from taskflow_server.rpc.values import clean, options_to_json, patience, stamp
from taskflow_server.rpc.values import unfit as unfit_json
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.job_lists import page_size
from taskflow_server.scheduler.schedules import ScheduleServicer
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.unserved import Makers
from taskflow_server.store import runs as store
from taskflow_server.store import workflows
from taskflow_server.store.database import Database

PATIENCE = 2.0  # seconds that an event for a run waits for its owner
FIRST_LOOK, LONGEST_LOOK = 0.01, 0.2  # seconds between checks whether it was applied
MAX_LABEL = 200  # characters
MAX_SIGNAL = 64 << 10  # bytes
SHOWN_JOBS = 1_000  # limit for one run; the newest are shown
SHOWN_STEPS = 10_000  # limit for one run; a document has fewer
_LAST_ID = UUID(int=(1 << 128) - 1)
_LISTS = {  # (filters by workflow, filters by state)
    (False, False): "list_runs",
    (False, True): "list_runs_by_state",
    (True, False): "list_runs_of_workflow",
    (True, True): "list_runs_of_workflow_by_state",
}
_JSON = jobs_pb2.ENCODING_JSON
_OF_JOB = {
    jobs_pb2.JOB_STATE_SUCCEEDED: pb.STEP_STATE_SUCCEEDED,
    jobs_pb2.JOB_STATE_FAILED: pb.STEP_STATE_FAILED,
    jobs_pb2.JOB_STATE_CANCELLED: pb.STEP_STATE_CANCELLED,
}
_OF_RUN = {
    pb.RUN_STATE_SUCCEEDED: pb.STEP_STATE_SUCCEEDED,
    pb.RUN_STATE_FAILED: pb.STEP_STATE_FAILED,
    pb.RUN_STATE_CANCELLED: pb.STEP_STATE_CANCELLED,
}

Row = dict[str, Any]


class WorkflowServicer(workflows_pb2_grpc.WorkflowServiceServicer):
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        coordinators: Coordinators,
        schedules: ScheduleServicer,
        makers: Makers,
    ) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._coordinators = coordinators
        self._schedules = schedules
        self._makers = makers

    # -- documents ---------------------------------------------------------------------------
    async def PutWorkflow(self, request: pb.PutWorkflowRequest, context: Any) -> pb.Workflow:
        from taskflow_server.core.workflow import (
            Definition,  # imported late: see taskflow_server.core.workflow
        )

        definition = await asyncio.to_thread(Definition.parse, request.document)
        name = qualify(definition.name, field="name")
        given = definition.schedule
        own = functools.partial(self._schedules.rows.own_of_workflow, name, given) if given else None
        if own is not None:
            own(None)  # validates it before anything is stored
        if request.validate_only:
            warnings = await self._makers.of_document(name, request.document)
            title = definition.title or ""
            return pb.Workflow(name=name, digest=definition.digest, title=title, warnings=warnings)
        known = request.if_version if request.HasField("if_version") else None
        version = await workflows.put(self._db, name, request.document, definition.digest, own, known)
        self._schedules.wake()
        return await self._shown(name, version)

    async def GetWorkflow(self, request: pb.GetWorkflowRequest, context: Any) -> pb.Workflow:
        return await self._shown(qualify(request.name, field="name"), request.version)

    async def _shown(self, name: str, version: int = 0) -> pb.Workflow:
        row = await self._workflow(name, version)
        found = _workflow(row)
        found.warnings.extend(await self._makers.of_document(name, row["document"]))
        return found

    async def ListWorkflows(self, request: pb.ListWorkflowsRequest, context: Any) -> pb.ListWorkflowsResponse:
        size = page_size(request.page_size)
        name = qualify(request.name, field="name") if request.name else ""
        before = int(request.page_token) if name and request.page_token.isdecimal() else 0
        rows = await self._db.rows(
            "list_workflows", name=name, before=before, after="" if name else request.page_token, limit=size + 1
        )
        token = ""
        if len(rows) > size:
            token = str(rows[size - 1]["version"]) if name else rows[size - 1]["name"]
        return pb.ListWorkflowsResponse(workflows=map(_workflow, rows[:size]), next_page_token=token)

    async def DeleteWorkflow(self, request: pb.DeleteWorkflowRequest, context: Any) -> pb.DeleteWorkflowResponse:
        name = qualify(request.name, field="name")
        known = request.if_version if request.HasField("if_version") else None
        if not await workflows.delete(self._db, name, known):
            raise _no_workflow(name)
        return pb.DeleteWorkflowResponse()

    async def GetWorkflowSchema(
        self, request: pb.GetWorkflowSchemaRequest, context: Any
    ) -> pb.GetWorkflowSchemaResponse:
        return pb.GetWorkflowSchemaResponse(schema=await asyncio.to_thread(_schema))

    async def _workflow(self, name: str, version: int = 0) -> Row:
        rows = await self._db.rows("get_workflow", name=name, version=version)
        if not rows:
            raise _no_workflow(name, version)
        return rows[0]

    # -- runs --------------------------------------------------------------------------------
    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> pb.Run:
        row = await self._workflow(qualify(request.workflow, field="workflow"), request.version)
        self._check_value(request.input, "input", self._settings.max_payload_bytes)
        if len(request.label) > MAX_LABEL:
            raise InvalidArgument(f"label: {len(request.label)} characters exceed the limit of {MAX_LABEL}", "label")
        metadata = dict(request.metadata)
        if request.HasField("priority"):
            if not 0 <= request.priority <= 9:
                raise InvalidArgument(f"priority: {request.priority} is not between 0 and 9", "priority")
            metadata[PRIORITY_OF_RUN] = str(request.priority)
        options = jobs_pb2.JobOptions(metadata=metadata)
        options_to_json(options.SerializeToString(deterministic=True), "options")  # as its jobs get them
        run_id = request.id or self._clock.new_id()
        if not ids.is_uuid7(run_id):
            raise InvalidArgument("id: must be the 16 bytes of a UUIDv7", "id", "BAD_ID")
        run = store.new_run(
            run_id, row["name"], row["version"], request.input.decode() or None, metadata,
            trigger="manual", label=request.label or None,
        )  # fmt: skip
        if not await store.start_run(self._db, run):
            there = await self._row(run.id)
            if (there["workflow"], there["input"]) != (run.workflow, json.loads(run.input or "null")):
                raise AlreadyExists(f"id: {run.id} is the id of another run", "ID_IN_USE")
        self._coordinators.runs_news.set()
        return await self._run(run.id)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.Run:
        run_id = _id(request.id)
        if request.HasField("wait"):
            await self._await_final(run_id, patience(request.wait, "wait", self._settings.max_wait))
        return await self._run(run_id)

    async def _await_final(self, run_id: UUID, timeout: float) -> None:
        """Subscribes first, then reads, then waits, as AwaitJob does (protocol C1)."""
        final = self._coordinators.subscribe(run_id.bytes)
        try:
            if (await self._row(run_id))["finished_at"] is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await final
        finally:
            self._coordinators.unsubscribe(run_id.bytes, final)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        size = page_size(request.page_size)
        before = _id(request.page_token, "page_token") if request.page_token else _LAST_ID
        wanted: dict[str, Any] = {}
        if request.workflow:
            wanted["workflow"] = qualify(request.workflow, field="workflow")
        if request.states:
            wanted["states"] = list({_status(state) for state in request.states})
        if request.metadata:
            query = "list_runs_by_metadata"
            wanted = {"workflow": "", "states": [], **wanted, "metadata": json.dumps(dict(request.metadata))}
        else:
            query = _LISTS["workflow" in wanted, "states" in wanted]
        rows = await self._db.rows(query, **wanted, before=before, limit=size + 1)
        token = str(rows[size - 1]["id"]) if len(rows) > size else ""
        return pb.ListRunsResponse(runs=map(_run, rows[:size]), next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.Run:
        row = await self._row(_id(request.id))
        if row["status"] in FINAL_RUNS:
            raise FailedPrecondition(f"run {request.id} is already {row['status']}", "RUN_FINISHED")
        await self._tell(row["id"], CancelRequested(), actor_of(request.actor, context))
        return await self._run(row["id"])

    async def RetryRun(self, request: pb.RetryRunRequest, context: Any) -> pb.Run:
        row = await self._row(_id(request.id))
        if row["status"] not in (RunStatus.FAILED, RunStatus.CANCELLED):
            said = f"run {request.id} is {row['status']}; only a failed or cancelled one can be retried"
            raise FailedPrecondition(said, "RUN_NOT_RETRYABLE")
        await self._tell(row["id"], RetryRequested(_state(row).round), actor_of(request.actor, context))
        return await self._run(row["id"])

    async def SignalRun(self, request: pb.SignalRunRequest, context: Any) -> pb.SignalRunResponse:
        row = await self._row(_id(request.id))
        if not request.name:
            raise InvalidArgument("name: name the signal", "name")
        self._check_value(request.payload, "payload", MAX_SIGNAL)
        payload = json.loads(request.payload) if request.payload else None
        event = Signal(request.name, payload, request.signal_id)
        from taskflow_server.core.workflow import unfit

        why = unfit(_state(row), event)
        if why:
            raise FailedPrecondition(why, "RUN_FINISHED" if row["status"] in FINAL_RUNS else "SIGNAL_UNFIT")
        await self._tell(row["id"], event)
        return pb.SignalRunResponse()

    async def _tell(self, run_id: UUID, event: Event, actor: str = "") -> None:
        """Stores an event for a run and wakes its owner. Returns when the owner has applied it, so that the next read
        shows its effect; or after PATIENCE: it is stored and will be applied. `actor` is shown in the time line."""
        if actor:
            action = "run_retried" if isinstance(event, RetryRequested) else "run_cancel_requested"
            seq = await store.ask(self._db, run_id, event, action, actor)
        else:
            seq = await store.tell(self._db, run_id, event)
        self._coordinators.runs_news.set()
        pause, left = FIRST_LOOK, PATIENCE
        while left > 0:
            await self._clock.real.sleep(pause)
            if not await self._db.rows("unheard", seq=seq):
                return
            left -= pause
            pause = min(2 * pause, LONGEST_LOOK)

    def _check_value(self, value: bytes, field: str, most: int) -> None:
        if len(value) > most:
            raise InvalidArgument(f"{field}: {len(value)} bytes exceed the limit of {most}", field, "TOO_LARGE")
        why = unfit_json(value, _JSON) if value else ""
        if why:
            raise InvalidArgument(f"{field}: {why}", field, "BAD_PAYLOAD")

    async def _row(self, run_id: UUID) -> Row:
        rows = await self._db.rows("get_runs", ids=[run_id])
        if not rows:
            raise NotFound(f"there is no run {run_id}", "RUN_NOT_FOUND")
        return rows[0]

    async def _run(self, run_id: UUID) -> pb.Run:
        """A run with its steps and jobs."""
        row = await self._row(run_id)
        steps = {step["step"]: step for step in await self._db.rows("steps_of_run", id=run_id, limit=SHOWN_STEPS)}
        jobs = defaultdict(list)
        for job in reversed(await self._db.rows("jobs_of_run", id=run_id, limit=SHOWN_JOBS)):
            jobs[job["step"]].append(job)
        run = _run(row)
        if row["input"] is not None:
            run.input = json.dumps(row["input"]).encode()
        if row["output"] is not None:
            run.output = json.dumps(row["output"]).encode()
        for log in reversed(await self._db.rows("logs_of_run", id=run_id)):
            run.logs.add(time=stamp(log["logged_at"]), message=log["message"])
        document = json.loads(row["document"] or "{}")
        kinds = {step["name"]: step["kind"] for step in document.get("steps", ())}
        begun = {*jobs, *steps} - kinds.keys()  # steps that the executor's decisions began
        run.steps.extend(_step(name, kind, steps.get(name), jobs[name]) for name, kind in kinds.items())
        run.steps.extend(_decided(name, steps.get(name), jobs[name]) for name in sorted(begun, key=_place))
        return run


def _state(row: Row) -> RunState:
    try:
        return RunState.from_json(row["state"])
    except Exception as fault:  # the stored state is bad: the owner fails the run
        said = f"run {row['id']}: its stored state cannot be read ({type(fault).__name__})"
        raise FailedPrecondition(said, "RUN_UNREADABLE") from fault


@functools.cache
def _schema() -> str:
    from taskflow_server.core.workflow import json_schema

    return json.dumps(json_schema())


def _workflow(row: Row) -> pb.Workflow:
    """A row of `workflows` as the API shows it."""
    document = row.get("document")
    title = json.loads(document).get("title") if document else row["title"]
    workflow = pb.Workflow(
        name=row["name"], version=row["version"], document=document or "", digest=row["digest"], title=title or "",
        create_time=stamp(row["created_at"]), cron=row["cron"] or "",
    )  # fmt: skip
    for name, column in (("next_run_time", "next_at"), ("last_run_time", "last_at")):
        if row[column] is not None:
            getattr(workflow, name).CopyFrom(stamp(row[column]))
    return workflow


def _run(row: Row) -> pb.Run:
    """A row of `runs` with the fields that lists show."""
    run = pb.Run(
        id=str(row["id"]), workflow=row["workflow"], version=row["version"], metadata=row["metadata"],
        state=pb.RunState.Value(f"RUN_STATE_{row['status'].upper()}"), label=row["label"] or "",
        trigger=row["trigger"], schedule_id=str(row["schedule_id"] or ""), parent_run_id=str(row["parent_id"] or ""),
        signals=row["signals"], waiting=row["waiting"], sla_missed=row["sla_missed"],
        error=_error(row["error"]),
    )  # fmt: skip
    for name, column in (("create_time", "created_at"), ("start_time", "started_at"), ("finish_time", "finished_at")):
        if row[column] is not None:
            getattr(run, name).CopyFrom(stamp(row[column]))
    return run


def _step(name: str, kind: str, row: Row | None, jobs: list[Row]) -> pb.RunStep:
    step = pb.RunStep(name=name, kind=kind, state=pb.STEP_STATE_PENDING)
    if row is not None:
        step.state = pb.StepState.Value(f"STEP_STATE_{row['status'].upper()}")
        step.iteration = row["iteration"]
        error = _error(row["error"])
        if error is not None:
            step.error.CopyFrom(error)
        for field, column in (("start_time", "started_at"), ("finish_time", "finished_at"), ("due_time", "due_at")):
            if row[column] is not None and (field != "due_time" or row["status"] == "waiting"):
                getattr(step, field).CopyFrom(stamp(row[column]))
    for job in jobs:
        step.jobs.add(
            job_id=str(job["job_id"] or ""), run_id=str(job["child_id"] or ""), iteration=job["iteration"],
            index=job["index"], task=job["task"] or job["workflow"] or "", job_state=job["job_state"] or 0,
            run_state=pb.RunState.Value(f"RUN_STATE_{job['run_status'].upper()}") if job["run_status"] else 0,
        )  # fmt: skip
    return step


def _place(name: str) -> tuple[str, int]:
    """A sort key that puts task-10 after task-9."""
    word, _, number = name.rpartition("-")
    return word, int(number) if number.isdecimal() else 0


def _decided(name: str, row: Row | None, jobs: list[Row]) -> pb.RunStep:
    """A step that a decision began, or the decisions themselves; the last job or child run gives the state."""
    step = _step(name, "decided", row, jobs)
    if row is None and step.jobs:
        last = step.jobs[-1]
        step.state = _OF_RUN.get(last.run_state) or _OF_JOB.get(last.job_state) or pb.STEP_STATE_RUNNING
        step.iteration = last.iteration
    return step


def _error(found: dict[str, Any] | None) -> jobs_pb2.Error | None:
    """The error of a run or step; members other than type and message are in `details`."""
    if found is None:
        return None
    more = {name: value for name, value in found.items() if name not in ("type", "message")}
    return jobs_pb2.Error(
        type=clean(str(found.get("type", "")), 200), message=clean(str(found.get("message", ""))),
        details=json.dumps(more).encode() if more else b"",
    )  # fmt: skip


def _status(state: pb.RunState.ValueType) -> str:
    try:
        name = pb.RunState.Name(state)
    except ValueError:
        name = "RUN_STATE_UNSPECIFIED"
    if state == pb.RUN_STATE_UNSPECIFIED:
        raise InvalidArgument(f"states: {name} is not a valid state of a run", "states")
    return name.removeprefix("RUN_STATE_").lower()


def _id(text: str, field: str = "id") -> UUID:
    return UUID(bytes=ids.parse(text, field=field))


def _no_workflow(name: str, version: int = 0) -> NotFound:
    which = f" of version {version}" if version else ""
    return NotFound(f"there is no workflow {name!r}{which}", "WORKFLOW_NOT_FOUND")
