"""Messages of named tasks as values, and the options that define a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration

from taskflow._messages import checks, payloads
from taskflow._messages.options import MAX_RETRIES, JobOptions, Seconds, _apply_extra, stamp_of
from taskflow._messages.schedules import FIELDS
from taskflow._values.backoff import Backoff, Exponential
from taskflow._values.tasks import TaskInfo
from taskflow.errors import InvalidArgument
from taskflow.v1 import jobs_pb2
from taskflow.v1 import tasks_pb2 as pb


class TaskOptions(TypedDict, total=False):
    """Arguments of `create` and `update`."""

    target: str
    """The registered handler; the task's own name by default."""
    queue: str
    title: str
    description: str
    active: bool
    """False stops its schedule; it can still be run."""
    schedule: str
    """A cron expression: its own schedule."""
    frequency: str
    """Another word for `schedule`."""
    time_zone: str
    start: datetime | None
    """No firing of its schedule before this; without a zone it is UTC. None takes it away; so for `end`."""
    end: datetime | None
    """No firing of its schedule after this."""
    priority: int | str
    """0–9, or low, normal, high, critical; without it as the handler's task says, and so for queue and retries."""
    retries: int
    timeout: Seconds | None
    """None takes it away; so for what follows."""
    heartbeat_timeout: Seconds | None
    requested_timeout: Seconds | None
    """As in JobOptions, and so is what follows."""
    in_progress_timeout: Seconds | None
    backoff: Backoff | None
    sla: Seconds | None
    metadata: Mapping[str, str] | None
    """The metadata of its jobs."""
    tags: Iterable[str] | None
    payload: Any
    """The payload of its jobs that bring none: by `run` without one, by a schedule, or as a step of a workflow."""
    concurrency: int
    """How many of its jobs may run at once in the cluster, whoever made them; 0, the default: no limit."""


MAX_CONCURRENCY = 1_000_000

_CHECKS: Mapping[str, Callable[[object, str], Any]] = {
    "active": checks.flag,
    "priority": checks.priority,
    "retries": lambda value, field: checks.whole(value, field, 0, MAX_RETRIES),
    "concurrency": lambda value, field: checks.whole(value, field, 0, MAX_CONCURRENCY),
}
_JOB_OPTIONS = (
    "timeout", "heartbeat_timeout", "requested_timeout", "in_progress_timeout", "backoff", "sla", "metadata",
    "tags",
)  # fmt: skip


def _message(given: TaskOptions) -> tuple[pb.Task, list[str]]:
    """The task and the paths that were given."""
    checks.options(given, TaskOptions.__annotations__, "a task")
    if "schedule" in given and "frequency" in given:
        raise InvalidArgument("frequency: another word for schedule; give one of them", field="frequency")
    values: dict[str, Any] = {"schedule" if name == "frequency" else name: value for name, value in given.items()}
    message = pb.Task()
    paths = []
    for name, value in values.items():
        if name == "payload":
            if value is not None:
                message.payload, message.encoding = payloads.encode(value)  # type: ignore[assignment]
            paths.append(name)
        elif name in FIELDS:
            if value is not None:
                getattr(message, FIELDS[name]).CopyFrom(stamp_of(value, name))
            paths.append(FIELDS[name])
        elif name not in _JOB_OPTIONS:
            given_as = "frequency" if name == "schedule" and "frequency" in given else name
            setattr(message, name, _CHECKS.get(name, checks.text)(value, given_as))
            paths.append(name)
        else:
            paths.append(f"options.{name}")
    options = JobOptions(**{name: values[name] for name in _JOB_OPTIONS if name in values})
    if options != JobOptions():
        _apply_extra(message.options, options)
    return message, paths


def task_info(message: pb.Task, warnings: Sequence[str] = ()) -> TaskInfo:
    """The value of a Task message."""

    def instant(name: str) -> datetime | None:
        return getattr(message, name).ToDatetime(tzinfo=UTC) if message.HasField(name) else None  # type: ignore[arg-type]

    return TaskInfo(
        id=message.id,
        name=message.name,
        namespace=message.namespace,
        title=message.title,
        description=message.description,
        active=message.active,
        target=message.target,
        queue=message.queue,
        priority=message.priority,
        retries=message.retries,
        schedule=message.schedule,
        time_zone=message.time_zone,
        last_run_at=instant("last_run_time"),
        next_run_at=instant("next_run_time"),
        create_time=instant("create_time"),
        timeout=_span(message.options, "timeout"),
        heartbeat_timeout=_span(message.options, "heartbeat_timeout"),
        requested_timeout=_span(message.options, "requested_timeout"),
        in_progress_timeout=_span(message.options, "in_progress_timeout"),
        backoff=_backoff(message.options),
        metadata=dict(message.options.metadata),
        tags=tuple(message.options.tags),
        payload=payloads.decode(message.payload, message.encoding),
        concurrency=message.concurrency,
        warnings=tuple(warnings),
        update_time=instant("update_time"),
        sla=_span(message.options, "sla"),
        start=instant("start_time"),
        end=instant("end_time"),
    )


def _span(message: Any, name: str) -> float | None:
    length: Duration = getattr(message, name)
    return length.ToMicroseconds() / 1e6 if message.HasField(name) else None


def _backoff(options: jobs_pb2.JobOptions) -> Exponential | None:
    if not options.HasField("backoff"):
        return None
    given, default = options.backoff, Exponential()
    first, limit = _span(given, "first"), _span(given, "limit")
    return Exponential(
        first=default.first if first is None else first,
        factor=given.factor or default.factor,
        limit=default.limit if limit is None else limit,
        jitter=given.jitter if given.HasField("jitter") else default.jitter,
    )
