"""What a run has come to: small, immutable, and plain JSON. The run's owner stores it and passes it back.

What never changes in a run (its id, input and context) is not part of it. A step that nothing has happened to is not
part of it either, and of the results only those that some template reads: 1,000 steps that are done and whose results
nobody reads take 44 kB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class StepStatus(StrEnum):
    """Where a step stands. The last four are final."""

    PENDING = "pending"  # its edges do not allow it yet
    RUNNING = "running"  # jobs of it are under way
    WAITING = "waiting"  # for a time or a signal
    HELD = "held"  # failed; its group retries it
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  # its edges can no longer allow it
    CANCELLED = "cancelled"


class RunStatus(StrEnum):
    """Where a run stands. The last three are final."""

    NEW = "new"
    RUNNING = "running"
    CANCELLING = "cancelling"  # until all that was under way has ended
    ENDING = "ending"  # an executor ended it; until all that was under way has ended
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


FINAL_STEPS = frozenset({StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})
FINAL_RUNS = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})
OPEN = "open"  # a job's outcome while it has none


@dataclass(frozen=True, slots=True)
class Run:
    """What a run was started with.

    `context` is what templates may read besides the input: `schedule_id`, the app's attributes, the namespace's
    `app_url`. `run_id`, `workflow`, and an `app_url` of the workflow's own are added to it.
    """

    id: str
    input: Any = None
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobState:
    """One of the jobs of a step that is under way."""

    outcome: str = OPEN
    result: Any = None
    error: dict[str, Any] | None = None
    size: int = 0  # bytes of its result


@dataclass(frozen=True, slots=True)
class StepState:
    """One step. `iteration` counts how often it began: (run, step, iteration) names what it does."""

    status: StepStatus = StepStatus.PENDING
    iteration: int = 0
    error: dict[str, Any] | None = None
    due: str | None = None  # when its wait is over
    signal: str | None = None  # that it waits for
    jobs: tuple[JobState, ...] = ()  # begun, while it runs
    total: int = 1  # how many jobs its plan has
    size: int = 0  # bytes of its result that the run keeps


@dataclass(frozen=True, slots=True)
class GroupState:
    """One group."""

    used: int = 0  # retries since the run began, or was retried by hand
    iteration: int = 0  # of its timers; never goes back
    due: str | None = None  # waits until then before it retries
    over: bool = False  # that time has come, and something of the group still runs


@dataclass(frozen=True, slots=True)
class Deciding:
    """What a run whose executor decides has open."""

    number: int = 0  # of the last decision
    asked: dict[str, Any] | None = None  # the event that it is about
    open: bool = False  # it has not been made yet
    news: tuple[dict[str, Any], ...] = ()  # events that wait for their decisions
    begun: int = 0  # how many tasks, workflows and waits
    tasks: Mapping[str, str] = field(default_factory=dict)  # those under way: name -> task, workflow or wait
    output: Any = None  # as the executor ended it
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class RunState:
    """A run. `RunState()` is one that has not begun."""

    status: RunStatus = RunStatus.NEW
    digest: str = ""  # of the document that it began with (R24)
    round: int = 0  # how often it was retried by hand
    steps: Mapping[str, StepState] = field(default_factory=dict)
    groups: Mapping[str, GroupState] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)  # of the steps that templates read
    signals: tuple[tuple[str, Any], ...] = ()  # that nobody has waited for yet
    seen: tuple[str, ...] = ()  # ids of the last signals
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
        """What `to_json` gave."""
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
        """Also of a step that nothing has happened to."""
        return self.steps.get(name, _UNTOUCHED)

    @property
    def waiting(self) -> bool:
        """It is not final, and nothing of it is under way: it waits to begin, for a time or for a signal."""
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
    """The fields of a dataclass that are not as they are at first."""
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
