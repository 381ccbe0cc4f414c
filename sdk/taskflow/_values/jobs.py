"""Jobs, attempts, queues and workers as the cluster answers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from taskflow._policy import JobState


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"
    RETURNED = "returned"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why an attempt did not succeed."""

    type: str
    message: str
    traceback: str = ""
    final: bool = False

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


@dataclass(frozen=True, slots=True)
class ProgressInfo:
    """The last progress that a handler reported. `total` 0: unknown."""

    current: float
    total: float = 0.0
    unit: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A job as it stood when it was asked for."""

    id: str
    namespace: str
    queue: str
    task: str
    state: JobState
    payload: Any
    result: Any
    error: ErrorInfo | None
    priority: int
    retries: int
    attempt: int
    """Executions so far, the present one included."""
    key: str
    create_time: datetime | None
    run_time: datetime | None
    start_time: datetime | None
    finish_time: datetime | None
    progress: ProgressInfo | None
    cancelling: bool
    worker: str
    last_outcome: Outcome | None
    metadata: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    requester: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    timeout: float | None = None
    """Hard limit of one attempt, in seconds; None: without one."""
    warnings: tuple[JobWarning, ...] = ()
    """Warnings that no worker can run it. Lists leave them out."""
    sla: float | None = None
    """Seconds within which it should start, from when it is due; None: without one."""
    sla_missed: bool = False
    """It had not started when its sla ended."""


@dataclass(frozen=True, slots=True)
class JobWarning:
    """Why no worker can run waiting jobs; one may still register. As text: the message.

    `reason`: HANDLER_NOT_SEEN (no worker has ever had a handler for the task), NO_LIVE_WORKER (none has one now), or
    QUEUE_NOT_SERVED (those that have one take no jobs from the queue).
    """

    reason: str
    message: str

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class AttemptInfo:
    """One try. `outcome` None: it runs; `start_time` None: it never started."""

    job_id: str
    number: int
    exec_id: str
    outcome: Outcome | None
    final: bool
    worker: str
    start_time: datetime | None
    finish_time: datetime | None
    result: Any
    error: ErrorInfo | None


@dataclass(frozen=True, slots=True)
class LogInfo:
    """A line that a handler wrote with `job.log`, or TaskFlow about the job."""

    attempt: int
    time: datetime | None
    level: str
    message: str


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """A queue and what waits in it. `ready` is exact up to 10,000, and about right beyond: `ready_estimated`. There are
    more than it says if `ready_capped`."""

    name: str
    namespace: str
    ready: int
    scheduled: int
    running: int
    requested: int
    """Prefetched jobs, beyond the slots of their workers."""
    oldest: float
    """Age in seconds of the job that has been ready longest."""
    workers: int
    memory_bytes: int
    create_time: datetime | None
    ready_capped: bool
    paused: bool
    """Nothing of it is handed out."""
    finished: Mapping[Outcome, int]
    """Jobs that ended in the last hour, by the outcome of their last attempt. Approximate: a killed coordinator loses
    the counts of its last 3 s."""
    draining: bool = False
    """It accepts no new jobs."""
    ready_estimated: bool = False
    """Over 10,000 are ready, so that `ready` is some seconds old and counts jobs that were just dispatched, too."""
    warnings: tuple[JobWarning, ...] = ()
    """One for each task with waiting jobs that no worker can run. Lists leave them out."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A live worker."""

    id: str
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    tasks: tuple[str, ...]
    concurrency: int
    running: int
    requested: int
    """Prefetched jobs, beyond its slots."""
    start_time: datetime | None
    coordinator: str
    """The first of `coordinators`."""
    sdk: str
    draining: bool
    coordinators: tuple[str, ...] = ()
    """All that it is registered with: the owner of its queues, and standbys."""
    overdue: int = 0
    """Handlers that go on after the end of their attempts: each keeps one of its slots."""
