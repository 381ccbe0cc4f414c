"""Options of a job when it is made, checked before anything is sent."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, Unpack

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._messages import checks, ids, payloads
from taskflow._policy import BUILTIN_TASKS, MAX_KEY, OUT_OF_RANGE, is_instant
from taskflow._values.backoff import Backoff, Constant, Exponential
from taskflow.errors import InvalidArgument
from taskflow.v1 import jobs_pb2, worker_pb2

Seconds = float | timedelta

_NAME = re.compile(r"(?:[A-Za-z0-9_.-]{1,128}/)?[A-Za-z0-9_-]{1,128}\Z")
MAX_RETRIES = 1_000_000
_MAX_SECONDS = 10 * 365 * 86_400
_MAX_LABEL = 256
MAX_REQUESTER = 4096  # bytes
_good_names: set[str] = set(BUILTIN_TASKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """Everything but queue and payload. Left out, a task's own value holds, else the default named here."""

    retries: int | None = None
    """Further tries after the first; 0."""
    task: str | None = None
    """Name of the task whose handler runs it; none: the queue's own handler."""
    priority: int | str | None = None
    """0–9, higher first, or low (2), normal (5), high (7), critical (9); 5."""
    delay: Seconds | None = None
    """Seconds until it is due; due at once."""
    run_at: datetime | None = None
    """The instant at which it is due, with a time zone; not together with `delay`."""
    key: str | None = None
    """Idempotency key, of at most 255 characters: a second job with it is not made, the first is answered."""
    timeout: Seconds | None = None
    """Hard limit of one attempt from its start, in seconds; none."""
    heartbeat_timeout: Seconds | None = None
    """The handler must call `job.heartbeat()` or `job.progress()` at least so often, in seconds; need not."""
    requested_timeout: Seconds | None = None
    """For executors without the SDK: the timeout from dispatch to start, in seconds; 10."""
    in_progress_timeout: Seconds | None = None
    """For executors without the SDK: the timeout between two notifications, in seconds; 120."""
    backoff: Backoff | None = None
    """How long to wait before further tries; Exponential()."""
    start_by: datetime | None = None
    """Not started by then: cancelled."""
    sla: Seconds | None = None
    """Seconds within which it should start, from when it is due; a miss is recorded. None: without one."""
    metadata: Mapping[str, str] | None = None
    tags: Iterable[str] | None = None
    requester: Mapping[str, Any] | None = None
    """Attributes of the user for whom the job is made, at most 4,096 bytes of JSON; its handler sees them."""
    label: str | None = None
    """A line for people, at most 256 characters."""

    def over(self, base: JobOptions | None) -> JobOptions:
        """These, and where they say nothing those of `base`."""
        if base is None:
            return self
        return JobOptions(**{n: v if (v := getattr(self, n)) is not None else getattr(base, n) for n in _OPTION_NAMES})


class JobKeywords(TypedDict, total=False):
    """The fields of JobOptions as keywords of a call."""

    retries: int | None
    task: str | None
    priority: int | str | None
    delay: Seconds | None
    run_at: datetime | None
    key: str | None
    timeout: Seconds | None
    heartbeat_timeout: Seconds | None
    requested_timeout: Seconds | None
    in_progress_timeout: Seconds | None
    backoff: Backoff | None
    start_by: datetime | None
    sla: Seconds | None
    metadata: Mapping[str, str] | None
    tags: Iterable[str] | None
    requester: Mapping[str, Any] | None
    label: str | None


_OPTION_NAMES = tuple(f.name for f in dataclasses.fields(JobOptions))


class NewJob:
    """One job of a `new_jobs` call: queue, payload and the options of `JobOptions` as keywords. With a task, the queue
    None is the task's own."""

    __slots__ = ("options", "payload", "queue")

    def __init__(
        self, queue: str | None, payload: Any = None, options: JobOptions | None = None, **more: Unpack[JobKeywords]
    ) -> None:
        self.queue = queue
        self.payload = payload
        self.options = options_of(more, options)

    def __eq__(self, other: object) -> bool:
        if type(other) is not NewJob:
            return NotImplemented
        return (self.queue, self.payload, self.options) == (other.queue, other.payload, other.options)

    __hash__ = None  # type: ignore[assignment]  # a payload may have none

    def __repr__(self) -> str:
        return f"NewJob(queue={self.queue!r}, payload={self.payload!r}, options={self.options!r})"


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


def check_label(label: str, most: int = _MAX_LABEL) -> str:
    if not checks.is_whole(label) or len(label) > most:
        raise InvalidArgument(f"label: give text of at most {most} characters, {checks.WHOLE}", field="label")
    return label


def check_name(name: object, field: str) -> str:
    """A queue's or task's name. InvalidArgument says what one is."""
    if isinstance(name, str) and name in _good_names:
        return name
    if not isinstance(name, str) or not _NAME.match(name):
        shown = checks.shown(name)
        raise InvalidArgument(
            f"{field}: {shown} is not a valid name; use 1 to 128 letters, digits, '-' and '_'"
            " (and a namespace before a '/', if any)",
            field=field,
            reason="BAD_NAME",
        )
    if len(_good_names) < 10_000:
        _good_names.add(name)
    return name


def build_spec(queue: str | None, payload: object, options: JobOptions | None, where: str = "") -> jobs_pb2.JobSpec:
    """The message of one job, with a new id. InvalidArgument names the field, after `where` (as in `jobs[3].`).

    Without a queue it is the task's own.
    """
    try:
        if queue is not None or options is None or not options.task:
            check_name(queue, "queue")
        data, encoding = payloads.encode(payload)
        spec = jobs_pb2.JobSpec(id=ids.new_id(), queue=queue, payload=data, encoding=encoding)  # type: ignore[arg-type]
        if options is not None:
            _apply(spec, options)
        return spec
    except InvalidArgument as error:
        if not where:
            raise
        raise InvalidArgument(f"{where}{error.message}", field=where + error.field, reason=error.reason) from None


