"""Messages of schedules and their ledger as values, and the options that define a schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypedDict, TypeVar

from taskflow._messages import checks, payloads
from taskflow._messages.jobs import time_of, warnings_of
from taskflow._messages.options import stamp_of
from taskflow._values.schedules import FiringInfo, FiringState, Misfire, Overlap, ScheduleInfo
from taskflow.errors import InvalidArgument
from taskflow.v1 import schedules_pb2 as pb

E = TypeVar("E", bound=StrEnum)


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
        at=time_of(message, "at"),
        time_zone=message.time_zone,
        start=time_of(message, "start_time"),
        end=time_of(message, "end_time"),
        payload=payloads.decode(message.payload, message.encoding),
        metadata=dict(message.metadata),
        misfire=Misfire[pb.MisfirePolicy.Name(message.misfire).removeprefix("MISFIRE_POLICY_")],
        overlap=Overlap[pb.OverlapPolicy.Name(message.overlap).removeprefix("OVERLAP_POLICY_")],
        active=message.active,
        next_run_at=time_of(message, "next_run_time"),
        last_run_at=time_of(message, "last_run_time"),
        create_time=time_of(message, "create_time"),
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
