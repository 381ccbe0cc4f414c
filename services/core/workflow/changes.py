"""What is to be done about a run. Its owner does it in the transaction that stores the new state.

`key` names what a change is about within its run: (run, key) makes one job, one timer or one child run, however often
the change is applied.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskflow._policy import Backoff
from taskflow_server.core.workflow.state import RunStatus, StepStatus


def job_key(step: str, iteration: int, index: int) -> str:
    """The key of a job."""
    return f"{step}/{iteration}/{index}"


REASON = "taskflow.reason"  # in the error of a run: failed_by_executor or unknown_error, where its type is another
DECISION = "decision"  # the step of a decision's job; its iteration is the decision's number


def decision_task(workflow: str) -> str:
    """The name of the task that decisions of a workflow are jobs of: who polls for decisions polls for it."""
    namespace, slash, name = workflow.rpartition("/")
    return f"awf.workflow.decision{'.' if slash else ''}{namespace}/{name}"


def activity_id(run: str, name: str) -> str:
    """The id, for clients, of what a decision began and what is no job and no run: a wait, or what cannot be made."""
    return f"{run}.{name}"


def decided_document(workflow: str) -> str:
    """The document of a workflow that nobody has stored: its executor decides."""
    return json.dumps({"name": workflow, "decider": {}})


@dataclass(frozen=True, slots=True)
class CreateJob:
    """A job for a step. `task` is None for the queue's own handler; what else is None is as the task has it.

    `after` are the steps that led here: their outcome is what the step resumes with. `workflow` is set for a decision:
    the workflow whose executors it is for.
    """

    step: str
    iteration: int
    index: int
    task: str | None
    queue: str | None
    payload: Any
    retries: int | None = None
    backoff: Backoff | None = None
    timeout: float | None = None  # seconds, of one attempt
    priority: int | None = None
    label: str | None = None
    after: tuple[str, ...] = ()
    workflow: str | None = None

    @property
    def key(self) -> str:
        return job_key(self.step, self.iteration, self.index)


@dataclass(frozen=True, slots=True)
class StartRun:
    """A child run. Its end comes back as a JobFinished."""

    step: str
    iteration: int
    workflow: str
    input: Any
    label: str | None = None

    @property
    def key(self) -> str:
        return job_key(self.step, self.iteration, 0)


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Cancel the job, or the child run, of this key. Its end comes back as a JobFinished all the same."""

    step: str
    iteration: int
    index: int

    @property
    def key(self) -> str:
        return job_key(self.step, self.iteration, self.index)


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Send TimerDue(name, iteration) at `due`. `name` is a step's, or a group's that waits for its retry."""

    name: str
    iteration: int
    due: datetime
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.name}/{self.iteration}"


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """The timer is not needed any more. If it comes all the same, it changes nothing."""

    name: str
    iteration: int

    @property
    def key(self) -> str:
        return f"{self.name}/{self.iteration}"


@dataclass(frozen=True, slots=True)
class StepChanged:
    """A step has another status: for the rows that people read."""

    step: str
    iteration: int
    status: StepStatus
    error: dict[str, Any] | None = None
    due: str | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunChanged:
    """The run has another status that is not final: it runs (again), or is being cancelled or ended."""

    status: RunStatus


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is final. A retry by hand may make it run again."""

    status: RunStatus
    output: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the run's log: it was not done, and why."""

    message: str


Change = CreateJob | StartRun | CancelJob | SetTimer | CancelTimer | StepChanged | RunChanged | RunFinished | Note
