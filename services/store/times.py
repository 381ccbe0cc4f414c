"""Instants as Postgres's binary COPY has them: microseconds since 2000-01-01."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH_2000_US = 946_684_800_000_000
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)


def to_copy(unix_us: int | None) -> int | None:
    return None if unix_us is None else unix_us - EPOCH_2000_US


def to_datetime(unix_us: int | None) -> datetime | None:
    return None if unix_us is None else _UNIX + timedelta(microseconds=unix_us)


def to_us(instant: datetime | None) -> int | None:
    return None if instant is None else (instant - _UNIX) // timedelta(microseconds=1)
