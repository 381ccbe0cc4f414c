"""Messages of jobs, attempts, queues and workers as values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._messages import payloads
from taskflow._policy import STATES, JobState
from taskflow._values.jobs import (
    AttemptInfo,
    ErrorInfo,
    JobInfo,
    JobWarning,
    LogInfo,
    Outcome,
    ProgressInfo,
    QueueInfo,
    WorkerInfo,
)
from taskflow.v1 import cluster_pb2, jobs_pb2, queues_pb2

_OUTCOMES = {getattr(jobs_pb2, f"OUTCOME_{o.name}"): o for o in Outcome}


class _HasFields(Protocol):
    def HasField(self, field_name: Any) -> bool: ...


def time_of(owner: _HasFields, name: str) -> datetime | None:
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


def error_of(owner: _HasFields) -> ErrorInfo | None:
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
        state=STATES.get(job.state, JobState.READY),
        payload=_value(job.payload, job.encoding),
        result=_value(job.result, job.result_encoding),
        error=error_of(job),
        priority=job.priority,
        retries=job.retries,
        attempt=job.attempt,
        key=job.key,
        create_time=time_of(job, "create_time"),
        run_time=time_of(job, "run_time"),
        start_time=time_of(job, "start_time"),
        finish_time=time_of(job, "finish_time"),
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
        start_time=time_of(attempt, "start_time"),
        finish_time=time_of(attempt, "finish_time"),
        result=_value(attempt.result, attempt.result_encoding),
        error=error_of(attempt),
    )


def log_info(log: jobs_pb2.JobLog) -> LogInfo:
    """The value of a JobLog message."""
    return LogInfo(log.attempt, time_of(log, "time"), log.level, log.message)


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
        create_time=time_of(queue, "create_time"),
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
        start_time=time_of(worker, "start_time"),
        coordinator=worker.coordinator,
        coordinators=tuple(worker.coordinators),
        sdk=worker.sdk,
        draining=worker.draining,
        overdue=worker.overdue,
    )
