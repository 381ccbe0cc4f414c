"""Conversion of typed arguments into values. Pure: no network, no grpc; every refusal is a `BadInput` of one line.

A refusal says what was wrong, where, and what would be right.
"""

import json
import re
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from pathlib import Path
from types import EllipsisType
from typing import Any, NoReturn

from taskflow._policy import OUT_OF_RANGE, PRIORITIES, RANGE, JobState, is_instant

STATES = tuple(state.name.lower() for state in JobState)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NAME = re.compile(r"(?:[A-Za-z0-9_.-]{1,128}/)?[A-Za-z0-9_-]{1,128}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class BadInput(Exception):
    """An argument that cannot be used; its message is the whole line for the person."""


def payload(argument: str | None, *, text: bool = False) -> Any:
    """The payload meant by `argument`: JSON, `@file`, or `-` for standard input. None is JSON null.

    With `text` it is taken as it stands, a str that arrives as text.
    """
    if argument is None:
        return "" if text else None
    source, content = _content(argument)
    return content if text else parse_json(content, source)


def _content(argument: str) -> tuple[str, str]:
    """Where the payload came from, for messages, and its text."""
    if argument == "-":
        return "standard input", _decode(sys.stdin.buffer.read(), "standard input")
    if not argument.startswith("@"):
        return "PAYLOAD", argument
    path = argument[1:]
    try:
        return path, _decode(Path(path).read_bytes(), path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise BadInput(f"cannot read the payload from {path or '«»'}: {reason}") from None


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{source} is not UTF-8 text (byte {error.start})") from None


def parse_json(content: str, source: str = "PAYLOAD") -> Any:
    """The value of a JSON document, strictly: no NaN, no infinities."""
    try:
        return json.loads(content, parse_constant=_not_json)
    except json.JSONDecodeError as error:
        seen = error.doc[max(0, error.pos - 12) : error.pos + 12].replace("\n", " ")
        problem = error.msg[0].lower() + error.msg[1:]
        found = f", near «{seen.strip()}»" if seen.strip() else ""
        raise BadInput(
            f"{source} is not JSON: line {error.lineno}, column {error.colno}: {problem}{found}"
            '; write strings in double quotes, like {"to": "ada@example.org"}, or give --text'
        ) from None
    except _Constant as error:
        raise BadInput(f"{source} is not JSON: {error} is not a JSON number; use null or a string") from None
    except RecursionError:
        raise BadInput(f"{source} is nested too deeply") from None


class _Constant(ValueError):
    pass


def _not_json(constant: str) -> NoReturn:
    raise _Constant(constant)


def is_name(word: str) -> bool:
    """Whether it can be the name of a queue or a task."""
    return _NAME.fullmatch(word) is not None


def states(values: Iterable[str]) -> list[str]:
    """States named by repeated options, by commas, or both; without repetition."""
    found: dict[str, None] = {}
    for value in values:
        for each in filter(None, (part.strip().lower() for part in value.split(","))):
            each = "cancelled" if each == "canceled" else each
            if each not in STATES:
                near = get_close_matches(each, STATES, n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                raise BadInput(f"«{each}» is not a valid state of a job; {hint}states: {', '.join(STATES)}")
            found[each] = None
    return list(found)


def priority(value: str | None) -> int | None:
    """0 to 9, or low, normal, high, critical."""
    if value is None:
        return None
    if value.lower() in PRIORITIES:
        return PRIORITIES[value.lower()]
    if value.isdecimal() and 0 <= int(value) <= 9:
        return int(value)
    raise BadInput(f"--priority {value}: give 0 to 9, or one of {', '.join(PRIORITIES)}")


def seconds(value: str | None, option: str) -> float | None:
    """A length of time: seconds (`90`, `0.5`) or with units (`1m30s`, `2h`, `250ms`)."""
    if value is None:
        return None
    try:
        amount = float(value)
    except ValueError:
        parts = _DURATION.findall(value)
        if not parts or "".join(number + unit for number, unit in parts) != value:
            raise BadInput(f"{option} {value}: give seconds, or a length like 250ms, 90s, 1m30s, 2h, 1d") from None
        amount = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not 0 <= amount < 1e10:  # also false for NaN
        raise BadInput(f"{option} {value}: must not be negative, nor without end")
    return amount


def limit(value: str | None, option: str) -> float | EllipsisType | None:
    """A length of time, `none` to take one away, or nothing said: an ellipsis."""
    if value is None:
        return ...
    return None if value == "none" else seconds(value, option)


def quota(value: str | None, option: str) -> int | EllipsisType | None:
    """A whole number, `none` for no limit, or nothing said: an ellipsis."""
    if value is None:
        return ...
    if value == "none":
        return None
    if not (value.isascii() and value.isdecimal()):
        raise BadInput(f"{option} {value}: give a whole number from 0 on, or none for no limit")
    return int(value)


def backoff(value: str | None, option: str) -> dict[str, float] | EllipsisType | None:
    """FIRST, FIRST:FACTOR or FIRST:FACTOR:LIMIT, like 1s:2:10m; `none` to take it away."""
    if value is None or value == "none":
        return ... if value is None else None
    first, _, rest = value.partition(":")
    factor, _, most = rest.partition(":")
    found = {"first": seconds(first, option), "limit": seconds(most or None, option)}
    try:
        found["factor"] = float(factor) if factor else None
    except ValueError:
        raise BadInput(f"{option} {value}: give FIRST:FACTOR:LIMIT, like 1s:2:10m, or none") from None
    return {name: number for name, number in found.items() if number is not None}


def instant(value: str | None, option: str) -> datetime | None:
    """An ISO 8601 instant; without a zone it is UTC, never the machine's."""
    if value is None:
        return None
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise BadInput(
            f"{option} {value}: give an instant like 2026-12-24T18:00:00Z (UTC without a zone), {RANGE}"
        ) from None
    return _in_range(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC), value, option)


def _in_range(found: datetime, value: str, option: str) -> datetime:
    if not is_instant(found):
        raise BadInput(f"{option} {value}: {OUT_OF_RANGE}")
    return found.astimezone(UTC)


def moment(value: str, option: str) -> datetime | None:
    """An ISO 8601 instant, or a duration: so long ago. None for nothing."""
    if not value:
        return None
    if _DURATION.fullmatch(value):
        return _in_range(datetime.now(UTC) - timedelta(seconds=seconds(value, option) or 0), value, option)
    try:
        return instant(value, option)
    except BadInput:
        raise BadInput(
            f"{option} {value}: give an instant like 2026-12-24T18:00:00Z, or a duration like 36h; {RANGE}"
        ) from None


def requester(content: str | None) -> dict[str, Any] | None:
    """Attributes of the user for whom a job is made: a JSON object."""
    if content is None:
        return None
    found = parse_json(content, "--requester")
    if not isinstance(found, dict):
        raise BadInput(f'--requester {content[:40]}: give a JSON object, like {{"user": "u1"}}')
    return found


def pairs(values: Iterable[str], option: str) -> dict[str, str]:
    """`key=value` words."""
    found = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not key or not equals:
            raise BadInput(f"{option} {value}: give it as key=value")
        found[key] = rest
    return found
