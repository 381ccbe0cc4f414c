"""Alerts: which facts a rule selects, how they are gathered into messages, and when a message may be sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from taskflow_server.core.names import namespace_of

QUEUE = "taskflow-alerts"
"""The queue of the jobs that deliver messages. Nothing about it is a fact, so that no alert leads to another."""
TASK = "taskflow.alert"
SHOWN = 5  # facts that a message tells in full; the others are counted


class Event(StrEnum):
    """An event that a rule can select."""

    JOB_FAILED = "job_failed"
    RUN_FAILED = "run_failed"
    SLA_MISSED = "sla_missed"
    NO_WORKER = "no_worker"
    BACKLOG_OLD = "backlog_old"


OF_JOBS = frozenset({Event.JOB_FAILED, Event.SLA_MISSED, Event.NO_WORKER, Event.BACKLOG_OLD})
OF_RUNS = frozenset({Event.RUN_FAILED, Event.SLA_MISSED})
OF_LANES = frozenset({Event.NO_WORKER, Event.BACKLOG_OLD})


@dataclass(frozen=True, slots=True)
class Limits:
    """A message is sent `gather` seconds after its first fact, unless `max_messages` were sent in the last `period`
    seconds: then it gathers on until the oldest of these is as old."""

    gather: float
    max_messages: int
    period: float


@dataclass(frozen=True, slots=True)
class Group:
    """The next message of a rule as far as it is gathered, and when the last ones were sent."""

    opened_at: datetime | None = None
    counts: Mapping[str, int] | None = None
    first: tuple[Mapping[str, Any], ...] = ()
    sent: tuple[datetime, ...] = ()

    @property
    def count(self) -> int:
        return sum((self.counts or {}).values())


def gathered(group: Group, facts: Sequence[Mapping[str, Any]], now: datetime) -> Group:
    """With further facts, of which each has its `event`."""
    if not facts:
        return group
    counts = dict(group.counts or {})
    for fact in facts:
        counts[fact["event"]] = counts.get(fact["event"], 0) + 1
    first = (*group.first, *facts)[:SHOWN]
    return replace(group, opened_at=group.opened_at or now, counts=counts, first=first)


def due(group: Group, limits: Limits, now: datetime) -> bool:
    """Whether the message is to be sent now."""
    if group.opened_at is None or now < group.opened_at + timedelta(seconds=limits.gather):
        return False
    return len(_recent(group, limits, now)) < limits.max_messages


def sent(group: Group, limits: Limits, now: datetime) -> Group:
    """After its message was sent: nothing is gathered."""
    return Group(sent=(*_recent(group, limits, now), now)[-limits.max_messages :])


def _recent(group: Group, limits: Limits, now: datetime) -> tuple[datetime, ...]:
    """The messages within the period. A clock that was ahead, and is right again, holds up none for longer."""
    period = timedelta(seconds=limits.period)
    return tuple(at for at in group.sent if now - period < at <= now)


def selects_lane(rule: Mapping[str, Any], event: Event, queue: str, task: str) -> bool:
    """Whether a rule's row selects this fact about a lane, by stored names."""
    return (
        event in rule["events"]
        and rule["namespace"] in ("", namespace_of(queue))
        and rule["queue"] in ("", queue)
        and rule["task"] in ("", task)
        and not rule["workflow"]
    )


def message(rule: str, message_id: str, group: Group) -> dict[str, Any]:
    """The message for a webhook. A receiver that gets it twice knows it by its id."""
    assert group.opened_at is not None
    counts = dict(group.counts or {})
    return {
        "id": message_id,
        "rule": rule,
        "opened_at": group.opened_at.isoformat(),
        "count": group.count,
        "counts": {event.value: counts[event] for event in Event if event in counts},
        "first": [dict(fact) for fact in group.first],
    }
