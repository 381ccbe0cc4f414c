"""TaskService: named tasks, which are run by name, on demand or by their own schedule (S4)."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from uuid import UUID

from taskflow._policy import Outcome
from taskflow.v1 import jobs_pb2, tasks_pb2_grpc
from taskflow.v1 import tasks_pb2 as pb
from taskflow_server.core.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, TaskFlowFault
from taskflow_server.core.names import bare, namespace_of, qualify
from taskflow_server.rpc.defaults import DEFAULT_QUEUE, defaults_of
from taskflow_server.rpc.first_seen import first_seen
from taskflow_server.rpc.task_jobs import job_of
from taskflow_server.rpc.values import error_from_json, options_to_json, patience, stamp
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.job_lists import page_size
from taskflow_server.scheduler.job_reader import JobReader
from taskflow_server.scheduler.job_writer import JobWriter
from taskflow_server.scheduler.jobs import DEFAULT_WAIT
from taskflow_server.scheduler.quotas import JobQuotas
from taskflow_server.scheduler.resources import shown_options
from taskflow_server.scheduler.schedules import ScheduleServicer
from taskflow_server.scheduler.validation import Validation
from taskflow_server.store import tasks as store
from taskflow_server.store.database import Database

OURS = ("task_id", "limited")  # options of a job that only this service sets
CHANGEABLE = (
    "name", "title", "description", "active", "target", "queue", "priority", "retries", "schedule", "time_zone",
    "start_time", "end_time", "payload", "options", "concurrency",
    *(f"options.{name}" for name in jobs_pb2.JobOptions.DESCRIPTOR.fields_by_name if name not in OURS),
)  # fmt: skip
MAX_CONCURRENCY = 1_000_000
COMPLETED = (Outcome.SUCCEEDED,)
FAILED = (Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST)
TYPES = {"": (*COMPLETED, *FAILED), "completed": COMPLETED, "failed": FAILED}
_OF_SCHEDULE = ("cron", "time_zone", "start_at", "end_at", "next_at", "last_run_at")  # columns of its own schedule
_TRIGGER = "taskflow.trigger"  # metadata of a job: manual, or backfill (R18); a schedule's firing has none

Row = dict[str, Any]


class TaskServicer(tasks_pb2_grpc.TaskServiceServicer):
    def __init__(
        self,
        db: Database,
        clock: SystemClock,
        validation: Validation,
        job_writer: JobWriter,
        reading: JobReader,
        schedules: ScheduleServicer,
        quotas: JobQuotas,
        coordinators: Coordinators,
        most_wait: float,
    ) -> None:
        """`most_wait`: limit in seconds for the wait of one call."""
        self._most_wait = most_wait
        self._db = db
        self._clock = clock
        self._validation = validation
        self._job_writer = job_writer
        self._reader = reading
        self._schedules = schedules
        self._quotas = quotas
        self._coordinators = coordinators

    async def CreateTask(self, request: pb.CreateTaskRequest, context: Any) -> pb.CreateTaskResponse:
        task = await self._first_seen(request.task) if request.first_seen else request.task
        row = self._row(task) | {"id": UUID(bytes=self._clock.new_id()), "active": not request.inactive}
        self._quotas.check_payload(row["queue"] or DEFAULT_QUEUE, task.payload, "task.payload")
        own = None
        if task.schedule:
            own = self._schedules.rows.new_own(row["name"], task, active=row["active"])
        else:
            _check_no_times(task, "task")
        seen = await self._db.rows("handlers_seen", names=[row["target"]])
        if not seen and request.require_handler:
            raise FailedPrecondition(
                f"task.target: no worker has ever registered a handler {row['target']!r}", "HANDLER_NOT_SEEN"
            )
        if not await store.create(self._db, row, own):
            raise AlreadyExists(f"task.name: the task {row['name']!r} already exists", "TASK_EXISTS")
        self._schedules.wake()
        if row["concurrency"]:
            await self._coordinators.wake_queues()
        return pb.CreateTaskResponse(
            task=resource(await self._find(str(row["id"]))), warnings=[] if seen else ["HANDLER_NOT_SEEN"]
        )

    async def _first_seen(self, task: pb.Task) -> pb.Task:
        name = qualify(task.name, field="task.name", namespace=task.namespace or "default")
        (row,) = await self._db.rows("tasks_of_jobs", names=[name])
        return first_seen(name, defaults_of(row))

    async def GetTask(self, request: pb.GetTaskRequest, context: Any) -> pb.Task:
        return resource(await self._find(request.task))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Any) -> pb.ListTasksResponse:
        size = page_size(request.page_size)
        rows = await self._db.rows("get_tasks", names=[], ids=[], after=request.page_token, limit=size + 1)
        token = rows[size - 1]["name"] if len(rows) > size else ""
        return pb.ListTasksResponse(tasks=map(resource, rows[:size]), next_page_token=token)

    async def UpdateTask(self, request: pb.UpdateTaskRequest, context: Any) -> pb.Task:
        for path in list(request.update_mask.paths) or ["update_mask"]:
            if path not in CHANGEABLE:
                can = ", ".join(CHANGEABLE)
                raise InvalidArgument(f"update_mask: {path!r} cannot be changed; {can} can", "update_mask")
        name, task_id = _key(request.task)
        found = await store.change(self._db, name, task_id, lambda row, all_: self._changed(row, all_, request))
        if found is None:
            raise _not_found(request.task)
        self._schedules.wake()
        if "concurrency" in request.update_mask.paths:
            await self._coordinators.wake_queues()
        return resource(await self._find(str(found)))

    def _changed(self, row: Row, schedules: list[Row], request: pb.UpdateTaskRequest) -> store.TaskChanges:
        own = next((schedule for schedule in schedules if schedule["owned"]), None)
        task = _said(row | {name: (own or {}).get(name) for name in _OF_SCHEDULE})
        _merge(task, request)
        changes = store.TaskChanges(self._row(task) | {"id": row["id"], "active": task.active})
        if "payload" in request.update_mask.paths:
            self._quotas.check_payload(changes.task["queue"] or DEFAULT_QUEUE, task.payload, "changes.payload")
        name, active, changed = changes.task["name"], task.active, []
        if own is not None and task.schedule:
            changed = [self._schedules.rows.changed_own(own, task, active=active)]
        elif own is not None:
            changes.gone = [own["id"]]
        elif task.schedule:
            changes.new = self._schedules.rows.new_own(name, task, active=active)
        else:
            _check_no_times(task, "changes")
        if active != row["active"]:
            others = [schedule for schedule in schedules if not schedule["owned"]]
            changed += [self._schedules.rows.switched(other, active=active) for other in others]
        changes.changed = changed
        return changes

    async def DeleteTask(self, request: pb.DeleteTaskRequest, context: Any) -> pb.DeleteTaskResponse:
        row = await self._find(request.task)
        await self._db.run("delete_task", id=row["id"])
        if row["concurrency"]:
            await self._coordinators.wake_queues()
        return pb.DeleteTaskResponse()

    async def RunTask(self, request: pb.RunTaskRequest, context: Any) -> jobs_pb2.Job:
        return await self._reader.job(await self._run(request))

    async def RunTaskWithResult(self, request: pb.RunTaskWithResultRequest, context: Any) -> jobs_pb2.Job:
        timeout = DEFAULT_WAIT  # R21
        if request.HasField("timeout"):
            timeout = patience(request.timeout, "timeout", self._most_wait)
        return await self._reader.await_final(await self._run(request), timeout)

    async def _run(self, request: pb.RunTaskRequest | pb.RunTaskWithResultRequest) -> bytes:
        """Creates a job of the task. An inactive task is run as well: only its schedule is stopped (R18)."""
        row = await self._find(request.task)
        own = {"task_id": row["id"], "task_name": row["name"]}
        own |= {f"task_{name}": row[name] for name in ("payload", "encoding")}
        given = (request.payload, request.encoding) if request.payload or request.encoding else None
        spec = job_of(row | own, given)
        spec.id = request.job_id
        if request.requester:
            spec.options.requester = request.requester
        spec.options.metadata[_TRIGGER] = "manual"
        if isinstance(request, pb.RunTaskRequest):
            _for_this_job(spec, request)
        (result,), _ = await self._job_writer.create([spec], "job", partial=False)
        assert not isinstance(result, TaskFlowFault)
        return result.id

    async def ListTaskLogs(self, request: pb.ListTaskLogsRequest, context: Any) -> pb.ListTaskLogsResponse:
        kind = request.type.removeprefix("app.task.")
        if kind not in TYPES:
            raise InvalidArgument(f"type: {request.type!r} is neither completed nor failed", "type")
        limit = page_size(request.limit, default=50, field="limit")
        wanted = {
            "task": await self._logged(request.task) if request.task else None,
            "outcomes": [int(outcome) for outcome in TYPES[kind]],
        }
        rows = await self._db.rows("task_logs", **wanted, limit=limit)
        (counted,) = await self._db.rows("count_task_logs", **wanted)
        answer = pb.ListTaskLogsResponse(count=counted["count"])
        for row in rows:
            kind = "completed" if row["outcome"] == Outcome.SUCCEEDED else "failed"
            answer.logs.add(
                job_id=str(row["id"]), task=row["task"], time=stamp(row["finished_at"]), type=f"app.task.{kind}",
                result=row["result"] or b"", encoding=row["encoding"], error=error_from_json(row["error"]),
                task_id=str(row["task_id"]), trigger=row["trigger"],
                start_time=stamp(row["started_at"]) if row["started_at"] is not None else None,
            )  # fmt: skip
        return answer

    async def _logged(self, name_or_id: str) -> UUID:
        """The id of a task, even if it was deleted: the logs of its runs stay."""
        name, task_id = _key(name_or_id)
        wanted = {"names": [name], "ids": [task_id] if task_id else []}
        rows = await self._db.rows("get_tasks", **wanted, after="", limit=1)
        rows = rows or await self._db.rows("removed_task", **wanted)
        if not rows:
            raise _not_found(name_or_id)
        found: UUID = rows[0]["id"]
        return found

    # -- rows --------------------------------------------------------------------------------
    async def _find(self, name_or_id: str) -> Row:
        name, task_id = _key(name_or_id)
        wanted = {"names": [name], "ids": [task_id] if task_id else []}
        rows = await self._db.rows("get_tasks", **wanted, after="", limit=1)
        if not rows:
            raise _not_found(name_or_id)
        return rows[0]

    def _row(self, task: pb.Task) -> Row:
        """The columns of a caller's task. Validates its payload and options as those of a job."""
        name = qualify(task.name, field="task.name", namespace=task.namespace or "default")
        target = qualify(task.target, field="task.target") if task.target else name
        row: Row = {
            "name": name, "title": task.title, "description": task.description, "target": target,
            "queue": qualify(task.queue, field="task.queue") if task.queue else None,
            "priority": task.priority if task.HasField("priority") else None,
            "retries": task.retries if task.HasField("retries") else None, "options": None,
            "concurrency": _concurrency(task.concurrency),
            "payload": task.payload or None, "encoding": task.encoding if task.payload or task.encoding else None,
        }  # fmt: skip
        if task.HasField("options"):
            text = options_to_json(task.options.SerializeToString(deterministic=True), "task.options")
            row["options"] = text.decode() if text else None
        spec = jobs_pb2.JobSpec(
            queue=row["queue"] or DEFAULT_QUEUE, task=target, priority=row["priority"], retries=row["retries"],
            options=task.options, payload=task.payload, encoding=task.encoding,
        )  # fmt: skip
        self._validation.check(spec, "task", 0)
        return row


