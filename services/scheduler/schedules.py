"""ScheduleService: schedules as resources. taskflow_server.core.schedules decides their firings, on the leader."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow.v1 import schedules_pb2 as pb
from taskflow.v1 import schedules_pb2_grpc
from taskflow_server.core import ids
from taskflow_server.core.errors import AlreadyExists, InvalidArgument, NotFound
from taskflow_server.core.names import qualify
from taskflow_server.core.timing import check_instant
from taskflow_server.rpc.callers import actor_of
from taskflow_server.rpc.values import timestamp_us
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.backfill import Backfiller
from taskflow_server.scheduler.job_lists import page_size
from taskflow_server.scheduler.schedule_rows import (
    CHANGEABLE,
    ScheduleRows,
    exact_stamp,
    firing,
    namespace_named,
    resource,
    stored,
    timing_of,
)
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.unserved import Makers
from taskflow_server.scheduler.validation import Validation
from taskflow_server.store import schedules as store
from taskflow_server.store.database import Database
from taskflow_server.store.times import to_datetime

MAX_PREVIEW = 1000
_END = datetime(9999, 12, 31, tzinfo=UTC)

Row = dict[str, Any]


class ScheduleServicer(schedules_pb2_grpc.ScheduleServiceServicer):
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        validation: Validation,
        backfiller: Backfiller,
        poked: asyncio.Event,
        runs_news: asyncio.Event,
        makers: Makers,
    ) -> None:
        self._makers = makers
        self.rows = ScheduleRows(settings, clock, validation)
        self._db = db
        self._clock = clock
        self._backfiller = backfiller
        self._poked = poked
        self._runs_news = runs_news

    async def CreateSchedule(self, request: pb.CreateScheduleRequest, context: Any) -> pb.Schedule:
        now = self.rows.now()
        row = self.rows.row(request.schedule, now, field="schedule")
        row |= {"id": _id(request.schedule.id) if request.schedule.id else UUID(bytes=self._clock.new_id())}
        timing = timing_of(row)
        first = timing.next_after(now)
        if first is None:
            name = "schedule.at" if row["at"] else "schedule.cron"
            raise InvalidArgument(f"{name}: no instant is left to fire", name)
        if row["workflow"] and not await self._db.rows("latest_versions", names=[row["workflow"]]):
            raise NotFound(f"schedule.workflow: there is no workflow {row['workflow']!r}", "WORKFLOW_NOT_FOUND")
        soon = None if request.paused else first
        row |= {"active": not request.paused, "cursor": now, "next_at": soon, "wake_at": soon}
        if not await self._db.run("insert_schedule", **stored(row), owned=False, namespace=namespace_named(row)):
            await self._check_same(row)
        self._poked.set()
        return await self._get(row["id"])

    def wake(self) -> None:
        """Call after a change: the leader reads the due schedules at once."""
        self._poked.set()

    async def _check_same(self, row: Row) -> None:
        """A repeated call gets the answer of the first one; another schedule with this id is refused."""
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
        return await self._change(schedule_id, lambda row: self.rows.changed(row, request.schedule, paths))

    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> pb.Schedule:
        return await self._change(_id(request.id), lambda row: self.rows.paused_or_resumed(row, active=False))

    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> pb.Schedule:
        return await self._change(_id(request.id), lambda row: self.rows.paused_or_resumed(row, active=True))

    async def _change(self, schedule_id: UUID, change: Callable[[Row], Row]) -> pb.Schedule:
        if not await store.change(self._db, schedule_id, lambda row: stored(change(row))):
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
            raise InvalidArgument("metadata: give at least one entry; without one, all would be deleted", "metadata")
        metadata = json.dumps(dict(request.metadata))
        rows = await self._db.rows("delete_schedules_by_metadata", metadata=metadata)
        runs = await self._db.rows("cancel_runs_by_metadata", metadata=metadata, actor=actor_of("", context))
        self._runs_news.set()
        return pb.DeleteSchedulesByMetadataResponse(ids=[str(row["id"]) for row in (*rows, *runs)])

    async def PreviewSchedule(self, request: pb.PreviewScheduleRequest, context: Any) -> pb.PreviewScheduleResponse:
        count = request.count or 10
        if not 1 <= count <= MAX_PREVIEW:
            raise InvalidArgument(f"count: {count} is not between 1 and {MAX_PREVIEW}", "count")
        now = self.rows.now()
        if request.id:
            timing = timing_of(await self._row_of(_id(request.id)))
        else:
            timing = self.rows.timing(request.schedule, "schedule")
        at: datetime | None = _instant(request.after, "after") if request.HasField("after") else now
        answer = pb.PreviewScheduleResponse()
        while at is not None and len(answer.times) < count and (at := timing.next_after(at)) is not None:
            answer.times.append(exact_stamp(at))
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
        start = _instant(request.start_time, "start_time")
        end = _instant(request.end_time, "end_time") if request.HasField("end_time") else None
        schedule_id = _id(request.id)
        found = await self._backfiller.run(schedule_id, start, end, timing_of=timing_of, up_to_now=self.rows.up_to_now)
        if found is None:
            raise _not_found(schedule_id)
        made = [row._asdict() | {"count": row.instants, "trigger": "backfill"} for row in found[0]]
        return pb.BackfillScheduleResponse(firings=map(firing, made), existing=found[1])

    # -- rows --------------------------------------------------------------------------------
    async def _row_of(self, schedule_id: UUID) -> Row:
        rows = await self._db.rows("get_schedules", ids=[schedule_id])
        if not rows:
            raise _not_found(schedule_id)
        return rows[0]

    async def _get(self, schedule_id: UUID) -> pb.Schedule:
        row = await self._row_of(schedule_id)
        found = resource(row)
        if row["task"] is not None:
            found.warnings.extend(await self._makers.of_task(row["task"]))
        else:
            found.warnings.extend(await self._makers.of_latest(row["workflow"]))
        return found


def _id(text: str, field: str = "id") -> UUID:
    return UUID(bytes=ids.parse(text, field=field))


def _instant(stamp: Timestamp, field: str) -> datetime:
    """An instant at which a schedule may fire."""
    found = to_datetime(timestamp_us(stamp, field))
    assert found is not None
    check_instant(field, found)
    return found


def _before(token: str) -> datetime:
    try:
        return datetime.fromisoformat(token).astimezone(UTC) if token else _END
    except (ValueError, OverflowError):
        raise InvalidArgument("page_token: is not a valid token of this method", "page_token") from None


def _not_found(schedule_id: UUID) -> NotFound:
    return NotFound(f"there is no schedule {schedule_id}", "SCHEDULE_NOT_FOUND")
