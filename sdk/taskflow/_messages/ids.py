"""Job ids: UUIDv7, made here, so that a call repeated after an unclear answer makes no second job.

Within a process they grow strictly, also when several fall into one millisecond or the clock steps back.
"""

from __future__ import annotations

import os
import random
import threading
from uuid import UUID

from taskflow._messages.texts import a, text
from taskflow._transport.clock import wall_ms
from taskflow.errors import InvalidArgument

_RANDOM_BITS = 74
_lock = threading.Lock()
_random = random.Random()
_last = 0


def _after_fork() -> None:
    """Parent and child must not go on with the same numbers."""
    global _lock, _last
    _lock = threading.Lock()
    _random.seed(os.urandom(32))
    _last = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def new_id() -> bytes:
    """A fresh id of 16 bytes, greater than every earlier one of this process."""
    global _last
    with _lock:
        # The top random bit starts at 0, so that steps within one millisecond do not run into the next.
        value = wall_ms() << _RANDOM_BITS | _random.getrandbits(_RANDOM_BITS - 1)
        if value <= _last:
            value = _last + 1 + _random.getrandbits(32)
        _last = value
    ms, rest = value >> _RANDOM_BITS, value & ((1 << _RANDOM_BITS) - 1)
    return (ms << 80 | 7 << 76 | (rest >> 62) << 64 | 2 << 62 | rest & ((1 << 62) - 1)).to_bytes(16, "big")


def show(raw: bytes) -> str:
    """An id as people and resources write it."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def parse(given: str, field: str = "id") -> str:
    """The canonical form of an id that a caller gave. InvalidArgument when it is none, as from the server."""
    if isinstance(given, UUID):
        return str(given)
    try:
        return str(UUID(given))
    except Exception:  # whatever the value's own code raises
        raise InvalidArgument(
            f"{field}: {text(given, 80)!r} is not a valid id; an id looks like 0198c0de-0000-7000-8000-000000000000"
            if isinstance(given, str)
            else f"{field}: {a(type(given).__name__)} is not a valid id; give text, as job.id",
            field=field,
            reason="BAD_ID",
        ) from None
