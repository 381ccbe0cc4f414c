"""`tf.schedules`: jobs that are made by themselves, by a cron expression or at one instant."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypedDict, TypeVar, Unpack

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow import _ids, _values
from taskflow._admin import _aeach, _each
from taskflow._core import Core
from taskflow._filters import PAGE_SIZE
from taskflow.errors import InvalidArgument
from taskflow.v1 import schedules_pb2 as pb

E = TypeVar("E", bound=StrEnum)


class Misfire(StrEnum):
    """What becomes of firings that were missed by more than a minute."""

    SKIP = "skip"
    FIRE_ONCE = "fire_once"
    CATCH_UP = "catch_up"


class Overlap(StrEnum):
    """What a firing does while a job of the same schedule is unfinished."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"
    REPLACE = "replace"


class FiringState(StrEnum):
    """What became of a nominal instant."""

    FIRED = "fired"
    QUEUED = "queued"
    SKIPPED_MISFIRE = "skipped_misfire"
    SKIPPED_OVERLAP = "skipped_overlap"
    SKIPPED_OFF = "skipped_off"


@dataclass(frozen=True, slots=True)
class ScheduleInfo:
    """A schedule as it stood when it was asked for."""

    id: str
    task: str
    workflow: str
    """What it runs, instead of a task."""
    cron: str
    at: datetime | None
    time_zone: str
    start: datetime | None
    end: datetime | None
    payload: Any
    metadata: dict[str, str]
    misfire: Misfire
    overlap: Overlap
    active: bool
    next_run_at: datetime | None
    """None: never again, or not while it is paused."""
    last_run_at: datetime | None
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class FiringInfo:
    """What became of a nominal instant; with `count` over 1, of all those from `first` on."""

    instant: datetime
    first: datetime
    count: int
    state: FiringState
    reason: str
    job_id: str
    run_id: str
    """Of a workflow's schedule."""
    trigger: str
    """`schedule`, or `backfill`."""


@dataclass(frozen=True, slots=True)
class BackfillInfo:
    """What a backfill did. `existing`: instants that had a job already, or wait for one."""

    firings: tuple[FiringInfo, ...]
    """What it made, oldest first."""
    existing: int


class ScheduleOptions(TypedDict, total=False):
    """What `create` and `update` take. A datetime without a zone is taken as UTC."""

    cron: str | None
    """Five fields, six with the seconds first, or `@daily` and the like."""
    at: datetime | None
    """Once, instead of a cron."""
    time_zone: str | None
    """An IANA name; the cluster's default, UTC, without it. Never the machine's."""
    start: datetime | None
    end: datetime | None
    payload: Any
    metadata: Mapping[str, str]
    misfire: Misfire | str
    """`fire_once` by default: for the latest missed instant."""
    overlap: Overlap | str
    """`skip` by default."""


_FIELDS = {"start": "start_time", "end": "end_time"}


def _message(given: ScheduleOptions) -> pb.Schedule:
    unknown = given.keys() - ScheduleOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"a schedule has no option {', '.join(sorted(unknown))}")
    message = pb.Schedule(cron=given.get("cron") or "", time_zone=given.get("time_zone") or "")
    message.metadata.update(given.get("metadata") or {})
    for name in ("at", "start", "end"):
        moment: datetime | None = given.get(name)  # type: ignore[assignment]
        if moment is not None:
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            getattr(message, _FIELDS.get(name, name)).FromDatetime(moment)
    if given.get("payload") is not None:
        data, encoding = _values.encode(given["payload"])
        message.payload, message.encoding = data, encoding  # type: ignore[assignment]
    if given.get("misfire"):
        message.misfire = pb.MisfirePolicy.Value(f"MISFIRE_POLICY_{_one_of(Misfire, given['misfire'], 'misfire').name}")
    if given.get("overlap"):
        message.overlap = pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{_one_of(Overlap, given['overlap'], 'overlap').name}")
    return message


def _one_of(kind: type[E], value: str, field: str) -> E:
    try:
        return kind(value)
    except ValueError:
        raise InvalidArgument(f"{field}: {value!r} is none of {', '.join(kind)}", field=field) from None


def _instant(message: Any, field: str) -> datetime | None:
    return getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None


def schedule_info(message: pb.Schedule) -> ScheduleInfo:
    """The value of a Schedule message."""
    return ScheduleInfo(
        id=message.id,
        task=message.task,
        workflow=message.workflow,
        cron=message.cron,
        at=_instant(message, "at"),
        time_zone=message.time_zone,
        start=_instant(message, "start_time"),
        end=_instant(message, "end_time"),
        payload=_values.decode(message.payload, message.encoding),
        metadata=dict(message.metadata),
        misfire=Misfire[pb.MisfirePolicy.Name(message.misfire).removeprefix("MISFIRE_POLICY_")],
        overlap=Overlap[pb.OverlapPolicy.Name(message.overlap).removeprefix("OVERLAP_POLICY_")],
        active=message.active,
        next_run_at=_instant(message, "next_run_time"),
        last_run_at=_instant(message, "last_run_time"),
        create_time=_instant(message, "create_time"),
    )


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    return stamp