def task_defaults(task: str, queue: str, options: JobOptions) -> worker_pb2.TaskDefaults:
    """A task as a worker registers it: its options hold for jobs that are submitted by its name."""
    spec = build_spec(queue, None, options)
    said = worker_pb2.TaskDefaults(task=task, queue=queue)
    if spec.HasField("options"):
        said.options.CopyFrom(spec.options)
    if spec.HasField("retries"):
        said.retries = spec.retries
    if spec.HasField("priority"):
        said.priority = spec.priority
    return said


def _apply(spec: jobs_pb2.JobSpec, options: JobOptions) -> None:
    if options.retries is not None:
        spec.retries = checks.whole(options.retries, "retries", 0, MAX_RETRIES)
    if options.task is not None and options.task != "":
        spec.task = check_name(options.task, "task")
    if options.priority is not None:
        spec.priority = checks.priority(options.priority)
    if options.key is not None:
        if not checks.is_whole(options.key) or not 0 < len(options.key) <= MAX_KEY:
            said = f"key: must be text of 1 to {MAX_KEY} characters, none of them NUL or half a surrogate pair"
            raise InvalidArgument(said, field="key")
        spec.key = options.key
    if options.delay is not None and options.run_at is not None:
        raise InvalidArgument("run_at: give either delay or run_at, not both", field="run_at")
    if options.delay is not None:
        _set_duration(spec.delay, options.delay, "delay", zero=True)
    if options.run_at is not None:
        spec.run_at.CopyFrom(stamp_of(_with_zone(options.run_at, "run_at"), "run_at"))
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
        or options.sla is not None
        or options.metadata is not None
        or options.tags is not None
        or options.requester is not None
        or options.label is not None
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
        message.start_by.CopyFrom(stamp_of(_with_zone(options.start_by, "start_by"), "start_by"))
    if options.sla is not None:
        _set_duration(message.sla, options.sla, "sla")
    if options.metadata is not None:
        message.metadata.update(checks.pairs(options.metadata))
    if options.tags is not None:
        tags = checks.items(options.tags, "tags", "texts of 1 to 128 characters")
        if not all(checks.is_whole(tag) and 0 < len(tag) <= 128 for tag in tags):
            raise InvalidArgument(f"tags: give texts of 1 to 128 characters, {checks.WHOLE}", field="tags")
        message.tags.extend(tags)
    if options.requester is not None:
        message.requester = requester_bytes(options.requester)
    if options.label is not None:
        message.label = check_label(options.label)


def requester_bytes(requester: Mapping[str, Any]) -> bytes:
    """The JSON of a requester's attributes. InvalidArgument for what is none, or over the limit."""
    if not isinstance(requester, Mapping):
        raise InvalidArgument(
            f"requester: {type(requester).__name__} is not a mapping; give attributes, as {{'user': 'u1'}}",
            field="requester",
        )
    return payloads.encode(dict(requester), field="requester", limit=MAX_REQUESTER)[0]


def _set_backoff(message: jobs_pb2.Backoff, backoff: Backoff) -> None:
    if isinstance(backoff, Constant):
        backoff = Exponential(first=backoff.delay, factor=1.0, limit=backoff.delay, jitter=backoff.jitter)
    if not isinstance(backoff, Exponential):
        raise checks.wrong(backoff, "backoff", "Exponential(…) or Constant(…)")
    if not 1 <= checks.number(backoff.factor, "backoff.factor") <= 1000:
        raise InvalidArgument(f"backoff.factor: {backoff.factor} is not between 1 and 1,000", field="backoff.factor")
    if not 0 <= checks.number(backoff.jitter, "backoff.jitter") <= 1:
        raise InvalidArgument(f"backoff.jitter: {backoff.jitter} is not a share from 0 to 1", field="backoff.jitter")
    _set_duration(message.first, backoff.first, "backoff.first", zero=True)
    _set_duration(message.limit, backoff.limit, "backoff.limit", zero=True)
    message.factor = backoff.factor
    message.jitter = backoff.jitter


def seconds(value: object, field: str, *, zero: bool = False) -> float:
    """A time span as seconds. InvalidArgument unless it is a number or timedelta above 0 (from 0, with `zero`)."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= _MAX_SECONDS:
        raise checks.wrong(value, field, "a number of seconds from 0 to ten years")
    if not zero and number == 0:
        raise InvalidArgument(f"{field}: must be more than 0 seconds", field=field)
    return float(number)


def _set_duration(message: Duration, value: object, field: str, *, zero: bool = False) -> None:
    message.FromMicroseconds(round(seconds(value, field, zero=zero) * 1e6))


def _with_zone(value: object, field: str) -> object:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise InvalidArgument(
            f"{field}: {checks.shown(value)} has no time zone; use datetime.now(UTC), or .astimezone()", field=field
        )
    return value


def instant_of(value: object, field: str) -> datetime:
    """A datetime in UTC, which it is taken as without a zone. InvalidArgument for anything else, and out of range."""
    if not isinstance(value, datetime):
        raise InvalidArgument(f"{field}: {checks.shown(value)} is not a datetime", field=field)
    moment = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
    if not is_instant(moment):
        raise InvalidArgument(f"{field}: {checks.shown(value)} {OUT_OF_RANGE}", field=field, reason="BAD_INSTANT")
    return moment.astimezone(UTC)


def stamp_of(value: object, field: str) -> Timestamp:
    """The message of an instant, checked as `instant_of` does."""
    stamp = Timestamp()
    stamp.FromDatetime(instant_of(value, field))
    return stamp
