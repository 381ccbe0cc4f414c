"""Workflows and runs as the cluster answers them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from taskflow._policy import JobState
from taskflow._values.jobs import ErrorInfo, JobWarning


class RunState(StrEnum):
    """The status of a run. The last three are final."""

    NEW = "new"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDING = "ending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class StepState(StrEnum):
    """The status of a step of a run. The last four are final."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A version of a workflow. Lists leave the document out."""

    name: str
    version: int
    document: dict[str, Any] | None
    digest: str
    title: str
    create_time: datetime | None
    cron: str
    """Its own schedule's; empty without one."""
    next_run_at: datetime | None
    last_run_at: datetime | None
    warnings: tuple[JobWarning, ...] = ()
    """Why no worker can run jobs of its steps; at most 20, none in lists."""


@dataclass(frozen=True, slots=True)
class RunJobInfo:
    """A job of a step, or a run that it has started."""

    job_id: str
    run_id: str
    iteration: int
    index: int
    task: str
    """Or the started run's workflow."""
    state: JobState | RunState | None
    """None: it could not be made, or is gone."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step of a run, as it stood last."""

    name: str
    kind: str
    state: StepState
    iteration: int
    """How often it began."""
    error: ErrorInfo | None
    start_time: datetime | None
    finish_time: datetime | None
    due_time: datetime | None
    """Until when it waits."""
    jobs: tuple[RunJobInfo, ...]
    """All its iterations, oldest first."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as it stood when it was asked for. Lists leave input, output, steps and logs out."""

    id: str
    workflow: str
    version: int
    state: RunState
    input: Any
    output: Any
    error: ErrorInfo | None
    metadata: dict[str, str]
    label: str
    trigger: str
    schedule_id: str
    parent_run_id: str
    create_time: datetime | None
    start_time: datetime | None
    finish_time: datetime | None
    steps: tuple[StepInfo, ...]
    signals: tuple[str, ...]
    """That its steps wait for."""
    waiting: bool
    """Nothing of it is under way: it waits for a time or a signal, or to begin."""
    sla_missed: bool
    logs: tuple[tuple[datetime, str], ...]
    """The omitted part, and why."""

    def step(self, name: str) -> StepInfo:
        """The step of this name. KeyError when there is none."""
        return {step.name: step for step in self.steps}[name]