def _firing(message: pb.Firing) -> FiringInfo:
    return FiringInfo(
        instant=message.instant.ToDatetime(tzinfo=UTC),
        first=message.first.ToDatetime(tzinfo=UTC),
        count=message.count,
        state=FiringState[pb.FiringState.Name(message.state).removeprefix("FIRING_STATE_")],
        reason=message.reason,
        job_id=message.job_id,
        run_id=message.run_id,
        trigger=message.trigger,
    )


class _Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, task: str, workflow: str, active: bool, given: ScheduleOptions) -> ScheduleInfo:
        message = _message(given)
        message.task, message.workflow = task, workflow
        message.id = _ids.show(_ids.new_id())  # the same in every try: a repeated call makes no second one
        t = self._core.transport
        request = pb.CreateScheduleRequest(schedule=message, paused=not active)
        return schedule_info(await t.call(t.schedules.CreateSchedule, request))

    async def get(self, id: str) -> ScheduleInfo:
        t = self._core.transport
        return schedule_info(await t.call(t.schedules.GetSchedule, pb.GetScheduleRequest(id=id)))

    async def page(
        self, task: str, workflow: str, metadata: Mapping[str, str], page_size: int, token: str
    ) -> tuple[list[ScheduleInfo], str]:
        t = self._core.transport
        request = pb.ListSchedulesRequest(
            task=task, workflow=workflow, metadata=metadata, page_size=page_size, page_token=token
        )
        page = await t.call(t.schedules.ListSchedules, request)
        return [schedule_info(message) for message in page.schedules], page.next_page_token

    async def update(self, id: str, given: ScheduleOptions) -> ScheduleInfo:
        t = self._core.transport
        message = _message(given)
        message.id = id
        request = pb.UpdateScheduleRequest(schedule=message)
        request.update_mask.paths.extend(_FIELDS.get(name, name) for name in given)
        if "payload" in given:
            request.update_mask.paths.append("encoding")
        return schedule_info(await t.call(t.schedules.UpdateSchedule, request))

    async def switch(self, id: str, active: bool) -> ScheduleInfo:
        t = self._core.transport
        if active:
            return schedule_info(await t.call(t.schedules.ResumeSchedule, pb.ResumeScheduleRequest(id=id)))
        return schedule_info(await t.call(t.schedules.PauseSchedule, pb.PauseScheduleRequest(id=id)))

    async def delete(self, id: str | None, metadata: Mapping[str, str]) -> list[str]:
        t = self._core.transport
        if (id is None) != bool(metadata):
            raise InvalidArgument("id: give either an id or metadata", field="id")
        if id is None:
            request = pb.DeleteSchedulesByMetadataRequest(metadata=metadata)
            return list((await t.call(t.schedules.DeleteSchedulesByMetadata, request)).ids)
        await t.call(t.schedules.DeleteSchedule, pb.DeleteScheduleRequest(id=id))
        return [id]

    async def preview(
        self, id: str | None, count: int, after: datetime | None, given: ScheduleOptions
    ) -> list[datetime]:
        t = self._core.transport
        request = pb.PreviewScheduleRequest(count=count)
        if id is not None:
            request.id = id
        else:
            request.schedule.CopyFrom(_message(given))
        if after is not None:
            request.after.CopyFrom(_stamp(after))
        answer = await t.call(t.schedules.PreviewSchedule, request)
        return [moment.ToDatetime(tzinfo=UTC) for moment in answer.times]

    async def firings(self, id: str, page_size: int, token: str) -> tuple[list[FiringInfo], str]:
        t = self._core.transport
        request = pb.ListFiringsRequest(schedule_id=id, page_size=page_size, page_token=token)
        page = await t.call(t.schedules.ListFirings, request)
        return [_firing(message) for message in page.firings], page.next_page_token

    async def backfill(self, id: str, start: datetime, end: datetime | None) -> BackfillInfo:
        t = self._core.transport
        request = pb.BackfillScheduleRequest(id=id, start_time=_stamp(start))
        if end is not None:
            request.end_time.CopyFrom(_stamp(end))
        answer = await t.call(t.schedules.BackfillSchedule, request)
        return BackfillInfo(tuple(map(_firing, answer.firings)), answer.existing)


