"""Validates schedules and their changes and makes rows of `schedules`; converts rows to the API's resources."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._policy import OUT_OF_RANGE, RANGE, is_instant
from taskflow.v1 import jobs_pb2, tasks_pb2
from taskflow.v1 import schedules_pb2 as pb
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.names import namespace_of, qualify
from taskflow_server.core.schedules import Misfire, Overlap, Policy, ScheduleState, count_from_now
from taskflow_server.core.timing import Timing, parse_timing
from taskflow_server.rpc.values import stamp, timestamp_us
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.validation import Validation
from taskflow_server.store.times import to_datetime

if TYPE_CHECKING:
    from taskflow_server.core.workflow.models import Schedule as WorkflowSchedule

CHANGEABLE = (
    "cron", "at", "time_zone", "start_time", "end_time", "payload", "encoding", "metadata", "misfire", "overlap",
)  # fmt: skip
_TIMING = {"cron", "at", "time_zone", "start_time", "end_time"}
_OWN_TIMES = ("cron", "time_zone", "start_at", "end_at")  # columns of the own schedule of a task or a workflow
_MISFIRE = {pb.MisfirePolicy.Value(f"MISFIRE_POLICY_{m.name}"): m for m in Misfire}
_OVERLAP = {pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{o.name}"): o for o in Overlap}
_SHOWN = {str(m): pb.MisfirePolicy.Value(f"MISFIRE_POLICY_{m.name}") for m in Misfire}
_SHOWN_OVERLAP = {str(o): pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{o.name}") for o in Overlap}

Row = dict[str, Any]


class ScheduleRows:
    """Makes the rows to write. A given row is a locked row of `schedules`, with the database's time as `now`."""

    def __init__(self, settings: SchedulerSettings, clock: SystemClock, validation: Validation) -> None:
        self._settings = settings
        self._clock = clock
        self._validation = validation

    def now(self) -> datetime:
        now = to_datetime(self._clock.now_us())
        assert now is not None
        return now

    def timing(self, schedule: pb.Schedule, field: str) -> Timing:
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

    def row(self, schedule: pb.Schedule, now: datetime, *, field: str) -> Row:
        """The columns of a caller's schedule. Validates its payload and options as those of a job."""
        timing = self.timing(schedule, field)
        for name, known in (("misfire", _MISFIRE), ("overlap", _OVERLAP)):
            if getattr(schedule, name) and getattr(schedule, name) not in known:
                said = f"{field}.{name}: {getattr(schedule, name)} is not a valid value"
                raise InvalidArgument(said, f"{field}.{name}")
        policy = Policy.of(_MISFIRE.get(schedule.misfire), _OVERLAP.get(schedule.overlap))
        spec = jobs_pb2.JobSpec(
            queue="default", task=schedule.task, payload=schedule.payload, encoding=schedule.encoding
        )
        spec.options.metadata.update(schedule.metadata)
        if bool(schedule.task) == bool(schedule.workflow):
            raise InvalidArgument(f"{field}.task: name the task or the workflow to run", f"{field}.task")
        job = self._validation.check(spec, field, 0)
        workflow = qualify(schedule.workflow, field=f"{field}.workflow") if schedule.workflow else None
        if workflow and job.encoding != jobs_pb2.ENCODING_JSON:
            raise InvalidArgument(f"{field}.payload: a workflow's input must be JSON", f"{field}.payload")
        return {
            "task": job.task or None, "workflow": workflow, "cron": schedule.cron or None, "at": timing.at,
            "time_zone": str(timing.zone),
            "start_at": timing.start, "end_at": timing.end, "payload": job.payload, "encoding": job.encoding,
            "metadata": dict(schedule.metadata), "misfire": str(policy.misfire), "overlap": str(policy.overlap),
        }  # fmt: skip

    def changed(self, row: Row, wanted: pb.Schedule, paths: list[str]) -> Row:
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
        new = row | self.row(merged, row["now"], field="schedule")
        return _counted_from_now(row, new) if set(paths) & _TIMING else new

    def paused_or_resumed(self, row: Row, *, active: bool) -> Row:
        if row["active"] == active:
            return row
        if active:
            return _counted_from_now(row, row | {"active": True})
        return row | {"active": False, "next_at": None, "wake_at": None}

    def up_to_now(self, row: Row) -> list[Row]:
        """The ledger rows of instants that passed while it was inactive: a backfill writes them first."""
        return [] if row["active"] else [stored(_counted_from_now(row, row))]

    # -- a task's, or a workflow's, own --------------------------------------------------------
    def new_own(self, name: str, task: tasks_pb2.Task, *, active: bool) -> Row:
        """A task's own schedule, to be inserted."""
        now = self.now()
        row = self._own(_with_times_of(pb.Schedule(task=name), task), now)
        first = timing_of(row).next_after(now) if active else None
        row |= {"id": UUID(bytes=self._clock.new_id()), "active": active, "cursor": now, "next_at": first}
        return stored(row) | {"wake_at": first, "owned": True, "namespace": namespace_named(row)}

    def changed_own(self, row: Row, task: tasks_pb2.Task, *, active: bool) -> Row:
        """A task's own schedule after a change of the task. Changed times count from now (R19)."""
        new = row | self._own(_with_times_of(resource(row), task), row["now"]) | {"active": active}
        if any(new[name] != row[name] for name in _OWN_TIMES) or (active and not row["active"]):
            return stored(_counted_from_now(row, new))
        return stored(new if active else new | {"next_at": None, "wake_at": None})

    def switched(self, row: Row, *, active: bool) -> Row:
        """A further schedule of a task that was activated or deactivated: it counts from now, or stops (R19)."""
        if active:
            return stored(_counted_from_now(row | {"active": False}, row))
        return stored(row | {"next_at": None, "wake_at": None})

    def own_of_workflow(self, name: str, given: WorkflowSchedule, row: Row | None) -> Row:
        """A workflow's own schedule, to insert or to replace `row`. Changed times count from now (R19)."""
        now = row["now"] if row is not None else self.now()
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
        new = self.row(wanted, now, field="schedule")
        if row is None:
            first = timing_of(new).next_after(now)
            new |= {"id": UUID(bytes=self._clock.new_id()), "active": True, "cursor": now, "next_at": first}
            return stored(new) | {"wake_at": first, "owned": True, "namespace": namespace_named(new)}
        same = all(new[column] == row[column] for column in _OWN_TIMES)
        return stored(row | new if same else _counted_from_now(row, row | new))

    def _own(self, schedule: pb.Schedule, now: datetime) -> Row:
        """The row of a task's own schedule, whose cron is the task's `schedule`."""
        try:
            return self.row(schedule, now, field="task")
        except InvalidArgument as fault:
            said = fault.message.replace("task.cron", "task.schedule")
            raise InvalidArgument(said, fault.field.replace("task.cron", "task.schedule"), fault.reason) from None


