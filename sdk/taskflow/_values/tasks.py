"""Named tasks and the ends of their runs as the cluster answers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskflow._values.backoff import Exponential
from taskflow._values.jobs import ErrorInfo


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A named task as it stood when it was asked for."""

    id: str
    name: str
    namespace: str
    title: str
    description: str
    active: bool
    target: str
    queue: str
    priority: int
    retries: int
    schedule: str
    time_zone: str
    last_run_at: datetime | None
    """The last start of a run of it: by `run`, a schedule, a backfill. Known once it has ended, or after 5 seconds."""
    next_run_at: datetime | None
    create_time: datetime | None
    timeout: float | None
    heartbeat_timeout: float | None
    requested_timeout: float | None
    in_progress_timeout: float | None
    backoff: Exponential | None
    """None: the default."""
    metadata: Mapping[str, str]
    tags: tuple[str, ...]
    payload: Any = None
    """The payload of its jobs that bring none."""
    concurrency: int = 0
    """How many of its jobs may run at once in the cluster; 0: no limit."""
    warnings: tuple[str, ...] = ()
    """`HANDLER_NOT_SEEN` when it was made and no worker had its handler."""
    update_time: datetime | None = None
    """The time of its last change, or of its creation before any."""
    sla: float | None = None
    """Seconds within which each of its jobs should start; None: without one."""
    start: datetime | None = None
    """No firing of its schedule before this."""
    end: datetime | None = None
    """No firing of its schedule after this."""


@dataclass(frozen=True, slots=True)
class TaskLogInfo:
    """One run that ended. `type`: app.task.completed or app.task.failed."""

    job_id: str
    task: str
    type: str
    time: datetime
    result: Any
    error: ErrorInfo | None
    task_id: str = ""
    trigger: str = ""
    """The origin of the job: manual, schedule, backfill or workflow."""
    start_time: datetime | None = None
    """The start of its last attempt; None if it never started."""

    @property
    def duration(self) -> float | None:
        """Seconds from the start of its last attempt to its end; None if it never started."""
        return None if self.start_time is None else (self.time - self.start_time).total_seconds()


@dataclass(frozen=True, slots=True)
class TaskLogs:
    """`count`: all that match, also those beyond the limit."""

    count: int
    logs: Sequence[TaskLogInfo]
