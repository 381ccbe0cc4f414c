"""What can be said of a job when it is made, checked before anything is sent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict, Unpack

from google.protobuf.duration_pb2 import Duration

from taskflow import _ids, _values
from taskflow._policy import BUILTIN_TASKS
from taskflow.errors import InvalidArgument
from taskflow.v1 import jobs_pb2

Seconds = float | timedelta

_NAME = re.compile(r"(?:[A-Za-z0-9_.-]{1,128}/)?[A-Za-z0-9_-]{1,128}\Z")
_MAX_RETRIES = 1_000_000
_MAX_SECONDS = 10 * 365 * 86_400
_MAX_LABEL = 256
MAX_REQUESTER = 4096  # bytes
_good_names: set[str] = set(BUILTIN_TASKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """Waits `min(limit, first × factor^(n-1))` seconds before further try n, spread by ± `jitter` (a share, 0–1)."""

    first: float = 1.0
    factor: float = 2.0
    limit: float = 600.0
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Constant:
    """Waits `delay` seconds before every further try, spread by ± `jitter` (a share, 0–1)."""

    delay: float
    jitter: float = 0.1


Backoff = Exponential | Constant


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Everything but queue and payload. Left out, a task's own value holds, else the default named here."""

    retries: int | None = None
    """Further tries after the first; 0."""
    task: str | None = None
    """Name of the task whose handler runs it; none: the queue's own handler."""
    priority: int | None = None
    """0–9, higher first; 5."""
    delay: Seconds | None = None
    """Seconds until it is due; due at once."""
    run_at: datetime | None = None
    """The instant at which it is due, with a time zone; not together with `delay`."""
    key: str | None = None
    """Idempotency key: a second job with it is not made, the first is answered."""
    timeout: Seconds | None = None
    """Hard limit of one attempt from its start, in seconds; none."""
    heartbeat_timeout: Seconds | None = None
    """The handler must call `job.heartbeat()` or `job.progress()` at least so often, in seconds; need not."""
    requested_timeout: Seconds | None = None
    """Of executors without the SDK: to the start of what was handed out, in seconds; 10."""
    in_progress_timeout: Seconds | None = None
    """Of executors without the SDK: between two notifications, in seconds; 120."""
    backoff: Backoff | None = None
    """How long to wait before further tries; Exponential()."""
    start_by: datetime | None = None
    """Not started by then: cancelled."""
    metadata: Mapping[str, str] | None = None
    tags: Iterable[str] | None = None
    requester: Mapping[str, Any] | None = None
    """Attributes of whoever the job is made for, at most 4,096 bytes of JSON; its handler sees them."""
    label: str | None = None
    """A line for people, at most 256 characters."""

    def over(self, base: JobOptions | None) -> JobOptions:
        """These, and where they say nothing those of `base`."""
        if base is None:
            return self
        return JobOptions(**{n: v if (v := getattr(self, n)) is not None else getattr(base, n) for n in _OPTION_NAMES})


class JobKeywords(TypedDict, total=False):
    """The fields of JobOptions as keywords of a call."""

    retries: int
    task: str | None
    priority: int | None
    delay: Seconds | None
    run_at: datetime | None
    key: str | None
    timeout: Seconds | None
    heartbeat_timeout: Seconds | None
    requested_timeout: Seconds | None
    in_progress_timeout: Seconds | None
    backoff: Backoff | None
    start_by: datetime | None
    metadata: Mapping[str, str] | None
    tags: Iterable[str] | None
    requester: Mapping[str, Any] | None
    label: str | None


_OPTION_NAMES = tuple(f.name for f in dataclasses.fields(JobOptions))


class NewJob:
    """One job of a `new_jobs` call: queue, payload and the options of `JobOptions` as keywords."""

    __slots__ = ("options", "payload", "queue")

    def __init__(
        self, queue: str, payload: Any = None, options: JobOptions | None = None, **more: Unpack[JobKeywords]
    ) -> None:
        self.queue = queue
        self.payload = payload
        self.options = options_of(more, options)


def options_of(given: Mapping[str, Any], base: JobOptions | None) -> JobOptions | None:
    """Keywords of a call over its `options=`. InvalidArgument names an unknown one."""
    if not given:
        return base
    try:
        return JobOptions(**given).over(base)
    except TypeError:
        unknown = next(iter(set(given) - set(_OPTION_NAMES)), "")
        raise InvalidArgument(
            f"{unknown}: not an option of a job; there are {', '.join(_OPTION_NAMES)}", field=unknown
        ) from None


def check_name(name: object, field: str) -> str:
    """A queue's or task's name. InvalidArgument says what one is."""
    if isinstance(name, str) and name in _good_names:
        return name
    if not isinstance(name, str) or not _NAME.match(name):
        shown = repr(name)[:140]
        raise InvalidArgument(
            f"{field}: {shown} is not a name; use 1 to 128 letters, digits, '-' and '_'"
            " (and a namespace before a '/', if any)",
            field=field,
            reason="BAD_NAME",
        )
    if len(_good_names) < 10_000:
        _good_names.add(name)
    return name


def build_spec(queue: str, payload: object, options: JobOptions | None, where: str = "") -> jobs_pb2.JobSpec:
    """The message of one job, with a new id. InvalidArgument names the field, after `where` (as in `jobs[3].`)."""
    try:
        if queue not in _good_names:
            check_name(queue, "queue")
        data, encoding = _values.encode(payload)
        spec = jobs_pb2.JobSpec(id=_ids.new_id(), queue=queue, payload=data, encoding=encoding)  # type: ignore[arg-type]
        if options is not None:
            _apply(spec, options)
        return spec
    except InvalidArgument as error:
        if not where:
            raise
        raise InvalidArgument(f"{where}{error.message}", field=where + error.field, reason=error.reason) from None


