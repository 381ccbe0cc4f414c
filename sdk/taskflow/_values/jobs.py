"""Answers of the cluster, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._values import payloads
from taskflow.v1 import cluster_pb2, jobs_pb2, queues_pb2


class JobState(StrEnum):
    """Where a job stands. The last three are final."""

    SCHEDULED = "scheduled"
    READY = "ready"
    REQUESTED = "requested"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self in _FINAL


_FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    LOST = "lost"
    CANCELLED = "cancelled"
    SNOOZED = "snoozed"
    RETURNED = "returned"


_STATES = {getattr(jobs_pb2, f"JOB_STATE_{s.name}"): s for s in JobState}
_OUTCOMES = {getattr(jobs_pb2, f"OUTCOME_{o.name}"): o for o in Outcome}
STATE_NUMBERS = {state: number for number, state in _STATES.items()}


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
    """That nobody is there to run it. Lists leave it out."""
    sla: float | None = None
    """Seconds within which it should start, from when it is due; None: without one."""
    sla_missed: bool = False
    """It had not started when its sla ended."""


@dataclass(frozen=True, slots=True)
class JobWarning:
    """Why nobody is there to run what waits; a worker may still come. As text: the message.

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
    """One for each task whose jobs wait and that nobody is there to run. Lists leave them out."""


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


class _HasFields(Protocol):
    def HasField(self, field_name: Any) -> bool: ...


def _time(owner: _HasFields, name: str) -> datetime | None:
    if not owner.HasField(name):
        return None
    stamp: Timestamp = getattr(owner, name)
    return stamp.ToDatetime(UTC)


def _value(data: bytes, encoding: int) -> Any:
    """The value; as bytes where something else than an SDK wrote what cannot be read."""
    try:
        return payloads.decode(data, encoding)
    except ValueError:
        return data


def _error(owner: _HasFields) -> ErrorInfo | None:
    if not owner.HasField("error"):
        return None
    error: jobs_pb2.Error = owner.error  # type: ignore[attr-defined]
    return ErrorInfo(error.type, error.message, error.traceback, error.final)


def warnings_of(messages: Iterable[jobs_pb2.Warning]) -> tuple[JobWarning, ...]:
    return tuple(JobWarning(message.reason, message.message) for message in messages)


def job_info(job: jobs_pb2.Job) -> JobInfo:
    """The value of a Job message."""
    progress = None
    if job.HasField("progress"):
        p = job.progress
        progress = ProgressInfo(p.current, p.total, p.unit, p.message)
    return JobInfo(
        id=job.id,
        namespace=job.namespace,
        queue=job.queue,
        task=job.task,
        state=_STATES.get(job.state, JobState.READY),
        payload=_value(job.payload, job.encoding),
        result=_value(job.result, job.result_encoding),
        error=_error(job),
        priority=job.priority,
        retries=job.retries,
        attempt=job.attempt,
        key=job.key,
        create_time=_time(job, "create_time"),
        run_time=_time(job, "run_time"),
        start_time=_time(job, "start_time"),
        finish_time=_time(job, "finish_time"),
        progress=progress,
        cancelling=job.cancelling,
        worker=job.worker,
        last_outcome=_OUTCOMES.get(job.last_outcome),
        metadata=dict(job.options.metadata),
        tags=tuple(job.options.tags),
        requester=payloads.decode(job.options.requester, payloads.JSON) or {},
        label=job.options.label,
        timeout=job.options.timeout.ToMicroseconds() / 1e6 if job.options.HasField("timeout") else None,
        warnings=warnings_of(job.warnings),
        sla=job.options.sla.ToMicroseconds() / 1e6 if job.options.HasField("sla") else None,
        sla_missed=job.sla_missed,
    )


def attempt_info(attempt: jobs_pb2.Attempt) -> AttemptInfo:
    """The value of an Attempt message."""
    return AttemptInfo(
        job_id=attempt.job_id,
        number=attempt.number,
        exec_id=attempt.exec_id,
        outcome=_OUTCOMES.get(attempt.outcome),
        final=attempt.final,
        worker=attempt.worker,
        start_time=_time(attempt, "start_time"),
        finish_time=_time(attempt, "finish_time"),
        result=_value(attempt.result, attempt.result_encoding),
        error=_error(attempt),
    )


def log_info(log: jobs_pb2.JobLog) -> LogInfo:
    """The value of a JobLog message."""
    return LogInfo(log.attempt, _time(log, "time"), log.level, log.message)


def queue_info(queue: queues_pb2.Queue) -> QueueInfo:
    """The value of a Queue message."""
    return QueueInfo(
        name=queue.name,
        namespace=queue.namespace,
        ready=queue.ready,
        scheduled=queue.scheduled,
        running=queue.running,
        requested=queue.requested,
        oldest=queue.oldest.ToMicroseconds() / 1e6,
        workers=queue.workers,
        memory_bytes=queue.memory_bytes,
        create_time=_time(queue, "create_time"),
        ready_capped=queue.ready_capped,
        paused=queue.paused,
        warnings=warnings_of(queue.warnings),
        finished={_OUTCOMES[count.outcome]: count.count for count in queue.finished if count.outcome in _OUTCOMES},
        draining=queue.draining,
        ready_estimated=queue.ready_estimated,
    )


def worker_info(worker: cluster_pb2.Worker) -> WorkerInfo:
    """The value of a Worker message."""
    return WorkerInfo(
        id=worker.id,
        name=worker.name,
        host=worker.host,
        pid=worker.pid,
        queues=tuple(worker.queues),
        tasks=tuple(worker.tasks),
        concurrency=worker.concurrency,
        running=worker.running,
        requested=worker.requested,
        start_time=_time(worker, "start_time"),
        coordinator=worker.coordinator,
        coordinators=tuple(worker.coordinators),
        sdk=worker.sdk,
        draining=worker.draining,
        overdue=worker.overdue,
    )
