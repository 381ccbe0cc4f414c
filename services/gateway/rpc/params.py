"""The parameters of a method: read by name and kind. Absent ones are their defaults (R25).

Unknown ones are ignored, save where one that is not applied would answer with more than was asked for: in lists and
counts (`Params.only`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from taskflow._policy import OUT_OF_RANGE, RANGE, is_instant
from taskflow.v1.jobs_pb2 import ENCODING_JSON
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.names import qualify
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.rpc.formats import to_json
from taskflow_server.rpc.values import unfit

MAX_NAMES = 100  # definitions of one call


class Params:
    """`path` is where they stand, for what an error names: `params`, or `params.filter` for those inside of one."""

    def __init__(self, given: Mapping[str, Any], path: str = "params") -> None:
        self._given = given
        self._path = path

    def bad(self, name: str, what: str, reason: str = "BAD_PARAMETER") -> Failure:
        return _bad(f"{self._path}.{name}", what, reason)

    def only(self, known: Iterable[str]) -> None:
        """Failure for the first parameter that is not one of `known`."""
        for name in self._given:
            if name not in known:
                words = f"is not a parameter here; there are {', '.join(known)}"
                raise self.bad(name[:80], words, "UNKNOWN_PARAMETER")

    def has(self, name: str) -> bool:
        return self._given.get(name) is not None

    def any(self, name: str) -> Any:
        """Any JSON value; None when absent."""
        return self._given.get(name)

    def json(self, name: str, value: Any) -> bytes:
        """The JSON of a value that was read under this name, and that can be kept."""
        try:
            data = to_json(value)
            why = unfit(data, ENCODING_JSON)
        except RecursionError:
            why = "not JSON that can be kept: it is nested too deeply"
        if why:
            raise self.bad(name, why, "BAD_VALUE")
        return data

    def text(self, name: str, *, most: int = 1000) -> str:
        """Empty when absent."""
        value = self._given.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > most:
            raise self.bad(name, f"{shown(value)} is not text of at most {most} characters")
        return value

    def wanted(self, name: str) -> str:
        """Text that must be there."""
        value = self.text(name)
        if not value:
            raise self.bad(name, "is missing; give text")
        return value

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self._given.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.bad(name, f"{shown(value)} is not a whole number from {low} to {high}")
        return value

    def number(self, name: str) -> float | None:
        value = self._given.get(name)
        if value is None:
            return None
        try:
            if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
                return float(value)
        except OverflowError:  # an integer of more than 308 digits
            pass
        raise self.bad(name, f"{shown(value)} is not a number")

    def flag(self, name: str) -> bool:
        value = self._given.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.bad(name, f"{shown(value)} is neither true nor false")
        return bool(value)

    def object(self, name: str) -> dict[str, Any] | None:
        value = self._given.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.bad(name, f"{shown(value)} is not an object")
        return value

    def texts(self, name: str) -> list[str]:
        """A list, or one text."""
        value = self._given.get(name)
        found = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            raise self.bad(name, f"{shown(value)} is not a list of texts")
        if len(found) > MAX_NAMES:
            raise self.bad(name, f"{len(found)} entries exceed the limit of {MAX_NAMES}")
        return found

    def names(self, name: str) -> list[str]:
        """Names of definitions, as they are stored."""
        return [self.stored(name, word, f"[{number}]") for number, word in enumerate(self.texts(name))]

    def stored(self, name: str, word: str, place: str = "") -> str:
        """The stored form of a definition's name."""
        try:
            return qualify(word, field=f"{self._path}.{name}{place}")
        except InvalidArgument as fault:
            raise Failure(400, "INVALID_ARGUMENT", fault.message, fault.field, fault.reason) from None

    def instant(self, name: str) -> datetime | None:
        value = self.text(name)
        if not value:
            return None
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            raise self.bad(name, f"{value[:80]!r} is not an instant as 2026-05-04T15:30:43Z, {RANGE}") from None
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        if not is_instant(found):
            raise self.bad(name, f"{value[:80]!r} {OUT_OF_RANGE}", "BAD_INSTANT")
        return found.astimezone(UTC)

    def within(self, name: str) -> Params:
        """The parameters inside of one that is an object."""
        return Params(self.object(name) or {}, f"{self._path}.{name}")


def bad(name: str, what: str, reason: str = "BAD_PARAMETER") -> Failure:
    return _bad(f"params.{name}", what, reason)


def _bad(path: str, what: str, reason: str) -> Failure:
    return Failure(400, "INVALID_ARGUMENT", f"{path}: {what}", path, reason)


def shown(value: object) -> str:
    return repr(value)[:80]
