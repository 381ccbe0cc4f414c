"""A schedule, its ledger, and the options to define one, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypedDict, TypeVar

from taskflow._values import checks, payloads
from taskflow._values.jobs import JobWarning, _time, warnings_of
from taskflow._values.options import stamp_of
from taskflow.errors import InvalidArgument
from taskflow.v1 import schedules_pb2 as pb

E = TypeVar("E", bound=StrEnum)


class Misfire(StrEnum):
    """The policy for firings that were missed by more than a minute."""

    SKIP = "skip"
    FIRE_ONCE = "fire_once"
    CATCH_UP = "catch_up"


class Overlap(StrEnum):
    """The policy for a firing while a job of the same schedule is unfinished."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"
    REPLACE = "replace"


class FiringState(StrEnum):
    """The result of a nominal instant."""

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
    """The workflow that it runs, instead of a task."""
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
    error: str = ""
    """Why it could not be fired when it was last due; empty when it could."""
    warnings: tuple[JobWarning, ...] = ()
    """That nobody is there to run its jobs. Lists leave it out."""


@dataclass(frozen=True, slots=True)
class FiringInfo:
    """The result of a nominal instant; with `count` over 1, of all those from `first` on."""

    instant: datetime
    first: datetime
    count: int
    state: FiringState
    reason: str
    job_id: str
    run_id: str
    """The run that a workflow's schedule began."""
    trigger: str
    """`schedule`, or `backfill`."""


@dataclass(frozen=True, slots=True)
class BackfillInfo:
    """The result of a backfill. `existing`: instants that had a job already, or wait for one."""

    firings: tuple[FiringInfo, ...]
    """The jobs that it made, oldest first."""
    existing: int


class ScheduleOptions(TypedDict, total=False):
    """Arguments of `create` and `update`. A datetime without a zone is taken as UTC."""

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


FIELDS = {"start": "start_time", "end": "end_time"}


def schedule_message(given: ScheduleOptions) -> pb.Schedule:
    checks.options(given, ScheduleOptions.__annotations__, "a schedule")
    message = pb.Schedule()
    for name in ("cron", "time_zone"):
        if (said := given.get(name)) is not None:
            setattr(message, name, checks.text(said, name))
    if (metadata := given.get("metadata")) is not None:
        message.metadata.update(checks.pairs(metadata))
    for name in ("at", "start", "end"):
        moment = given.get(name)
        if moment is not None:
            getattr(message, FIELDS.get(name, name)).CopyFrom(stamp_of(moment, name))
    if given.get("payload") is not None:
        data, encoding = payloads.encode(given["payload"])
        message.payload, message.encoding = data, encoding  # type: ignore[assignment]
    if given.get("misfire") is not None:
        message.misfire = pb.MisfirePolicy.Value(f"MISFIRE_POLICY_{_one_of(Misfire, given['misfire'], 'misfire').name}")
    if given.get("overlap") is not None:
        message.overlap = pb.OverlapPolicy.Value(f"OVERLAP_POLICY_{_one_of(Overlap, given['overlap'], 'overlap').name}")
    return message


def _one_of(kind: type[E], value: str, field: str) -> E:
    try:
        return kind(value)
    except Exception:  # the enum shows the value, whose own code may raise
        raise InvalidArgument(f"{field}: {checks.shown(value)} is none of {', '.join(kind)}", field=field) from None


def schedule_info(message: pb.Schedule) -> ScheduleInfo:
    """The value of a Schedule message."""
    return ScheduleInfo(
        id=message.id,
        task=message.task,
        workflow=message.workflow,
        cron=message.cron,
        at=_time(message, "at"),
        time_zone=message.time_zone,
        start=_time(message, "start_time"),
        end=_time(message, "end_time"),
        payload=payloads.decode(message.payload, message.encoding),
        metadata=dict(message.metadata),
        misfire=Misfire[pb.MisfirePolicy.Name(message.misfire).removeprefix("MISFIRE_POLICY_")],
        overlap=Overlap[pb.OverlapPolicy.Name(message.overlap).removeprefix("OVERLAP_POLICY_")],
        active=message.active,
        next_run_at=_time(message, "next_run_time"),
        last_run_at=_time(message, "last_run_time"),
        create_time=_time(message, "create_time"),
        error=message.error,
        warnings=warnings_of(message.warnings),
    )


def firing_info(message: pb.Firing) -> FiringInfo:
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
