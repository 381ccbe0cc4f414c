"""ScheduleService: schedules as resources. What they do is decided in services.core.schedules, by the leader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from services.core import ids
from services.core.errors import AlreadyExists, InvalidArgument, NotFound
from services.core.names import namespace_of, qualify
from services.core.schedules import Misfire, Overlap, Policy, ScheduleState, count_from_now
from services.core.timing import Timing, parse_timing
from services.core.workflow.models import Schedule as WorkflowSchedule
from services.rpc.values import stamp, timestamp_us
from services.runtime.clock import SystemClock
from services.scheduler.admission import Admission
from services.scheduler.backfill import Backfiller
from services.scheduler.lists import page_size
from services.scheduler.settings import SchedulerSettings
from services.store import schedules as store
from services.store.database import Database
from services.store.times import to_datetime
from taskflow.v1 import jobs_pb2, schedules_pb2_grpc
from taskflow.v1 import schedules_pb2 as pb

MAX_PREVIEW = 1000
CHANGEABLE = (
    "cron", "at", "time_zone", "start_time", "end_time", "payload", "encoding", "metadata", "misfire", "overlap",
)  # fmt: skip
_TIMING = {"cron", "at", "time_zone", "start_time", "end_time"}
_MISFIRE = {pb.MisfirePolicy.Value(f"MISFIRE_POLICY_{m.name}"): m for m in Misfire}
_OVERLAP = {pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{o.name}"): o for o in Overlap}
_END = datetime(9999, 12, 31, tzinfo=UTC)

Row = dict[str, Any]


class ScheduleServicer(schedules_pb2_grpc.ScheduleServiceServicer):
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        admission: Admission,
        backfiller: Backfiller,
        poked: asyncio.Event,
        runs_news: asyncio.Event,
    ) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._admission = admission
        self._backfiller = backfiller
        self._poked = poked
        self._runs_news = runs_news

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Any) -> pb.Schedule:
        now = self._now()
        row = self._row(request.schedule, now, field="schedule")
        row |= {"id": _id(request.schedule.id) if request.schedule.id else UUID(bytes=self._clock.new_id())}
        timing = _timing_of(row)
        first = timing.next_after(now)
        if first is None:
            name = "schedule.at" if row["at"] else "schedule.cron"
            raise InvalidArgument(f"{name}: nothing of it is left to fire", name)
        if row["workflow"] and not await self._db.rows("latest_versions", names=[row["workflow"]]):
            raise NotFound(f"schedule.workflow: there is no workflow {row['workflow']!r}", "WORKFLOW_NOT_FOUND")
        soon = None if request.paused else first
        row |= {"active": not request.paused, "cursor": now, "next_at": soon, "wake_at": soon}
        if not await self._db.run("insert_schedule", **_stored(row), owned=False, namespace=_namespace(row)):
            await self._check_same(row)
        self._poked.set()
        return await self._get(row["id"])

    # -- of tasks ----------------------------------------------------------------------------
    def new_own(self, task: str, cron: str, time_zone: str, *, active: bool) -> Row:
        """A task's own schedule, to be inserted."""
        now = self._now()
        row = self._own(pb.Schedule(task=task, cron=cron, time_zone=time_zone), now)
        first = _timing_of(row).next_after(now) if active else None
        row |= {"id": UUID(bytes=self._clock.new_id()), "active": active, "cursor": now, "next_at": first}
        return _stored(row) | {"wake_at": first, "owned": True, "namespace": _namespace(row)}

    def changed_own(self, row: Row, cron: str, time_zone: str, *, active: bool) -> Row:
        """A task's own schedule, of a task with other properties. What times it has counts from now (R19)."""
        wanted = resource(row)
        wanted.cron, wanted.time_zone = cron, time_zone
        new = row | self._own(wanted, row["now"]) | {"active": active}
        if any(new[name] != row[name] for name in ("cron", "time_zone")) or (active and not row["active"]):
            return _stored(self._counted_from_now(row, new))
        return _stored(new if active else new | {"next_at": None, "wake_at": None})

    def switched(self, row: Row, *, active: bool) -> Row:
        """Another schedule of a task that was switched on or off: it counts from now, or stops (R19)."""
        if active:
            return _stored(self._counted_from_now(row | {"active": False}, row))
        return _stored(row | {"next_at": None, "wake_at": None})

    def own_of_workflow(self, name: str, given: WorkflowSchedule, row: Row | None) -> Row:
        """A workflow's own schedule: to be inserted, or as `row` is to become. Other times count from now (R19)."""
        now = row["now"] if row is not None else self._now()
        wanted = pb.Schedule(
            workflow=name, cron=given.cron, time_zone=given.time_zone or "", metadata=given.metadata,
            payload=json.dumps(given.input).encode(), encoding=jobs_pb2.ENCODING_JSON,
        )  # fmt: skip
        for field, value in (("start_time", given.start), ("end_time", given.end)):
            if value is not None:
                getattr(wanted, field).CopyFrom(_instant(value, f"schedule.{field.removesuffix('_time')}"))
        if given.misfire:
            wanted.misfire = pb.MisfirePolicy.Value(f"MISFIRE_POLICY_{given.misfire.upper()}")
        if given.overlap:
            wanted.overlap = pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{given.overlap.upper()}")
        new = self._row(wanted, now, field="schedule")
        if row is None:
            first = _timing_of(new).next_after(now)
            new |= {"id": UUID(bytes=self._clock.new_id()), "active": True, "cursor": now, "next_at": first}
            return _stored(new) | {"wake_at": first, "owned": True, "namespace": _namespace(new)}
        same = all(new[column] == row[column] for column in ("cron", "time_zone", "start_at", "end_at"))
        return _stored(row | new if same else self._counted_from_now(row, row | new))

    def wake(self) -> None:
        """Some were changed."""
        self._poked.set()

    def _own(self, schedule: pb.Schedule, now: datetime) -> Row:
        """The row of a task's own schedule, whose cron is the task's `schedule`."""
        try:
            return self._row(schedule, now, field="task")
        except InvalidArgument as fault:
            said = fault.message.replace("task.cron", "task.schedule")
            raise InvalidArgument(said, fault.field.replace("task.cron", "task.schedule"), fault.reason) from None

    async def _check_same(self, row: Row) -> None:
        """A repeated call answers as the first one did."""
        there = (await self._db.rows("get_schedules", ids=[row["id"]]))[0]
        told = ("task", "workflow", "cron", "at", "time_zone", "payload", "metadata")
        if any(there[name] != row[name] for name in told):
            raise AlreadyExists(f"schedule.id: {row['id']} is the id of another schedule", "ID_IN_USE")

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> pb.Schedule:
        return await self._get(_id(request.id))

    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> pb.ListSchedulesResponse:
        size = page_size(request.page_size)
        rows = await self._db.rows(
            "list_schedules",
            after=_id(request.page_token, "page_token") if request.page_token else UUID(int=0),
            task=qualify(request.task, field="task") if request.task else "",
            workflow=qualify(request.workflow, field="workflow") if request.workflow else "",
            metadata=json.dumps(dict(request.metadata)),
            limit=size + 1,
        )
        token = str(rows[size - 1]["id"]) if len(rows) > size else ""
        return pb.ListSchedulesResponse(schedules=map(resource, rows[:size]), next_page_token=token)

    async def UpdateSchedule(self, request: pb.UpdateScheduleRequest, context: Any) -> pb.Schedule:
        paths = list(request.update_mask.paths) or list(CHANGEABLE)
        for path in paths:
            if path not in CHANGEABLE:
                can = ", ".join(CHANGEABLE)
                raise InvalidArgument(f"update_mask: {path!r} cannot be changed; {can} can", "update_mask")
        schedule_id = _id(request.schedule.id, "schedule.id")
        return await self._change(schedule_id, lambda row: self._changed(row, request.schedule, paths))

    def _changed(self, row: Row, wanted: pb.Schedule, paths: list[str]) -> Row:
        merged = resource(row)
        for path in paths:
            merged.ClearField(path)  # type: ignore[arg-type]
            if path == "metadata":
                merged.metadata.update(wanted.metadata)
            elif path in ("at", "start_time", "end_time"):
                if wanted.HasField(path):  # type: ignore[arg-type]
                    getattr(merged, path).CopyFrom(getattr(wanted, path))
            else:
                setattr(merged, path, getattr(wanted, path))
        if "cron" in paths and wanted.cron and "at" not in paths:
            merged.ClearField("at")
        if "at" in paths and wanted.HasField("at") and "cron" not in paths:
            merged.ClearField("cron")
        new = row | self._row(merged, row["now"], field="schedule")
        return self._counted_from_now(row, new) if set(paths) & _TIMING else new

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> pb.Schedule:
        return await self._change(_id(request.id), lambda row: self._switched(row, active=False))

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> pb.Schedule:
        return await self._change(_id(request.id), lambda row: self._switched(row, active=True))

    def _switched(self, row: Row, *, active: bool) -> Row:
        if row["active"] == active:
            return row
        if active:
            return self._counted_from_now(row, row | {"active": True})
        return row | {"active": False, "next_at": None, "wake_at": None}

    def _counted_from_now(self, row: Row, new: Row) -> Row:
        """R19: from now on; what was not decided until now has a row in the ledger that says so."""
        state = ScheduleState(_timing_of(row), row["cursor"], active=row["active"])
        found = count_from_now(state, row["now"], timing=_timing_of(new), active=new["active"])
        return new | {
            "cursor": found.cursor, "next_at": found.next_at, "wake_at": found.wake_at, "passed": found.rows,
        }  # fmt: skip

    async def _change(self, schedule_id: UUID, change: Callable[[Row], Row]) -> pb.Schedule:
        if not await store.change(self._db, schedule_id, lambda row: _stored(change(row))):
            raise _not_found(schedule_id)
        self._poked.set()
        return await self._get(schedule_id)

    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Any) -> pb.DeleteScheduleResponse:
        schedule_id = _id(request.id)
        if not await self._db.run("delete_schedule", id=schedule_id):
            raise _not_found(schedule_id)
        return pb.DeleteScheduleResponse()

    async def DeleteSchedulesByMetadata(
        self, request: pb.DeleteSchedulesByMetadataRequest, context: Any
    ) -> pb.DeleteSchedulesByMetadataResponse:
        if not request.metadata:
            raise InvalidArgument("metadata: give at least one entry; without any, all would be deleted", "metadata")
        metadata = json.dumps(dict(request.metadata))
        rows = await self._db.rows("delete_schedules_by_metadata", metadata=metadata)
        runs = await self._db.rows("cancel_runs_by_metadata", metadata=metadata)
        self._runs_news.set()
        return pb.DeleteSchedulesByMetadataResponse(ids=[str(row["id"]) for row in (*rows, *runs)])

    async def PreviewSchedule(self, request: pb.PreviewScheduleRequest, context: Any) -> pb.PreviewScheduleResponse:
        count = request.count or 10
        if not 1 <= count <= MAX_PREVIEW:
            raise InvalidArgument(f"count: {count} is not between 1 and {MAX_PREVIEW}", "count")
        now = self._now()
        if request.id:
            timing = _timing_of(await self._row_of(_id(request.id)))
        else:
            timing = self._timing(request.schedule, "schedule")
        at = to_datetime(timestamp_us(request.after, "after")) if request.HasField("after") else now
        answer = pb.PreviewScheduleResponse()
        while at is not None and len(answer.times) < count and (at := timing.next_after(at)) is not None:
            answer.times.append(_stamp(at))
        return answer

    async def ListFirings(self, request: pb.ListFiringsRequest, context: Any) -> pb.ListFiringsResponse:
        schedule_id = _id(request.schedule_id, "schedule_id")
        await self._row_of(schedule_id)
        size = page_size(request.page_size)
        rows = await self._db.rows(
            "list_firings", schedule_id=schedule_id, before=_before(request.page_token), limit=size + 1
        )
        answer = pb.ListFiringsResponse(firings=map(firing, rows[:size]))
        if len(rows) > size:
            answer.next_page_token = rows[size - 1]["instant"].isoformat()
        return answer

    async def BackfillSchedule(self, request: pb.BackfillScheduleRequest, context: Any) -> pb.BackfillScheduleResponse:
        if not request.HasField("start_time"):
            raise InvalidArgument("start_time: give the first instant that may fire", "start_time")
        start = to_datetime(timestamp_us(request.start_time, "start_time"))
        end = to_datetime(timestamp_us(request.end_time, "end_time")) if request.HasField("end_time") else None
        schedule_id = _id(request.id)
        assert start is not None
        found = await self._backfiller.run(schedule_id, start, end, timing_of=_timing_of, up_to_now=self._up_to_now)
        if found is None:
            raise _not_found(schedule_id)
        made = [row._asdict() | {"count": row.instants, "trigger": "backfill"} for row in found[0]]
        return pb.BackfillScheduleResponse(firings=map(firing, made), existing=found[1])

    def _up_to_now(self, row: Row) -> list[Row]:
        """What passed while it was inactive has its row before a backfill, not at the next activation."""
        return [] if row["active"] else [_stored(self._counted_from_now(row, row))]

    # -- rows --------------------------------------------------------------------------------
    def _now(self) -> datetime:
        now = to_datetime(self._clock.now_us())
        assert now is not None
        return now

    async def _row_of(self, schedule_id: UUID) -> Row:
        rows = await self._db.rows("get_schedules", ids=[schedule_id])
        if not rows:
            raise _not_found(schedule_id)
        return rows[0]

    async def _get(self, schedule_id: UUID) -> pb.Schedule:
        return resource(await self._row_of(schedule_id))

    def _timing(self, schedule: pb.Schedule, field: str) -> Timing:
        def instant(name: str) -> datetime | None:
            if not schedule.HasField(name):  # type: ignore[arg-type]
                return None
            return to_datetime(timestamp_us(getattr(schedule, name), f"{field}.{name}"))

        try:
            return parse_timing(
                cron=schedule.cron or None, at=instant("at"), time_zone=schedule.time_zone or None,
                start=instant("start_time"), end=instant("end_time"),
                default_time_zone=self._settings.default_time_zone,
            )  # fmt: skip
        except InvalidArgument as fault:
            raise InvalidArgument(f"{field}.{fault.message}", f"{field}.{fault.field}", fault.reason) from None

    def _row(self, schedule: pb.Schedule, now: datetime, *, field: str) -> Row:
        """What a schedule's row holds of what a caller wrote, checked as its jobs will be."""
        timing = self._timing(schedule, field)
        for name, known in (("misfire", _MISFIRE), ("overlap", _OVERLAP)):
            if getattr(schedule, name) and getattr(schedule, name) not in known:
                said = f"{field}.{name}: {getattr(schedule, name)} is not one of its values"
                raise InvalidArgument(said, f"{field}.{name}")
        policy = Policy.of(_MISFIRE.get(schedule.misfire), _OVERLAP.get(schedule.overlap))
        spec = jobs_pb2.JobSpec(
            queue="default", task=schedule.task, payload=schedule.payload, encoding=schedule.encoding
        )
        spec.options.metadata.update(schedule.metadata)
        if bool(schedule.task) == bool(schedule.workflow):
            raise InvalidArgument(f"{field}.task: name the task, or the workflow, that it runs", f"{field}.task")
        job = self._admission.check(spec, field, 0)
        workflow = qualify(schedule.workflow, field=f"{field}.workflow") if schedule.workflow else None
        if workflow and job.encoding != jobs_pb2.ENCODING_JSON:
            raise InvalidArgument(f"{field}.payload: a workflow's input is JSON", f"{field}.payload")
        return {
            "task": job.task or None, "workflow": workflow, "cron": schedule.cron or None, "at": timing.at,
            "time_zone": str(timing.zone),
            "start_at": timing.start, "end_at": timing.end, "payload": job.payload, "encoding": job.encoding,
            "metadata": dict(schedule.metadata), "misfire": str(policy.misfire), "overlap": str(policy.overlap),
        }  # fmt: skip


