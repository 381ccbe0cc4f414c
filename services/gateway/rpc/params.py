"""The parameters of a method: read by name and kind. Unknown ones are ignored, absent ones are their defaults (R25)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from services.core.errors import InvalidArgument
from services.core.names import qualify
from services.gateway.errors import Failure

MAX_NAMES = 100  # definitions of one call


class Params:
    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def text(self, name: str, *, most: int = 1000) -> str:
        """Empty when absent."""
        value = self._given.get(name)
        if value is None:
            return ""
        if not isinstance(value, str) or len(value) > most:
            raise bad(name, f"{shown(value)} is not text of at most {most} characters")
        return value

    def wanted(self, name: str) -> str:
        """Text that must be there."""
        value = self.text(name)
        if not value:
            raise bad(name, "is missing; give text")
        return value

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        value = self._given.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise bad(name, f"{shown(value)} is not a whole number from {low} to {high}")
        return value

    def number(self, name: str) -> float | None:
        value = self._given.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise bad(name, f"{shown(value)} is not a number")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self._given.get(name)
        if value is not None and not isinstance(value, bool):
            raise bad(name, f"{shown(value)} is neither true nor false")
        return bool(value)

    def object(self, name: str) -> dict[str, Any] | None:
        value = self._given.get(name)
        if value is not None and not isinstance(value, dict):
            raise bad(name, f"{shown(value)} is not an object")
        return value

    def object_or_list(self, name: str) -> dict[str, Any] | list[Any] | None:
        value = self._given.get(name)
        return value if isinstance(value, list) else self.object(name)

    def texts(self, name: str) -> list[str]:
        """A list, or one text."""
        value = self._given.get(name)
        found = [value] if isinstance(value, str) else [] if value is None else value
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            raise bad(name, f"{shown(value)} is not a list of texts")
        if len(found) > MAX_NAMES:
            raise bad(name, f"has {len(found)} entries; {MAX_NAMES} are the most")
        return found

    def names(self, name: str) -> list[str]:
        """Names of definitions, as they are stored."""
        return [stored(word, f"{name}[{number}]") for number, word in enumerate(self.texts(name))]

    def instant(self, name: str) -> datetime | None:
        value = self.text(name)
        if not value:
            return None
        try:
            found = datetime.fromisoformat(value)
        except ValueError:
            raise bad(name, f"{value[:80]!r} is not an instant as 2026-05-04T15:30:43Z") from None
        return found if found.tzinfo else found.replace(tzinfo=UTC)

    def within(self, name: str) -> Params:
        """The parameters inside of one that is an object."""
        return Params(self.object(name) or {})


def stored(name: str, where: str) -> str:
    try:
        return qualify(name, field=f"params.{where}")
    except InvalidArgument as fault:
        raise Failure(400, "INVALID_ARGUMENT", fault.message, fault.field, fault.reason) from None


def bad(name: str, what: str, reason: str = "BAD_PARAMETER") -> Failure:
    return Failure(400, "INVALID_ARGUMENT", f"params.{name}: {what}", f"params.{name}", reason)


def shown(value: object) -> str:
    return repr(value)[:80]
