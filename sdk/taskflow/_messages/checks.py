"""Checks of callers' arguments before they become part of a message: an error names the argument, and what it takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeGuard

from taskflow._policy import PRIORITIES
from taskflow.errors import InvalidArgument

MAX_PAGE: Final = 1_000
WHOLE: Final = "without NUL and without half of a surrogate pair"
_NOT_WHOLE = re.compile("[\x00\ud800-\udfff]")
_MOST: Final = 100  # characters of a wrong value


def wrong(value: object, field: str, takes: str) -> InvalidArgument:
    """The error for a value that `field` does not take."""
    return InvalidArgument(f"{field}: {shown(value)} is not {takes}", field=field)


def shown(value: object) -> str:
    """The value as Python writes it, or its type where its own code does not let it."""
    try:
        return repr(value)[:_MOST].encode("utf-8", "backslashreplace").decode()
    except Exception:
        return f"a value of type {type(value).__name__}"


def options(given: Iterable[str], known: Iterable[str], whose: str) -> None:
    """TypeError, as Python has for a keyword that a function does not take, with those that there are."""
    if unknown := sorted(set(given) - set(known)):
        raise TypeError(f"{whose} has no option {', '.join(map(repr, unknown))}; there are {', '.join(known)}")


def text(value: object, field: str, takes: str = "text") -> str:
    """A str that can be sent."""
    if not isinstance(value, str):
        raise wrong(value, field, takes)
    if not is_whole(value):
        raise wrong(value, field, f"{takes} {WHOLE}")
    return value


def is_whole(text: object) -> TypeGuard[str]:
    """Whether it is text as gRPC and Postgres take it."""
    return isinstance(text, str) and not _NOT_WHOLE.search(text)


def flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise wrong(value, field, "True or False")
    return value


def whole(value: object, field: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(value, field, f"a whole number from {low} to {high:,}")
    return value


def number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(value, field, "a number")
    return value


def priority(value: object, field: str = "priority") -> int:
    """0 to 9, or a name."""
    if isinstance(value, str) and value.lower() in PRIORITIES:
        return PRIORITIES[value.lower()]
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise wrong(value, field, f"a whole number from 0 to 9, nor one of {', '.join(PRIORITIES)}")
    return value


def page_size(value: object, field: str = "page_size") -> int:
    return whole(value, field, 1, MAX_PAGE)


def pairs(value: object, field: str = "metadata") -> dict[str, str]:
    """A mapping of text to text; None: an empty one."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise wrong(value, field, "a mapping of text to text, as {'customer': 'c9'}")
    for key, item in value.items():
        if not is_whole(key) or not is_whole(item):
            raise InvalidArgument(f"{field}: {shown(key)}: {shown(item)} must both be text, {WHOLE}", field=field)
    return dict(value)


def items(value: Any, field: str, takes: str) -> list[Any]:
    """The items of an iterable; one str is one item."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise wrong(value, field, takes)
    return list(value)