def _with_times_of(schedule: pb.Schedule, task: tasks_pb2.Task) -> pb.Schedule:
    """The schedule with the times of its task."""
    schedule.cron, schedule.time_zone = task.schedule, task.time_zone
    for name in ("start_time", "end_time"):
        schedule.ClearField(name)
        if task.HasField(name):
            getattr(schedule, name).CopyFrom(getattr(task, name))
    return schedule


def _counted_from_now(row: Row, new: Row) -> Row:
    """Makes `new` count from now (R19). Instants of `row` not decided yet get a ledger row that records that."""
    timing = timing_of(new)
    try:
        state = ScheduleState(timing_of(row), row["cursor"], active=row["active"])
    except InvalidArgument:  # times that cannot be read have no instants; this change repairs them
        state = ScheduleState(timing, row["now"], active=row["active"])
    found = count_from_now(state, row["now"], timing=timing, active=new["active"])
    return new | {
        "cursor": found.cursor, "next_at": found.next_at, "wake_at": found.wake_at, "passed": found.rows,
        "ahead": state.timing if found.taken_back else None,
    }  # fmt: skip


def resource(row: Row) -> pb.Schedule:
    """A row of `schedules` as the API shows it."""
    schedule = pb.Schedule(
        id=str(row["id"]), task=row["task"] or "", workflow=row["workflow"] or "", cron=row["cron"] or "",
        time_zone=row["time_zone"],
        payload=row["payload"] or b"", encoding=row["encoding"], metadata=row["metadata"],
        misfire=_SHOWN.get(row["misfire"], pb.MISFIRE_POLICY_FIRE_ONCE),  # an unknown one is reported in `error`
        overlap=_SHOWN_OVERLAP.get(row["overlap"], pb.OVERLAP_POLICY_SKIP), active=row["active"],
        error=row["error"] or "",
    )  # fmt: skip
    columns = {
        "at": "at", "start_time": "start_at", "end_time": "end_at", "next_run_time": "next_at",
        "last_run_time": "last_at", "create_time": "created_at",
    }  # fmt: skip
    for name, column in columns.items():
        if row[column] is not None:
            getattr(schedule, name).CopyFrom(exact_stamp(row[column]))
    return schedule


def namespace_named(row: Row) -> str:
    return namespace_of(row["task"] or row["workflow"])


def _instant(text: str, field: str) -> Timestamp:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidArgument(f"{field}: {text!r} is not a time like 2026-01-31T08:00:00Z, {RANGE}", field) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not is_instant(moment):
        raise InvalidArgument(f"{field}: {text!r} {OUT_OF_RANGE}", field, "BAD_INSTANT")
    return exact_stamp(moment.astimezone(UTC))


def firing(row: Row) -> pb.Firing:
    """A row of the ledger as the API shows it."""
    return pb.Firing(
        instant=stamp(row["instant"]), first=stamp(row["first"]), count=row["count"], reason=row["reason"],
        state=pb.FiringState.Value(f"FIRING_STATE_{row['state'].upper()}"),
        job_id=str(row["job_id"] or ""), run_id=str(row["run_id"] or ""), trigger=row["trigger"],
    )  # fmt: skip


def stored(row: Row) -> Row:
    return row | {"metadata": json.dumps(row["metadata"])}


def timing_of(row: Row) -> Timing:
    return parse_timing(
        cron=row["cron"], at=row["at"], time_zone=row["time_zone"], start=row["start_at"], end=row["end_at"]
    )


def exact_stamp(instant: datetime) -> Timestamp:
    found = Timestamp()
    found.FromDatetime(instant)
    return found
