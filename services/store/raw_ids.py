"""Sends and receives ids as 16 bytes: a UUID object costs 1 µs to make, and 1.4 µs to send as text."""

from __future__ import annotations

import struct
from typing import Any

from psycopg import AsyncConnection
from psycopg.abc import Buffer
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

_UUID, _UUID_ARRAY = 2950, 2951  # their oids, fixed in Postgres's catalogue
_HEAD = struct.Struct("!iiiii")  # dimensions, no nulls, type, length, lower bound


class Ids(tuple[bytes, ...]):
    """A parameter of type uuid[], for `%(ids)b` and `%(ids)s` alike."""

    __slots__ = ()


class _IdsDumper(Dumper):
    format = Format.BINARY
    oid = _UUID_ARRAY

    def dump(self, obj: Ids) -> Buffer:
        if not obj:
            return struct.pack("!iii", 0, 0, _UUID)
        return _HEAD.pack(1, 0, _UUID, len(obj), 1) + b"".join([b"\0\0\0\x10" + each for each in obj])


class _IdLoader(Loader):
    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return bytes(data)


def register(conn: AsyncConnection[Any]) -> None:
    """Makes binary results of this connection return ids as bytes, and its parameters accept Ids."""
    conn.adapters.register_dumper(Ids, _IdsDumper)
    conn.adapters.register_loader("uuid", _IdLoader)
