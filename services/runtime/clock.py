"""The system's clock, set by the database's: the only reader of time in the services."""

from __future__ import annotations

import asyncio
import secrets
import time

from services.core.ids import uuid7


class SystemClock:
    """Carries the database's time on by the machine's monotonic clock; see services.core.clock."""

    def __init__(self) -> None:
        self._base_us = time.time_ns() // 1000  # until the database was first asked
        self._read_at = time.monotonic()

    def monotonic(self) -> float:
        return time.monotonic()

    def now_us(self) -> int:
        return self._base_us + int((time.monotonic() - self._read_at) * 1e6)

    def set_now_us(self, database_us: int, sent_at: float) -> None:
        """`database_us` was read by a query sent at `sent_at` (monotonic) and answered just now."""
        self._read_at = (sent_at + time.monotonic()) / 2
        self._base_us = database_us

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def new_id(self) -> bytes:
        """A UUIDv7 by this clock (A9: ids that the server makes are stamped by the database's clock)."""
        return uuid7(self.now_us() // 1000, secrets.randbits(80))