def resource(row: Row) -> pb.Schedule:
    """A row of `schedules` as the API shows it."""
    schedule = pb.Schedule(
        id=str(row["id"]), task=row["task"] or "", workflow=row["workflow"] or "", cron=row["cron"] or "",
        time_zone=row["time_zone"],
        payload=row["payload"] or b"", encoding=row["encoding"], metadata=row["metadata"],
        misfire=pb.MisfirePolicy.Value(f"MISFIRE_POLICY_{row['misfire'].upper()}"),
        overlap=pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{row['overlap'].upper()}"), active=row["active"],
    )  # fmt: skip
    columns = {
        "at": "at", "start_time": "start_at", "end_time": "end_at", "next_run_time": "next_at",
        "last_run_time": "last_at", "create_time": "created_at",
    }  # fmt: skip
    for name, column in columns.items():
        if row[column] is not None:
            getattr(schedule, name).CopyFrom(_stamp(row[column]))
    return schedule


def _namespace(row: Row) -> str:
    return namespace_of(row["task"] or row["workflow"])


def _instant(text: str, field: str) -> Timestamp:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"{field}: {text!r} is not a time as 2026-01-31T08:00:00Z", field) from None
    return _stamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def firing(row: Row) -> pb.Firing:
    """A row of the ledger as the API shows it."""
    return pb.Firing(
        instant=stamp(row["instant"]), first=stamp(row["first"]), count=row["count"], reason=row["reason"],
        state=pb.FiringState.Value(f"FIRING_STATE_{row['state'].upper()}"),
        job_id=str(row["job_id"] or ""), run_id=str(row["run_id"] or ""), trigger=row["trigger"],
    )  # fmt: skip


def _stored(row: Row) -> Row:
    return row | {"metadata": json.dumps(row["metadata"])}


def _timing_of(row: Row) -> Timing:
    return parse_timing(
        cron=row["cron"], at=row["at"], time_zone=row["time_zone"], start=row["start_at"], end=row["end_at"]
    )


def _stamp(instant: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(instant)
    return found


def _id(text: str, field: str = "id") -> UUID:
    return UUID(bytes=ids.parse(text, field=field))


def _before(token: str) -> datetime:
    try:
        return datetime.fromisoformat(token).astimezone(UTC) if token else _END
    except (ValueError, OverflowError):
        raise InvalidArgument("page_token: not one that this method gave out", "page_token") from None


def _not_found(schedule_id: UUID) -> NotFound:
    return NotFound(f"there is no schedule {schedule_id}", "SCHEDULE_NOT_FOUND")
