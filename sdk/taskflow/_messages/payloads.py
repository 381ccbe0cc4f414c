"""Payloads and results as bytes and back (R14): text stays text, bytes stay bytes, everything else is JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from taskflow._messages.texts import named
from taskflow.errors import InvalidArgument

JSON, TEXT, BYTES = 1, 2, 3
MAX_BYTES = 1 << 20
MAX_DEPTH = 500  # levels of a JSON value; readers in Python and elsewhere stop at about 1,000
_MAX_WHY = 500  # characters of a reason

_decode_json = json.JSONDecoder().decode
_encode_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), check_circular=False  # a copy of bounded depth
).encode


class _Unfit(Exception):
    """Not a JSON value; says why."""


class _TooLarge(Exception):
    """More bytes than the limit; says so."""


class _Copy:
    """Copies a value into dicts, lists and scalars of exactly these types, so that nothing of a value's own code runs
    while it is encoded.

    Stops at the limit of bytes and at MAX_DEPTH: a value that holds itself, makes its parts as they are read, or holds
    one part many times has no end otherwise.
    """

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit  # bytes, at least as many as there is room for

    def of(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind is str:
            self._take(len(value))
            return value
        if kind is int:
            self._take(value.bit_length() >> 2)  # fewer than its digits
            return value
        if value is None or kind is float or kind is bool:
            self._take(3)
            return value
        if depth >= MAX_DEPTH:
            raise _Unfit(f"it is nested more than {MAX_DEPTH} levels deep or contains itself")
        if kind is not dict and kind is not list and kind is not tuple:
            value, kind = _simpler(value, kind)
            if kind is object:
                return self.of(value, depth + 1)
        self._take(1)
        if kind is dict:
            found = {}
            for key, item in value.items():
                if type(key) is not str:
                    key = _key(key)
                self._left -= len(key) + 4  # looked at with the item
                found[key] = self.of(item, depth + 1)
            return found
        parts = []
        for item in value:
            self._left -= 1
            parts.append(self.of(item, depth + 1))
        return parts

    def _take(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise _TooLarge(f"the value is over the limit of {self._limit:,} bytes")


def _is_flat(value: dict[Any, Any], limit: int) -> bool:
    """Whether this is a dict of scalars within the limit: nothing of a value's own code runs while it is encoded, so
    it needs no copy. Most payloads are."""
    left = limit
    for key, item in value.items():
        if type(key) is not str:
            return False
        kind = type(item)
        if kind is str:
            left -= len(item)
        elif kind is not int and kind is not bool and kind is not float and item is not None:
            return False
        left -= len(key)
    return left >= 0


def _simpler(value: Any, kind: type) -> tuple[Any, type]:
    """A subclass, a dataclass or a pydantic model, and `dict`, `list` or `object` for the way to go on.

    The type is asked, not the value, which may claim any `__class__` and answer to any name.
    """
    for base, exact in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if issubclass(kind, base):
            return exact(value), object
    if issubclass(kind, dict):
        return value, dict
    if issubclass(kind, (list, tuple)):
        return value, list
    if dataclasses.is_dataclass(kind):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(kind)}, dict
    if callable(getattr(kind, "model_dump", None)):
        return value.model_dump(mode="json"), object
    raise _Unfit(f"{kind.__name__} is not a JSON value")


def _key(key: Any) -> str:
    """Text, for json writes the key 1 as "1" without a word; it would arrive as another type."""
    if not issubclass(type(key), str):
        raise _Unfit(f"a key is of type {type(key).__name__}, not text")
    return str.__str__(key)


def encode(value: object, *, field: str = "payload", limit: int = MAX_BYTES) -> tuple[bytes, int]:
    """The bytes of a value and how to read them. No bytes, read as JSON, are null.

    InvalidArgument (naming `field`) for what is not a JSON value, text or bytes, and for more than `limit` bytes. Its
    cause is the exception that the value's own code raised, if that is the reason.
    """
    if value is None:
        return b"", JSON
    try:
        return _encoded(value, limit)
    except _TooLarge as error:
        raise InvalidArgument(
            f"{field}: {error}; store it elsewhere and pass its address",
            field=field,
            reason="TOO_LARGE",
        ) from None
    except _Unfit as error:
        raise _unfit(field, str(error)) from None
    except Exception as error:
        raise _unfit(field, named(error, _MAX_WHY)) from error


def _encoded(value: Any, limit: int) -> tuple[bytes, int]:
    kind = type(value)
    if issubclass(kind, (bytes, bytearray, memoryview)):
        with memoryview(value) as view:
            _check_size(view.nbytes, limit)
            return (value if kind is bytes else view.tobytes()), BYTES
    exact = str.__str__(value) if issubclass(kind, str) else None
    if exact is not None and len(exact) > limit:
        _check_size(len(exact), limit)
    is_text = exact is not None and "\x00" not in exact  # a zero byte travels as JSON's \u0000: views show text
    copy: Any = exact if is_text else value if kind is dict and _is_flat(value, limit) else _Copy(limit).of(value)
    try:
        data = (copy if is_text else _encode_json(copy)).encode()
    except UnicodeEncodeError:
        raise _Unfit("it holds half of a surrogate pair, which UTF-8 cannot write") from None
    except ValueError as error:  # not a finite number, or an integer of thousands of digits
        raise _Unfit(str(error)) from None
    _check_size(len(data), limit)
    return data, TEXT if is_text else JSON


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise _TooLarge(f"{size:,} bytes are over the limit of {limit:,}")


def _unfit(field: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"{field}: not serialisable ({why}); give a JSON value (dict, list, str, int, float, bool, None), "
        f"text or bytes",
        field=field,
    )


def decode(data: bytes, encoding: int) -> Any:
    """The value that was encoded."""
    if encoding == TEXT:
        return data.decode()
    if encoding == BYTES:
        return data
    return _decode_json(data.decode()) if data else None
