"""What can happen to a run. Plain data, so that they can stand in `run_inbox`.

A JobFinished or TimerDue that comes twice, or too late, changes nothing. A Signal with an id that was seen changes
nothing; a RetryRequested names the round that it wants to end. A Started or CancelRequested that comes twice in a row
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from taskflow._policy import Outcome


@dataclass(frozen=True, slots=True)
class Started:
    """The run begins."""


@dataclass(frozen=True, slots=True)
class JobFinished:
    """A job that a CreateJob made is final; or a run that a StartRun made, with its id as `job_id`."""

    step: str
    iteration: int
    index: int
    outcome: Outcome
    result: Any = None
    error: Any = None
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class TimerDue:
    """The time of a SetTimer has come."""

    name: str
    iteration: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Somebody sent the run a signal. `id`: chosen by the sender, to repeat the call without sending it twice."""

    name: str
    payload: Any = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Somebody wants the run to end."""


@dataclass(frozen=True, slots=True)
class RetryRequested:
    """Somebody wants a failed or cancelled run to go on from what failed. `round` is RunState.round as they saw it."""

    round: int


Event = Started | JobFinished | TimerDue | Signal | CancelRequested | RetryRequested
_TYPES: Mapping[str, type[Event]] = {
    "started": Started,
    "job_finished": JobFinished,
    "timer_due": TimerDue,
    "signal": Signal,
    "cancel_requested": CancelRequested,
    "retry_requested": RetryRequested,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}


def to_json(event: Event) -> dict[str, Any]:
    """An event for a jsonb column; `from_json` reads it back."""
    values = ((field, getattr(event, field.name)) for field in fields(event))
    said = {field.name: value for field, value in values if value != field.default}
    if isinstance(event, JobFinished):
        said["outcome"] = event.outcome.name.lower()
    return {"event": _NAMES[type(event)], **said}


def from_json(stored: Mapping[str, Any]) -> Event:
    """What `to_json` gave."""
    found = dict(stored)
    cls = _TYPES[found.pop("event")]
    if cls is JobFinished:
        found["outcome"] = Outcome[found["outcome"].upper()]
    return cls(**found)
