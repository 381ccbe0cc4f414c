"""Values from documents and jobs: checks that they fit into a run's state, and parses durations and instants.

A refused value raises BadValue, which fails the step that needs the value, never the engine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from taskflow._policy import OUT_OF_RANGE, RANGE, is_instant

MAX_WAIT = 10 * 366 * 86_400  # seconds; a longer wait is most likely a typing mistake
MAX_DEPTH = 100  # nested lists and objects; Python's parsers fail near 1,000
MAX_MESSAGE = 4_000  # characters of an error's message that a run keeps
MAX_ERROR_DATA = 8 << 10  # bytes of the other members of an error
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_UNITS = {"milliseconds": "ms", "seconds": "s", "minutes": "m", "hours": "h", "days": "d", "weeks": "w"}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*")
_UNFIT = re.compile("[\x00\ud800-\udfff]")  # Postgres's jsonb cannot store them
DURATION_HELP = 'seconds, as 90, or text, as "1d 12h", "15m" or "90s"'


class BadValue(Exception):
    """A value that does not fit. `path`: the place in the step's document that needs it."""

    def __init__(self, message: str, *, path: str = "", type: str = "bad_value", expression: str = "") -> None:
        super().__init__(message)
        self.message, self.path, self.type, self.expression = message, path, type, expression

    def error(self) -> dict[str, Any]:
        """The error of the step."""
        parts = {"path": self.path, "expression": self.expression}
        where = [*([self.path] if self.path else []), *([f"{{{{ {self.expression} }}}}"] if self.expression else [])]
        return {
            "type": self.type,
            "message": clean(": ".join([*where, self.message]), MAX_MESSAGE),
            **{name: part for name, part in parts.items() if part},
        }


def size_of(value: Any, limit: int) -> int:
    """The approximate bytes of `value` as JSON. BadValue if they exceed `limit`, or jsonb cannot store it.

    Stops at the limit, however large the value is; a value with several references counts for each.
    """
    size = 0
    open_: list[tuple[Any, int]] = [(value, 0)]
    while open_:
        item, depth = open_.pop()
        if isinstance(item, str):
            size += len(item) + 2 if item.isascii() else len(item.encode(errors="replace")) + 2
            if _UNFIT.search(item):
                raise BadValue("holds \\u0000 or half a surrogate pair, which Postgres cannot store")
        elif isinstance(item, Mapping):
            size += 2
            open_.extend((part, depth + 1) for part in item.values())
            open_.extend((key, depth) for key in item)
        elif isinstance(item, list | tuple):
            size += 2 + len(item)
            open_.extend((part, depth + 1) for part in item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise BadValue("holds a number that JSON cannot represent")
        elif item is None or isinstance(item, bool | int | float):
            size += 4
        else:
            raise BadValue("holds something that is not a JSON value")
        if size > limit:
            raise BadValue(f"is larger than {limit} bytes", type="too_large")
        if depth > MAX_DEPTH:
            raise BadValue(f"is nested more than {MAX_DEPTH} deep", type="too_large")
    return size


def json_size(value: Any, limit: int) -> int:
    """The exact bytes of `value` as JSON; BadValue as from `size_of`."""
    size_of(value, limit)
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > limit:
        raise BadValue(f"has {size} bytes as JSON, which exceed the limit of {limit}", type="too_large")
    return size


def duration(value: Any) -> float:
    """Seconds of a number, of text such as `1d 12h`, or of `{"hours": 1, "minutes": 30}`."""
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in _UNITS]
        if unknown or not value:
            raise BadValue(f"an object with some of {', '.join(_UNITS)} is a duration, not {_shown(value)}")
        seconds = sum(_number(amount) * _SECONDS[_UNITS[name]] for name, amount in value.items())
    elif isinstance(value, str):
        text = value.strip()
        sign, text = (-1, text[1:].strip()) if text.startswith("-") else (1, text)
        if not text or _PART.sub("", text):
            raise BadValue(f"{_shown(value)} is not a duration; use {DURATION_HELP}")
        seconds = sign * sum(float(amount) * _SECONDS[unit] for amount, unit in _PART.findall(text))
    else:
        seconds = _number(value)
    if not abs(seconds) <= MAX_WAIT:
        raise BadValue(f"{_shown(value)} is longer than {MAX_WAIT // 86_400} days")
    return seconds


def instant(value: Any) -> datetime:
    """Parses an instant from RFC 3339 text or seconds since 1970. Text without a zone is in UTC (R15)."""
    try:
        if not isinstance(value, str):
            return after(_EPOCH, _number(value))
        read = datetime.fromisoformat(value.strip())
    except (ValueError, BadValue):
        raise BadValue(
            f"{_shown(value)} is not a time; use text such as 2026-05-04T15:30:00Z, or seconds since 1970, {RANGE}"
        ) from None
    return _in_range(read if read.tzinfo else read.replace(tzinfo=UTC), _shown(value))


def after(now: datetime, seconds: float) -> datetime:
    """`now` plus `seconds`, which may be negative; BadValue when the result is out of range."""
    shown = f"{seconds:g} seconds from {now.isoformat()}"
    try:
        return _in_range(now + timedelta(seconds=seconds), shown)
    except OverflowError:
        raise BadValue(f"{shown} {OUT_OF_RANGE}") from None


def _in_range(found: datetime, shown: str) -> datetime:
    if not is_instant(found):
        raise BadValue(f"{shown} {OUT_OF_RANGE}")
    return found.astimezone(UTC)


def text(value: Any) -> str:
    """A number, text or boolean as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    raise BadValue(f"{_shown(value)} is not text")


def clean(words: str, limit: int) -> str:
    """The text without characters that Postgres cannot store, cut at `limit`."""
    return _UNFIT.sub("\ufffd", words[:limit])


def error_of(error: Any, outcome: str) -> dict[str, Any]:
    """A job's error as a run keeps it: bounded, with type and message, and without values that jsonb refuses."""
    given = error if isinstance(error, Mapping) else {} if error is None else {"data": error}
    kept = {
        "type": clean(str(given.get("type") or outcome), 200),
        "message": clean(str(given.get("message") or f"the job ended as {outcome}"), MAX_MESSAGE),
    }
    rest = {name: part for name, part in given.items() if name not in kept}
    try:
        size_of(rest, MAX_ERROR_DATA)
    except BadValue:
        return kept
    return {**kept, **rest}


def _number(value: Any) -> float:
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    except OverflowError:  # an integer of more than 308 digits
        pass
    raise BadValue(f"{_shown(value)} is not a number")


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…"
