"""How values are shown: words for enums, sizes, durations and instants; payloads cut to what can be read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._policy import PRIORITIES
from taskflow.v1 import alerts_pb2, jobs_pb2, schedules_pb2, workflows_pb2
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.zones import find_zone
from taskflow_server.rpc.values import backoff_of

MOST_SHOWN = 16_384  # characters of a value
MOST_PARSED = 262_144  # limit of the bytes of JSON that are formatted
MOST_DUMPED = 512  # bytes of a value that is neither JSON nor text
NOTHING = "–"
_YEARS = (365.25 * 86_400, "y")
_UNITS = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"))


@dataclass(frozen=True, slots=True)
class Value:
    """A payload or a result. `cut`: there is more than `text` shows."""

    text: str
    kind: str
    size: int
    cut: bool


def value(data: bytes, encoding: int) -> Value:
    """Whatever the bytes are, as text."""
    if encoding == jobs_pb2.ENCODING_BYTES:
        return Value(_dump(data[:MOST_DUMPED]), "bytes", len(data), len(data) > MOST_DUMPED)
    kind = "text" if encoding == jobs_pb2.ENCODING_TEXT else "JSON"
    if kind == "JSON" and not data:
        return Value("null", kind, 0, False)
    text = data[: 4 * MOST_SHOWN].decode(errors="replace") if len(data) > MOST_PARSED else data.decode(errors="replace")
    if kind == "JSON" and len(data) <= MOST_PARSED:
        text = _laid_out(text)
    return Value(text[:MOST_SHOWN], kind, len(data), len(text) > MOST_SHOWN or len(data) > MOST_PARSED)


def _laid_out(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError):
        return text


def _dump(data: bytes) -> str:
    rows = (data[n : n + 16] for n in range(0, len(data), 16))
    return "\n".join(
        f"{n * 16:06x}  {row.hex(' '):<47}  {''.join(chr(b) if 32 <= b < 127 else '.' for b in row)}"
        for n, row in enumerate(rows)
    )


def job_state(number: int) -> str:
    return _word(jobs_pb2.JobState, number, "JOB_STATE_")


def outcome(number: int) -> str:
    """The outcome of an attempt; one without an outcome is running."""
    return _word(jobs_pb2.Outcome, number, "OUTCOME_") if number else "running"


def run_state(number: int) -> str:
    return _word(workflows_pb2.RunState, number, "RUN_STATE_")


def step_state(number: int) -> str:
    return _word(workflows_pb2.StepState, number, "STEP_STATE_")


def firing_state(number: int) -> str:
    return _word(schedules_pb2.FiringState, number, "FIRING_STATE_")


def alert_event(number: int) -> str:
    return _word(alerts_pb2.AlertEvent, number, "ALERT_EVENT_")


def alert_kind(number: int) -> str:
    return _word(alerts_pb2.AlertKind, number, "ALERT_KIND_")


def misfire(number: int) -> str:
    return _word(schedules_pb2.MisfirePolicy, number or schedules_pb2.MISFIRE_POLICY_FIRE_ONCE, "MISFIRE_POLICY_")


def overlap(number: int) -> str:
    return _word(schedules_pb2.OverlapPolicy, number or schedules_pb2.OVERLAP_POLICY_SKIP, "OVERLAP_POLICY_")


def _word(enum: Any, number: int, prefix: str) -> str:
    """`timed out` for OUTCOME_TIMED_OUT; a number that this version does not know stays one."""
    try:
        name: str = enum.Name(number)
    except ValueError:
        return str(number)
    return name.removeprefix(prefix).replace("_", " ").lower()


def moment(stamp: Timestamp | None) -> datetime | None:
    """None for an instant that was never set."""
    return stamp.ToDatetime(UTC) if stamp is not None and (stamp.seconds or stamp.nanos) else None


def utc(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S} UTC"


def local(instant: datetime, zone: str) -> str:
    """By the clocks of a zone, as `Mon 2026-11-30 09:00:00 +0100`; empty for UTC and for an unknown zone."""
    if zone in ("", "UTC"):
        return ""
    try:
        return f"{instant.astimezone(find_zone(zone)):%a %Y-%m-%d %H:%M:%S %z}"
    except InvalidArgument:
        return ""


def iso(instant: datetime) -> str:
    return instant.isoformat().replace("+00:00", "Z")


def ago(instant: datetime, now: datetime) -> str:
    """`3 min ago`, `in 2 h`: in the greatest unit of which there are two."""
    seconds = (now - instant).total_seconds()
    far = abs(seconds)
    if far < 1:
        return "now"
    size, unit = next((each for each in (_YEARS, *_UNITS) if far >= 2 * each[0]), (1.0, "s"))
    words = f"{far / size:.0f} {unit}"
    return f"{words} ago" if seconds > 0 else f"in {words}"


def seconds_of(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def span(seconds: float) -> str:
    """A duration in its two greatest units: `2 d 3 h`, `4 min 5 s`, `1.5 s`, `12 ms`."""
    if seconds < 0.001:
        return "0 s" if not seconds else "< 0.1 ms" if seconds < 0.0001 else f"{seconds * 1000:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    for n, (size, unit) in enumerate(_UNITS):
        if seconds >= size:
            whole = int(seconds // size)
            small, name = (*_UNITS[n + 1 :], (1.0, "s"))[0]
            rest = int((seconds - whole * size) // small)
            return f"{whole} {unit} {rest} {name}" if rest and whole < 100 else f"{whole} {unit}"
    raise AssertionError


def priority(number: int) -> str:
    """`7 (high)`; those between the named ones have no name."""
    names = [name for name, value in PRIORITIES.items() if value == number]
    return f"{number} ({names[0]})" if names else str(number)


def delays(backoff: jobs_pb2.Backoff) -> str:
    """The waits before further tries: `10 s, times 2, at most 1 h`."""
    given = backoff_of(jobs_pb2.JobOptions(backoff=backoff))
    if given.factor == 1 or given.first >= given.limit:
        return span(min(given.first, given.limit))
    return f"{span(given.first)}, times {given.factor:g}, at most {span(given.limit)}"


def between(start: Timestamp, end: Timestamp | datetime) -> str:
    """How long from one instant to the other; empty if one of them is missing."""
    first, last = moment(start), end if isinstance(end, datetime) else moment(end)
    if first is None or last is None:
        return ""
    return span(max(0.0, (last - first).total_seconds()))


def size(count: float) -> str:
    """Bytes: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def number(count: float) -> str:
    """`10,000`; halves stay."""
    return f"{count:,.10g}" if count != int(count) else f"{int(count):,}"


def short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