def _concurrency(count: int) -> int:
    if 0 <= count <= MAX_CONCURRENCY:
        return count
    raise InvalidArgument(
        f"task.concurrency: {count} is not a number of jobs from 0, which means no limit, to {MAX_CONCURRENCY:,}",
        "task.concurrency",
    )


def _key(name_or_id: str) -> tuple[str, UUID | None]:
    """The stored form of a name, and the id if the text is one: a name may consist of 32 hexadecimal digits."""
    try:
        task_id = UUID(name_or_id)
    except ValueError:
        return qualify(name_or_id, field="task"), None
    try:
        return qualify(name_or_id, field="task"), task_id
    except InvalidArgument:  # not a name, but an id in braces or as a URN
        return "", task_id


def _not_found(name_or_id: str) -> NotFound:
    return NotFound(f"there is no task {name_or_id!r}", "TASK_NOT_FOUND")


def _check_no_times(task: pb.Task, field: str) -> None:
    """InvalidArgument if a task without a schedule has a field that only a schedule can have."""
    for name in ("time_zone", "start_time", "end_time"):
        if getattr(task, name) if name == "time_zone" else task.HasField(name):  # type: ignore[arg-type]
            said = f"{field}.{name}: needs a schedule; give both"
            raise InvalidArgument(said, f"{field}.{name}")


