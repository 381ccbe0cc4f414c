"""The events of a run. Plain data, which `run_inbox` can store.

These change nothing: a repeated or late JobFinished or TimerDue; a Signal with a known id; a RetryRequested whose round
has ended; a Started or CancelRequested that follows another.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from taskflow._policy import Outcome


@dataclass(frozen=True, slots=True)
class Started:
    """The run starts."""


@dataclass(frozen=True, slots=True)
class JobFinished:
    """The job of a CreateJob is final; or the run of a StartRun, whose id is `job_id`."""

    step: str
    iteration: int
    index: int
    outcome: Outcome
    result: Any = None
    error: Any = None
    job_id: str = ""


@dataclass(frozen=True, slots=True)
class TimerDue:
    """A timer fired."""

    name: str
    iteration: int


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal for the run. `id`: chosen by the sender, so that a repeated call sends the signal once."""

    name: str
    payload: Any = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A user requested the cancel of the run."""


@dataclass(frozen=True, slots=True)
class RetryRequested:
    """A user requested the retry of a failed or cancelled run. `round` is the RunState.round that the user saw."""

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
    """The event from the result of `to_json`."""
    found = dict(stored)
    cls = _TYPES[found.pop("event")]
    if cls is JobFinished:
        found["outcome"] = Outcome[found["outcome"].upper()]
    return cls(**found)
