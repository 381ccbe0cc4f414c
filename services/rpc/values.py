"""Between protobuf messages and the values that the store keeps: durations, instants, options, errors."""

from __future__ import annotations

import functools
import json
import math
import re
from datetime import datetime
from typing import Any, Final, NoReturn
from uuid import UUID

import orjson
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._policy import DEFAULT_BACKOFF, LATEST_US, OUT_OF_RANGE, Backoff
from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core.errors import InvalidArgument

MAX_SECONDS = 10 * 366 * 86_400.0  # limit of all durations: ten years
_EXECUTOR_TIMEOUTS: Final = ("requested_timeout", "in_progress_timeout")
MAX_WORDS, MAX_TRACE = 8192, 65_536  # characters of an error's message, and of its trace and details
MAX_DEPTH = 500  # levels of a JSON value; the SDK has the same limit
MAX_REQUESTER = 4096  # bytes of JSON
MAX_LABEL = 256  # characters
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # as JSON writes it


def seconds(duration: Duration, field: str, *, least: float = 0.0) -> float:
    value = duration.seconds + duration.nanos / 1e9
    if not least <= value <= MAX_SECONDS:
        raise InvalidArgument(f"{field}: {value:g} s is not between {least:g} s and ten years", field, "BAD_DURATION")
    return value


def patience(duration: Duration, field: str, most: float) -> float:
    """How long a call is to wait, in seconds. InvalidArgument over `most`: a shorter wait would not be noticed."""
    value = seconds(duration, field)
    if value > most:
        said = f"{field}: {value:g} s exceeds the limit of {most:g} s for one call (TASKFLOW_MAX_WAIT); wait again"
        raise InvalidArgument(said, field, "BAD_DURATION")
    return value


def duration(value: float) -> Duration:
    whole = int(value)
    return Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def timestamp_us(stamp: Timestamp, field: str) -> int:
    """Microseconds since 1970 of an instant that a caller gave. InvalidArgument when it is out of range."""
    found = stamp.seconds * 1_000_000 + stamp.nanos // 1000
    if not 0 < found < LATEST_US or not 0 <= stamp.nanos < 1_000_000_000:
        raise InvalidArgument(f"{field}: {OUT_OF_RANGE}", field, "BAD_INSTANT")
    return found


