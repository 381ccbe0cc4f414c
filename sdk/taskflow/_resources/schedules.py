"""`tf.schedules`: jobs that are made by themselves, by a cron expression or at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from taskflow._jobs.core import Core
from taskflow._messages import checks, ids
from taskflow._messages.options import stamp_of
from taskflow._messages.schedules import FIELDS, ScheduleOptions, firing_info, schedule_info, schedule_message
from taskflow._values.schedules import BackfillInfo, FiringInfo, ScheduleInfo
from taskflow.errors import InvalidArgument
from taskflow.v1 import schedules_pb2 as pb

MOST_PREVIEWED = 1_000


class Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, task: str, workflow: str, active: bool, given: ScheduleOptions) -> ScheduleInfo:
        message = schedule_message(given)
        message.task, message.workflow = checks.text(task, "task"), checks.text(workflow, "workflow")
        message.id = ids.show(ids.new_id())  # the same in every try: a repeated call makes no second one
        t = self._core.transport
        request = pb.CreateScheduleRequest(schedule=message, paused=not checks.flag(active, "active"))
        return schedule_info(await t.call(t.schedules.CreateSchedule, request))

    async def get(self, id: str) -> ScheduleInfo:
        t = self._core.transport
        return schedule_info(await t.call(t.schedules.GetSchedule, pb.GetScheduleRequest(id=ids.parse(id))))

    async def page(
        self, task: str, workflow: str, metadata: Mapping[str, str] | None, page_size: int, token: str
    ) -> tuple[list[ScheduleInfo], str]:
        t = self._core.transport
        request = pb.ListSchedulesRequest(
            task=checks.text(task, "task"), workflow=checks.text(workflow, "workflow"),
            metadata=checks.pairs(metadata), page_size=checks.page_size(page_size), page_token=token,
        )  # fmt: skip
        page = await t.call(t.schedules.ListSchedules, request)
        return [schedule_info(message) for message in page.schedules], page.next_page_token

    async def update(self, id: str, given: ScheduleOptions) -> ScheduleInfo:
        t = self._core.transport
        message = schedule_message(given)
        message.id = ids.parse(id)
        request = pb.UpdateScheduleRequest(schedule=message)
        request.update_mask.paths.extend(FIELDS.get(name, name) for name in given)
        if "payload" in given:
            request.update_mask.paths.append("encoding")
        return schedule_info(await t.call(t.schedules.UpdateSchedule, request))

    async def switch(self, id: str, active: bool) -> ScheduleInfo:
        t = self._core.transport
        if active:
            return schedule_info(await t.call(t.schedules.ResumeSchedule, pb.ResumeScheduleRequest(id=ids.parse(id))))
        return schedule_info(await t.call(t.schedules.PauseSchedule, pb.PauseScheduleRequest(id=ids.parse(id))))

    async def delete(self, id: str | None, metadata: Mapping[str, str] | None) -> list[str]:
        t = self._core.transport
        metadata = checks.pairs(metadata)
        if (id is None) != bool(metadata):
            raise InvalidArgument("id: give either an id or metadata", field="id")
        if id is None:
            request = pb.DeleteSchedulesByMetadataRequest(metadata=metadata)
            return list((await t.call(t.schedules.DeleteSchedulesByMetadata, request)).ids)
        await t.call(t.schedules.DeleteSchedule, pb.DeleteScheduleRequest(id=ids.parse(id)))
        return [id]

    async def preview(
        self, id: str | None, count: int, after: datetime | None, given: ScheduleOptions
    ) -> list[datetime]:
        t = self._core.transport
        request = pb.PreviewScheduleRequest(count=checks.whole(count, "count", 0, MOST_PREVIEWED))
        if id is not None:
            request.id = ids.parse(id)
        else:
            request.schedule.CopyFrom(schedule_message(given))
        if after is not None:
            request.after.CopyFrom(stamp_of(after, "after"))
        answer = await t.call(t.schedules.PreviewSchedule, request)
        return [moment.ToDatetime(tzinfo=UTC) for moment in answer.times]

    async def firings(self, id: str, page_size: int, token: str) -> tuple[list[FiringInfo], str]:
        t = self._core.transport
        request = pb.ListFiringsRequest(
            schedule_id=ids.parse(id), page_size=checks.page_size(page_size), page_token=token
        )
        page = await t.call(t.schedules.ListFirings, request)
        return [firing_info(message) for message in page.firings], page.next_page_token

    async def backfill(self, id: str, start: datetime, end: datetime | None) -> BackfillInfo:
        t = self._core.transport
        request = pb.BackfillScheduleRequest(id=ids.parse(id), start_time=stamp_of(start, "start"))
        if end is not None:
            request.end_time.CopyFrom(stamp_of(end, "end"))
        answer = await t.call(t.schedules.BackfillSchedule, request)
        return BackfillInfo(tuple(map(firing_info, answer.firings)), answer.existing)
