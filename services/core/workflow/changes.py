"""The changes that an event causes. The run's owner performs them in the transaction that stores the new state.

`key` identifies the object of a change within its run: (run, key) makes one job, one timer or one child run, however
often the change is applied.
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


REASON = "taskflow.reason"  # in the error of a run: failed_by_executor or unknown_error, if its type differs
DECISION = "decision"  # the step of a decision's job; its iteration is the decision's number


def decision_task(workflow: str) -> str:
    """The name of the task whose jobs are the decisions of a workflow; its executors poll for this task."""
    namespace, slash, name = workflow.rpartition("/")
    return f"awf.workflow.decision{'.' if slash else ''}{namespace}/{name}"


def activity_id(run: str, name: str) -> str:
    """The id, for clients, of a decision's action without a job or run: a wait, or one that cannot be performed."""
    return f"{run}.{name}"


def decided_document(workflow: str) -> str:
    """The document of a workflow that was never stored: its executor decides."""
    return json.dumps({"name": workflow, "decider": {}})


@dataclass(frozen=True, slots=True)
class CreateJob:
    """A job for a step. `task` is None for the queue's handler; other fields that are None come from the task.

    `after`: the steps that led here, whose outcomes the step gets. `workflow` is set for a decision: the workflow whose
    executors make it.
    """

    step: str
    iteration: int
    index: int
    task: str | None
    queue: str | None
    payload: Any
    retries: int | None = None
    backoff: Backoff | None = None
    timeout: float | None = None  # seconds, for one attempt
    priority: int | None = None
    label: str | None = None
    after: tuple[str, ...] = ()
    workflow: str | None = None

    @property
    def key(self) -> str:
        return job_key(self.step, self.iteration, self.index)


@dataclass(frozen=True, slots=True)
class StartRun:
    """Starts a child run. Its end returns as a JobFinished."""

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
    """Cancels the job or the child run of this key. Its end still returns as a JobFinished."""

    step: str
    iteration: int
    index: int

    @property
    def key(self) -> str:
        return job_key(self.step, self.iteration, self.index)


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Sends TimerDue(name, iteration) at `due`. `name` is that of a step, or of a group that waits for its retry."""

    name: str
    iteration: int
    due: datetime
    after: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.name}/{self.iteration}"


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Deletes a timer. If it fires nevertheless, it changes nothing."""

    name: str
    iteration: int

    @property
    def key(self) -> str:
        return f"{self.name}/{self.iteration}"


@dataclass(frozen=True, slots=True)
class StepChanged:
    """A step has a new status, for the rows that people read."""

    step: str
    iteration: int
    status: StepStatus
    error: dict[str, Any] | None = None
    due: str | None = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunChanged:
    """The run has a new status that is not final: it runs (again), or is being cancelled or ended."""

    status: RunStatus


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is final. A retry by hand can make it run again."""

    status: RunStatus
    output: Any = None
    error: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """A line for the run's log: an action that was not performed, and the reason."""

    message: str


Change = CreateJob | StartRun | CancelJob | SetTimer | CancelTimer | StepChanged | RunChanged | RunFinished | Note