def timestamp(unix_us: int) -> Timestamp:
    return Timestamp(seconds=unix_us // 1_000_000, nanos=unix_us % 1_000_000 * 1000)


def stamp(instant: datetime | None) -> Timestamp | None:
    if instant is None:
        return None
    result = Timestamp()
    result.FromDatetime(instant)
    return result


@functools.lru_cache(maxsize=1024)
def options_to_json(serialized: bytes, field: str) -> bytes | None:
    """The JSON of a JobOptions message, checked; None when nothing is set. Most jobs of a task share theirs."""
    options = pb.JobOptions.FromString(serialized)
    found = times_to_json(options, field)
    if options.HasField("sla"):
        found["sla"] = seconds(options.sla, f"{field}.sla", least=0.001)
    if options.metadata:
        found["metadata"] = dict(options.metadata)
    if options.tags:
        found["tags"] = list(options.tags)
    if options.requester:
        found["requester"] = _requester_to_json(options.requester, f"{field}.requester")
    if options.label:
        found["label"] = _label(options.label, f"{field}.label")
    if options.task_id:
        found["task_id"] = _task_id(options.task_id, f"{field}.task_id")
    if options.limited:
        found["limited"] = True
    text = json.dumps(found, separators=(",", ":"))
    if any("\0" in word for word in (*options.metadata, *options.metadata.values(), *options.tags)):
        raise InvalidArgument(f"{field}: metadata and tags may not hold the character NUL", field, "BAD_TEXT")
    if len(text) > 16_384:
        raise InvalidArgument(f"{field}: {len(text)} bytes; options may have 16,384 at most", field, "TOO_LARGE")
    return text.encode() if found else None


def times_to_json(options: pb.JobOptions, field: str) -> dict[str, Any]:
    """Those of the options that the coordinator computes with, checked."""
    found: dict[str, Any] = {}
    if options.HasField("timeout"):
        found["timeout"] = seconds(options.timeout, f"{field}.timeout", least=0.001)
    if options.HasField("heartbeat_timeout"):
        found["heartbeat_timeout"] = seconds(options.heartbeat_timeout, f"{field}.heartbeat_timeout", least=0.1)
    for name in _EXECUTOR_TIMEOUTS:
        if options.HasField(name):
            found[name] = seconds(getattr(options, name), f"{field}.{name}", least=0.1)
    if options.HasField("backoff"):
        found["backoff"] = _backoff_to_json(options.backoff, f"{field}.backoff")
    if options.HasField("start_by"):
        found["start_by"] = timestamp_us(options.start_by, f"{field}.start_by")
    return found


def _requester_to_json(data: bytes, field: str) -> dict[str, Any]:
    """A JSON object that jsonb takes, too."""
    if len(data) > MAX_REQUESTER:
        raise InvalidArgument(f"{field}: {len(data)} bytes exceed the limit of {MAX_REQUESTER}", field, "TOO_LARGE")
    why = unfit(data, pb.ENCODING_JSON)
    found = None if why else json.loads(data)
    if _NUL.search(data):
        why = "may not hold the character NUL"
    elif not why and not isinstance(found, dict):
        why = 'not a JSON object, as {"user": "u1"}'
    if why:
        raise InvalidArgument(f"{field}: {why}", field, "BAD_REQUESTER")
    assert isinstance(found, dict)
    return found


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(levels):
        items = (item for each in level for item in (each.values() if isinstance(each, dict) else each))
        level = [item for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _label(label: str, field: str) -> str:
    if len(label) > MAX_LABEL or "\0" in label:
        raise InvalidArgument(f"{field}: give at most {MAX_LABEL} characters, none of them NUL", field, "BAD_TEXT")
    return label


def _task_id(task_id: str, field: str) -> str:
    try:
        return str(UUID(task_id))
    except ValueError:
        raise InvalidArgument(f"{field}: {task_id[:40]!r} is not a valid id; omit it", field, "BAD_ID") from None


def _backoff_to_json(backoff: pb.Backoff, field: str) -> dict[str, float]:
    found: dict[str, float] = {}
    if backoff.HasField("first"):
        found["first"] = seconds(backoff.first, f"{field}.first")
    if backoff.HasField("limit"):
        found["limit"] = seconds(backoff.limit, f"{field}.limit")
    if backoff.factor:
        if not 1 <= backoff.factor <= 1000:
            raise InvalidArgument(f"{field}.factor: {backoff.factor:g} is not between 1 and 1000", f"{field}.factor")
        found["factor"] = backoff.factor
    if backoff.HasField("jitter"):
        if not 0 <= backoff.jitter <= 1:
            raise InvalidArgument(f"{field}.jitter: {backoff.jitter:g} is not between 0 and 1", f"{field}.jitter")
        found["jitter"] = backoff.jitter
    return found


def options_from_json(found: dict[str, Any] | None) -> pb.JobOptions | None:
    if not found:
        return None
    if not isinstance(found, dict):
        raise ValueError(f"is not an object, but {found!r}"[:200])
    options = pb.JobOptions(
        metadata=found.get("metadata"),
        tags=found.get("tags"),
        label=found.get("label", ""),
        task_id=found.get("task_id", ""),
        limited=found.get("limited", False),
    )
    if "requester" in found:
        options.requester = json.dumps(found["requester"], ensure_ascii=False, separators=(",", ":")).encode()
    for name in ("timeout", "heartbeat_timeout", "sla", *_EXECUTOR_TIMEOUTS):
        if name in found:
            getattr(options, name).CopyFrom(duration(found[name]))
    if "start_by" in found:
        options.start_by.CopyFrom(timestamp(found["start_by"]))
    if "backoff" in found:
        backoff = found["backoff"]
        for name in ("first", "limit"):
            if name in backoff:
                getattr(options.backoff, name).CopyFrom(duration(backoff[name]))
        if "factor" in backoff:
            options.backoff.factor = backoff["factor"]
        if "jitter" in backoff:
            options.backoff.jitter = backoff["jitter"]
    return options


def backoff_of(options: pb.JobOptions) -> Backoff:
    if not options.HasField("backoff"):
        return DEFAULT_BACKOFF
    given, default = options.backoff, DEFAULT_BACKOFF
    return Backoff(
        first=given.first.seconds + given.first.nanos / 1e9 if given.HasField("first") else default.first,
        factor=given.factor or default.factor,
        limit=given.limit.seconds + given.limit.nanos / 1e9 if given.HasField("limit") else default.limit,
        jitter=given.jitter if given.HasField("jitter") else default.jitter,
    )


def clean(text: str, most: int = MAX_WORDS) -> str:
    """The text as Postgres accepts it: without NUL, and of bounded length."""
    return text.replace("\0", "")[:most]


def error_to_json(error: pb.Error) -> bytes:
    found: dict[str, object] = {"type": clean(error.type), "message": clean(error.message)}
    if error.final:
        found["final"] = True
    if error.traceback:
        found["traceback"] = clean(error.traceback, MAX_TRACE)
    if error.details:
        found["details"] = clean(error.details.decode(errors="replace"), MAX_TRACE)
    return json.dumps(found).encode()


def unfit(data: bytes, encoding: int) -> str:
    """Why these bytes are no value of that encoding; empty when they are.

    JSON is what any reader reads alike: numbers that a double holds (integers to 4,300 digits), whole characters, and
    at most MAX_DEPTH levels.
    """
    if encoding == pb.ENCODING_JSON:
        try:
            orjson.loads(data)
        except orjson.JSONDecodeError:
            return _unfit_json(data)  # orjson refuses integers beyond a double, which JSON allows
        # It may be deeper: text counts too. Shorter data cannot be.
        if len(data) > MAX_DEPTH and data.count(b"[") + data.count(b"{") > MAX_DEPTH:
            return _unfit_json(data)
    elif encoding == pb.ENCODING_TEXT:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            return f"not UTF-8 at byte {error.start}"
        if b"\0" in data:
            return "text may not hold the character NUL; send it as bytes"
    elif encoding != pb.ENCODING_BYTES:
        return f"{encoding} is not an encoding"
    return ""


def _unfit_json(data: bytes) -> str:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(data.decode(), parse_constant=refuse, parse_float=_finite)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # no half of a surrogate pair
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    return (
        f"not JSON that can be kept: it is nested more than {MAX_DEPTH} levels deep"
        if _is_deeper(value, MAX_DEPTH)
        else ""
    )


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:40]} is too large")
    return number


def error_from_json(found: dict[str, Any] | None) -> pb.Error | None:
    if not found:
        return None
    return pb.Error(
        type=found.get("type", ""),
        message=found.get("message", ""),
        traceback=found.get("traceback", ""),
        final=found.get("final", False),
        details=found.get("details", "").encode(),
    )