def _merge(task: pb.Task, request: pb.UpdateTaskRequest) -> None:
    """Copies the fields that the mask names from the changes; a path into `options` that they leave out is cleared."""
    request.changes.options.SetInParent()
    request.update_mask.MergeMessage(request.changes, task, True, True)
    if "payload" in request.update_mask.paths:
        task.encoding = request.changes.encoding
    if "priority" in request.update_mask.paths and not request.changes.HasField("priority"):
        task.ClearField("priority")
    if "retries" in request.update_mask.paths and not request.changes.HasField("retries"):
        task.ClearField("retries")


def _for_this_job(spec: jobs_pb2.JobSpec, request: pb.RunTaskRequest) -> None:
    spec.key = request.key
    if request.HasField("run_at"):
        spec.run_at.CopyFrom(request.run_at)
    if request.HasField("priority"):
        spec.priority = request.priority
    if request.label:
        spec.options.label = request.label
    spec.options.metadata.update(request.metadata)


def resource(row: Row) -> pb.Task:
    """A row of `get_tasks` as the API shows it, with its handler's options where the task has none."""
    task = _said(row)
    spec = jobs_pb2.JobSpec(queue=task.queue, options=task.options)
    for name in ("priority", "retries"):
        if task.HasField(name):
            setattr(spec, name, getattr(task, name))
    with suppress(Exception):  # options that cannot be read: one bad row must not break a list
        defaults_of(row).fill(spec)
    task.queue, task.retries = spec.queue or DEFAULT_QUEUE, spec.retries
    task.priority = spec.priority if spec.HasField("priority") else 5
    task.options.CopyFrom(spec.options)
    return task


def _said(row: Row) -> pb.Task:
    """A row of `tasks` with its own options only."""
    task = pb.Task(
        id=str(row["id"]), name=bare(row["name"]), namespace=namespace_of(row["name"]), title=row["title"],
        description=row["description"], active=row["active"], target=row["target"], queue=row["queue"] or "",
        priority=row["priority"], retries=row["retries"], options=shown_options(row["options"]),
        schedule=row["cron"] or "", time_zone=row["time_zone"] or "", create_time=stamp(row["created_at"]),
        payload=row["payload"] or b"", encoding=row["encoding"] or jobs_pb2.ENCODING_UNSPECIFIED,
        update_time=stamp(row["updated_at"]),
        concurrency=row["concurrency"],
    )  # fmt: skip
    instants = {
        "last_run_time": "last_run_at", "next_run_time": "next_at", "start_time": "start_at", "end_time": "end_at",
    }  # fmt: skip
    for name, column in instants.items():
        if row[column] is not None:
            getattr(task, name).CopyFrom(stamp(row[column]))
    return task