class Schedules:
    """`tf.schedules`"""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.call

    def create(
        self, task: str = "", *, workflow: str = "", active: bool = True, **options: Unpack[ScheduleOptions]
    ) -> ScheduleInfo:
        """Runs a task, or a workflow with the payload as its input, by `cron`, or once `at` an instant.

        InvalidArgument names the field at fault; NotFound for a workflow that is not there.
        """
        return self._call(lambda: self._calls.create(task, workflow, active, options))

    def get(self, id: str) -> ScheduleInfo:
        """NotFound when there is none of that id."""
        return self._call(lambda: self._calls.get(id))

    def list(
        self,
        *,
        task: str = "",
        workflow: str = "",
        metadata: Mapping[str, str] | None = None,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[ScheduleInfo]:
        """Oldest first; of a task or a workflow, or those that have all of these entries."""
        return _each(self._call, lambda token: self._calls.page(task, workflow, metadata or {}, page_size, token))

    def update(self, id: str, **options: Unpack[ScheduleOptions]) -> ScheduleInfo:
        """Changes what is given. Another cron, time or zone counts from now."""
        return self._call(lambda: self._calls.update(id, options))

    def pause(self, id: str) -> ScheduleInfo:
        """It fires no more until `resume`."""
        return self._call(lambda: self._calls.switch(id, False))

    def resume(self, id: str) -> ScheduleInfo:
        """Counts from now: nothing is caught up."""
        return self._call(lambda: self._calls.switch(id, True))

    def delete(self, id: str | None = None, *, metadata: Mapping[str, str] | None = None) -> Iterable[str]:
        """One, or all that have all of these entries: then the waiting runs that have them are cancelled, too. The ids
        of what was ended."""
        return self._call(lambda: self._calls.delete(id, metadata or {}))

    def preview(
        self,
        id: str | None = None,
        *,
        count: int = 10,
        after: datetime | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Iterable[datetime]:
        """When a schedule fires next, or one of these options would."""
        return self._call(lambda: self._calls.preview(id, count, after, options))

    def firings(self, id: str, *, page_size: int = PAGE_SIZE) -> Iterator[FiringInfo]:
        """Its ledger, newest first."""
        return _each(self._call, lambda token: self._calls.firings(id, page_size, token))

    def backfill(self, id: str, *, start: datetime, end: datetime | None = None) -> BackfillInfo:
        """Makes a job for each nominal instant from `start` on, before `end` (now by default), that has none: at most
        1,000 in a call. By hand: overlap does not apply to them. Safe to repeat."""
        return self._call(lambda: self._calls.backfill(id, start, end))


class AsyncSchedules:
    """`tf.schedules` of AsyncTaskFlow: the verbs of Schedules as coroutines, lists as async iterators."""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.acall

    async def create(
        self, task: str = "", *, workflow: str = "", active: bool = True, **options: Unpack[ScheduleOptions]
    ) -> ScheduleInfo:
        """As Schedules.create."""
        return await self._call(lambda: self._calls.create(task, workflow, active, options))

    async def get(self, id: str) -> ScheduleInfo:
        """As Schedules.get."""
        return await self._call(lambda: self._calls.get(id))

    def list(
        self,
        *,
        task: str = "",
        workflow: str = "",
        metadata: Mapping[str, str] | None = None,
        page_size: int = PAGE_SIZE,
    ) -> AsyncIterator[ScheduleInfo]:
        """As Schedules.list."""
        return _aeach(self._call, lambda token: self._calls.page(task, workflow, metadata or {}, page_size, token))

    async def update(self, id: str, **options: Unpack[ScheduleOptions]) -> ScheduleInfo:
        """As Schedules.update."""
        return await self._call(lambda: self._calls.update(id, options))

    async def pause(self, id: str) -> ScheduleInfo:
        """As Schedules.pause."""
        return await self._call(lambda: self._calls.switch(id, False))

    async def resume(self, id: str) -> ScheduleInfo:
        """As Schedules.resume."""
        return await self._call(lambda: self._calls.switch(id, True))

    async def delete(self, id: str | None = None, *, metadata: Mapping[str, str] | None = None) -> Iterable[str]:
        """As Schedules.delete."""
        return await self._call(lambda: self._calls.delete(id, metadata or {}))

    async def preview(
        self,
        id: str | None = None,
        *,
        count: int = 10,
        after: datetime | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> Iterable[datetime]:
        """As Schedules.preview."""
        return await self._call(lambda: self._calls.preview(id, count, after, options))

    def firings(self, id: str, *, page_size: int = PAGE_SIZE) -> AsyncIterator[FiringInfo]:
        """As Schedules.firings."""
        return _aeach(self._call, lambda token: self._calls.firings(id, page_size, token))

    async def backfill(self, id: str, *, start: datetime, end: datetime | None = None) -> BackfillInfo:
        """As Schedules.backfill."""
        return await self._call(lambda: self._calls.backfill(id, start, end))