def _apply(spec: jobs_pb2.JobSpec, options: JobOptions) -> None:
    if options.retries is not None:
        spec.retries = _whole(options.retries, "retries", 0, _MAX_RETRIES)
    if options.task:
        spec.task = check_name(options.task, "task")
    if options.priority is not None:
        spec.priority = _whole(options.priority, "priority", 0, 9)
    if options.key is not None:
        if not isinstance(options.key, str) or not 0 < len(options.key.encode()) <= 1024 or "\x00" in options.key:
            raise InvalidArgument("key: give text of 1 to 1,024 bytes, without a zero byte", field="key")
        spec.key = options.key
    if options.delay is not None and options.run_at is not None:
        raise InvalidArgument("run_at: give either delay or run_at, not both", field="run_at")
    if options.delay is not None:
        _set_duration(spec.delay, options.delay, "delay", zero=True)
    if options.run_at is not None:
        spec.run_at.FromDatetime(_instant(options.run_at, "run_at"))
    if _has_extra(options):
        _apply_extra(spec.options, options)


def _has_extra(options: JobOptions) -> bool:
    return (
        options.timeout is not None
        or options.heartbeat_timeout is not None
        or options.requested_timeout is not None
        or options.in_progress_timeout is not None
        or options.backoff is not None
        or options.start_by is not None
        or bool(options.metadata)
        or bool(options.tags)
        or options.requester is not None
        or bool(options.label)
    )


def _apply_extra(message: jobs_pb2.JobOptions, options: JobOptions) -> None:
    if options.timeout is not None:
        _set_duration(message.timeout, options.timeout, "timeout")
    if options.heartbeat_timeout is not None:
        _set_duration(message.heartbeat_timeout, options.heartbeat_timeout, "heartbeat_timeout")
    if options.requested_timeout is not None:
        _set_duration(message.requested_timeout, options.requested_timeout, "requested_timeout")
    if options.in_progress_timeout is not None:
        _set_duration(message.in_progress_timeout, options.in_progress_timeout, "in_progress_timeout")
    if options.backoff is not None:
        _set_backoff(message.backoff, options.backoff)
    if options.start_by is not None:
        message.start_by.FromDatetime(_instant(options.start_by, "start_by"))
    for key, value in (options.metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise InvalidArgument(f"metadata: {key!r}: {value!r} must both be text", field="metadata")
        message.metadata[key] = value
    if options.tags:
        tags = [options.tags] if isinstance(options.tags, str) else list(options.tags)
        if not all(isinstance(tag, str) and 0 < len(tag) <= 128 for tag in tags):
            raise InvalidArgument("tags: give texts of 1 to 128 characters", field="tags")
        message.tags.extend(tags)
    if options.requester is not None:
        message.requester = requester_bytes(options.requester)
    if options.label:
        if not isinstance(options.label, str) or len(options.label) > _MAX_LABEL or "\x00" in options.label:
            raise InvalidArgument(f"label: give text of at most {_MAX_LABEL} characters", field="label")
        message.label = options.label


def requester_bytes(requester: Mapping[str, Any]) -> bytes:
    """The JSON of a requester's attributes. InvalidArgument for what is none, or over the limit."""
    if not isinstance(requester, Mapping):
        raise InvalidArgument(
            f"requester: {type(requester).__name__} is no mapping; give attributes, as {{'user': 'u1'}}",
            field="requester",
        )
    return _values.encode(dict(requester), field="requester", limit=MAX_REQUESTER)[0]


def _set_backoff(message: jobs_pb2.Backoff, backoff: Backoff) -> None:
    if isinstance(backoff, Constant):
        backoff = Exponential(first=backoff.delay, factor=1.0, limit=backoff.delay, jitter=backoff.jitter)
    if not isinstance(backoff, Exponential):
        raise InvalidArgument(f"backoff: {backoff!r} is none; give Exponential(…) or Constant(…)", field="backoff")
    if not 1 <= backoff.factor <= 1000:
        raise InvalidArgument(f"backoff.factor: {backoff.factor} is not between 1 and 1,000", field="backoff.factor")
    if not 0 <= backoff.jitter <= 1:
        raise InvalidArgument(f"backoff.jitter: {backoff.jitter} is not a share from 0 to 1", field="backoff.jitter")
    _set_duration(message.first, backoff.first, "backoff.first", zero=True)
    _set_duration(message.limit, backoff.limit, "backoff.limit", zero=True)
    message.factor = backoff.factor
    message.jitter = backoff.jitter


def _whole(value: object, field: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgument(f"{field}: {value!r} is not a whole number from {low} to {high:,}", field=field)
    return value


def seconds(value: object, field: str, *, zero: bool = False) -> float:
    """A time span as seconds. InvalidArgument unless it is a number or timedelta above 0 (from 0, with `zero`)."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= _MAX_SECONDS:
        raise InvalidArgument(f"{field}: {value!r} is not a number of seconds from 0 to ten years", field=field)
    if not zero and number == 0:
        raise InvalidArgument(f"{field}: must be more than 0 seconds", field=field)
    return float(number)


def _set_duration(message: Duration, value: object, field: str, *, zero: bool = False) -> None:
    message.FromMicroseconds(round(seconds(value, field, zero=zero) * 1e6))


def _instant(value: object, field: str) -> datetime:
    if not isinstance(value, datetime):
        raise InvalidArgument(f"{field}: {value!r} is not a datetime", field=field)
    if value.tzinfo is None:
        raise InvalidArgument(
            f"{field}: {value!r} has no time zone; use datetime.now(UTC), or .astimezone()", field=field
        )
    return value
