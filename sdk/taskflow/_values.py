"""Payloads and results as bytes and back (R14): text stays text, bytes stay bytes, everything else is JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from taskflow.errors import InvalidArgument

JSON, TEXT, BYTES = 1, 2, 3
MAX_BYTES = 1 << 20

_decode_json = json.JSONDecoder().decode


def _plain(value: object) -> object:
    """What json cannot write by itself, but handlers can take: dataclasses and pydantic models."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    raise TypeError(f"{type(value).__name__} is not a JSON value")


_encode_json = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain, check_circular=True
).encode


def _check_keys(value: object) -> None:
    """json writes the key 1 as "1" without a word; it would arrive as another type."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not text")
            if isinstance(item, (dict, list, tuple)):
                _check_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            if isinstance(item, (dict, list, tuple)):
                _check_keys(item)


def encode(value: object, *, field: str = "payload", limit: int = MAX_BYTES) -> tuple[bytes, int]:
    """The bytes of a value and how to read them. No bytes, read as JSON, are null.

    InvalidArgument (naming `field`) for what is no JSON value, text or bytes, and for more than `limit` bytes.
    """
    if value is None:
        return b"", JSON
    try:
        if isinstance(value, str) and "\x00" not in value:  # a zero byte travels as JSON's \u0000: views show text
            data, encoding = value.encode(), TEXT
        elif isinstance(value, (bytes, bytearray, memoryview)):
            data, encoding = bytes(value), BYTES
        else:
            if isinstance(value, (dict, list, tuple)):
                _check_keys(value)
            data, encoding = _encode_json(value).encode(), JSON
    except UnicodeEncodeError:
        raise InvalidArgument(
            f"{field}: holds half of a surrogate pair, which UTF-8 cannot write", field=field
        ) from None
    except (TypeError, ValueError, RecursionError) as error:
        why = "it is nested too deeply or holds itself" if isinstance(error, RecursionError) else str(error)
        raise InvalidArgument(
            f"{field}: not serialisable ({why}); give a JSON value (dict, list, str, int, float, bool, None), "
            f"text or bytes",
            field=field,
        ) from None
    if len(data) > limit:
        raise InvalidArgument(
            f"{field}: {len(data):,} bytes are over the limit of {limit:,}; store it elsewhere and pass its address",
            field=field,
            reason="TOO_LARGE",
        )
    return data, encoding


def decode(data: bytes, encoding: int) -> Any:
    """The value that was encoded."""
    if encoding == TEXT:
        return data.decode()
    if encoding == BYTES:
        return data
    return _decode_json(data.decode()) if data else None
