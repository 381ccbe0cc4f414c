"""Job ids and exec_ids as 16 bytes."""

from __future__ import annotations

import struct
from uuid import UUID

from taskflow_server.core.errors import InvalidArgument

_EXEC = struct.Struct(">HIHII")  # shard, epoch, number (high, low), nonce


def uuid7(unix_ms: int, random80: int) -> bytes:
    """RFC 9562, version 7: milliseconds, then 74 random bits."""
    value = unix_ms << 80 | 7 << 76 | (random80 >> 68) << 64 | 2 << 62 | random80 & ((1 << 62) - 1)
    return value.to_bytes(16, "big")


def unix_ms_of(job_id: bytes) -> int:
    return int.from_bytes(job_id[:6], "big")


def is_uuid7(job_id: bytes) -> bool:
    return len(job_id) == 16 and job_id[6] >> 4 == 7 and job_id[8] >> 6 == 2


def exec_id(shard: int, epoch: int, number: int, nonce: int) -> bytes:
    """The fencing token of an attempt: unique; only TaskFlow reads the owner's epoch in it."""
    return _EXEC.pack(shard, epoch & 0xFFFFFFFF, number >> 32 & 0xFFFF, number & 0xFFFFFFFF, nonce)


def shard_and_epoch(token: bytes) -> tuple[int, int]:
    shard, epoch, _, _, _ = _EXEC.unpack(token)
    return shard, epoch


def show(raw: bytes) -> str:
    return str(UUID(bytes=raw))


def parse(text: str, *, field: str) -> bytes:
    """The bytes of an id as shown. InvalidArgument names `field`."""
    try:
        return UUID(text).bytes
    except ValueError:
        raise InvalidArgument(
            f"{field}: {text[:80]!r} is not a valid id; an id looks like 0198c0de-0000-7000-8000-000000000000",
            field,
            "BAD_ID",
        ) from None
