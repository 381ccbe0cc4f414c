"""The state of a run: small, immutable, and plain JSON. The run's owner stores it and passes it back.

It excludes the constants of a run (its id, input and context), steps without an event so far, and results that no
template reads: 1,000 ended steps without such results take 44 kB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StepStatus(StrEnum):
    """The status of a step. The last four are final."""

    PENDING = "pending"  # its dependencies or edges do not allow it yet
    RUNNING = "running"  # has open jobs
    WAITING = "waiting"  # for a time or a signal
    HELD = "held"  # failed; its group will retry it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # its dependencies or edges can no longer allow it
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    """The status of a run. The last three are final."""

    NEW = "new"
    RUNNING = "running"
    CANCELLING = "cancelling"  # until all open jobs have ended
    ENDING = "ending"  # ended by an executor; until all open jobs have ended
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STEPS = frozenset({StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})
FINAL_RUNS = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})
OPEN = "open"  # the outcome of a job that has not ended


@dataclass(frozen=True, slots=True)
class Run:
    """The constants of a run.

    Templates read `context` besides the input: `schedule_id`, the app's attributes, the namespace's `app_url`. The
    engine adds `run_id`, `workflow`, and the workflow's own `app_url`.
    """

    id: str
    input: Any = None
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobState:
    """A job of a running step."""

    outcome: str = OPEN
    result: Any = None
    error: dict[str, Any] | None = None
    size: int = 0  # bytes of its result


@dataclass(frozen=True, slots=True)
class StepState:
    """A step. `iteration` counts its starts: (run, step, iteration) identifies its jobs and timers."""

    status: StepStatus = StepStatus.PENDING
    iteration: int = 0
    error: dict[str, Any] | None = None
    due: str | None = None  # the end of its wait
    signal: str | None = None  # for which it waits
    jobs: tuple[JobState, ...] = ()  # created so far, while it runs
    total: int = 1  # number of jobs in its plan
    size: int = 0  # bytes of its result, if the run keeps it


@dataclass(frozen=True, slots=True)
class GroupState:
    """A group."""

    used: int = 0  # retries since the start of the run or its retry by hand
    iteration: int = 0  # of its timers; never decreases
    due: str | None = None  # the time of its retry
    over: bool = False  # `due` has passed, and a step of the group still runs


@dataclass(frozen=True, slots=True)
class Deciding:
    """The decisions and open tasks of a run whose executor decides."""

    number: int = 0  # number of the last decision
    asked: dict[str, Any] | None = None  # the event of that decision
    open: bool = False  # the decision has not been made yet
    news: tuple[dict[str, Any], ...] = ()  # events that wait for a decision
    begun: int = 0  # number of tasks, child runs and waits so far
    tasks: Mapping[str, str] = field(default_factory=dict)  # open ones: name -> task, workflow or wait
    output: Any = None  # from the executor's last action
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """The state of a run. `RunState()` is that of a run that has not started."""

    status: RunStatus = RunStatus.NEW
    digest: str = ""  # of the document with which it started (R24)
    round: int = 0  # number of retries by hand
    steps: Mapping[str, StepState] = field(default_factory=dict)
    groups: Mapping[str, GroupState] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)  # of the steps that templates read
    signals: tuple[tuple[str, Any], ...] = ()  # not yet consumed by a wait
    seen: tuple[str, ...] = ()  # ids of the latest signals
    deciding: Deciding = Deciding()

    def to_json(self) -> dict[str, Any]:
        """For a jsonb column; `from_json` reads it back."""
        found = _plain(self, "steps", "groups", "signals", "deciding")
        if self.steps:
            found["steps"] = {name: _step_json(step) for name, step in self.steps.items()}
        if self.groups:
            found["groups"] = {name: _plain(group) for name, group in self.groups.items()}
        if self.signals:
            found["signals"] = [list(signal) for signal in self.signals]
        if self.deciding != Deciding():
            found["deciding"] = _plain(self.deciding)
        return found

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> RunState:
        """The state from the result of `to_json`."""
        deciding = dict(stored.get("deciding", {}))
        deciding["news"] = tuple(deciding.get("news", ()))
        return cls(
            status=RunStatus(stored.get("status", "new")),
            digest=stored.get("digest", ""),
            round=stored.get("round", 0),
            steps={name: _step(step) for name, step in stored.get("steps", {}).items()},
            groups={name: GroupState(**group) for name, group in stored.get("groups", {}).items()},
            results=stored.get("results", {}),
            signals=tuple((name, payload) for name, payload in stored.get("signals", ())),
            seen=tuple(stored.get("seen", ())),
            deciding=Deciding(**deciding),
        )

    def step(self, name: str) -> StepState:
        """The state of a step, also of one without an event so far."""
        return self.steps.get(name, _UNTOUCHED)

    @property
    def waiting(self) -> bool:
        """Whether it has no open jobs and is not final: it waits to start, for a time or for a signal."""
        decided = self.deciding.open or any(kind != "wait" for kind in self.deciding.tasks.values())
        running = decided or any(step.status is StepStatus.RUNNING for step in self.steps.values())
        return self.status in (RunStatus.NEW, RunStatus.RUNNING) and not running

    @property
    def awaited(self) -> list[str]:
        """The signals that steps wait for."""
        waiting = (step.signal for step in self.steps.values() if step.status is StepStatus.WAITING)
        return sorted({signal for signal in waiting if signal})


_UNTOUCHED = StepState()
_DEFAULTS: dict[type, dict[str, Any]] = {}


def _plain(value: Any, *without: str) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    cls = type(value)
    if cls not in _DEFAULTS:
        blank = cls()
        _DEFAULTS[cls] = {name: getattr(blank, name) for name in cls.__dataclass_fields__}
    found = {name: getattr(value, name) for name in _DEFAULTS[cls] if name not in without}
    return {
        name: list(part) if isinstance(part, tuple) else part
        for name, part in found.items()
        if part != _DEFAULTS[cls][name]
    }


def _step_json(step: StepState) -> dict[str, Any]:
    found = _plain(step, "jobs")
    return {**found, "jobs": [_plain(job) for job in step.jobs]} if step.jobs else found


def _step(stored: Mapping[str, Any]) -> StepState:
    fields = {**stored, "status": StepStatus(stored.get("status", "pending"))}
    if "jobs" in fields:
        fields["jobs"] = tuple(JobState(**job) for job in fields["jobs"])
    return StepState(**fields)
