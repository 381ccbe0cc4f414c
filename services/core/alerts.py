"""Alerts: which facts a rule selects, how they are grouped into messages, and when a message may be sent. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from taskflow_server.core.names import namespace_of

QUEUE = "taskflow-alerts"
"""The queue of the jobs that deliver messages. It makes no facts, so that no alert causes another."""
TASK = "taskflow.alert"
SHOWN = 5  # facts that a message shows; the others are only counted


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
    """A message is sent `gather` seconds after its first fact. If the last `period` seconds have had `max_messages`,
    it is sent when the oldest of these has left the period."""

    gather: float
    max_messages: int
    period: float


@dataclass(frozen=True, slots=True)
class Group:
    """The facts for the next message of a rule, and the times of the last ones."""

    opened_at: datetime | None = None
    counts: Mapping[str, int] | None = None
    first: tuple[Mapping[str, Any], ...] = ()
    sent: tuple[datetime, ...] = ()

    @property
    def count(self) -> int:
        return sum((self.counts or {}).values())


def gathered(group: Group, facts: Sequence[Mapping[str, Any]], now: datetime) -> Group:
    """The group with more facts; each fact has its `event`."""
    if not facts:
        return group
    counts = dict(group.counts or {})
    for fact in facts:
        counts[fact["event"]] = counts.get(fact["event"], 0) + 1
    first = (*group.first, *facts)[:SHOWN]
    return replace(group, opened_at=group.opened_at or now, counts=counts, first=first)


def due(group: Group, limits: Limits, now: datetime) -> bool:
    """Whether the message must be sent now."""
    if group.opened_at is None or now < group.opened_at + timedelta(seconds=limits.gather):
        return False
    return len(_recent(group, limits, now)) < limits.max_messages


def sent(group: Group, limits: Limits, now: datetime) -> Group:
    """The empty group after its message was sent."""
    return Group(sent=(*_recent(group, limits, now), now)[-limits.max_messages :])


def _recent(group: Group, limits: Limits, now: datetime) -> tuple[datetime, ...]:
    """The times of the messages within the period. Future times, from a clock that was ahead, delay no message."""
    period = timedelta(seconds=limits.period)
    return tuple(at for at in group.sent if now - period < at <= now)


def selects_lane(rule: Mapping[str, Any], event: Event, queue: str, task: str) -> bool:
    """Whether a rule's row selects this fact of a lane, by stored names."""
    return (
        event in rule["events"]
        and rule["namespace"] in ("", namespace_of(queue))
        and rule["queue"] in ("", queue)
        and rule["task"] in ("", task)
        and not rule["workflow"]
    )


def message(rule: str, message_id: str, group: Group) -> dict[str, Any]:
    """The message for a webhook. A receiver recognises a repeated one by its id."""
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
