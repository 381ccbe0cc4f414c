"""The cluster's clock, set by the database's: the only reader of time in the services.

It follows the machine's monotonic clock, and is ahead of it by the moves of `--clock=manual` (`move`). Time between
processes (ownership, beats, pauses before a retry) is measured by `real`, which is never moved.
"""

from __future__ import annotations

import asyncio
import secrets
import time

from taskflow_server.core.ids import uuid7


class RealClock:
    """The machine's monotonic clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class SystemClock:
    """Carries the database's time on by the machine's monotonic clock; see taskflow_server.core.clock."""

    def __init__(self) -> None:
        self.real = RealClock()
        self.moved = 0.0  # seconds ahead of the real one
        self._base_us = time.time_ns() // 1000  # until the database was first asked
        self._read_at = time.monotonic()
        self._doubt: float | None = None  # seconds by which the last reading may be wrong; None: there was none
        self._moves = asyncio.Event()

    def monotonic(self) -> float:
        return time.monotonic() + self.moved

    def now_us(self) -> int:
        return self.real_now_us() + int(self.moved * 1e6)

    def real_now_us(self) -> int:
        """The database's time, for ids."""
        return self._base_us + int((time.monotonic() - self._read_at) * 1e6)

    def set_now_us(self, database_us: int, sent_at: float) -> float:
        """`database_us` was read by a query sent at `sent_at` (monotonic, real) and answered just now.

        By how many seconds at least the database's clock has run ahead of ours since the reading before, or, if
        negative, behind it: 0 where the time that the two queries took explains it.
        """
        answered_at = time.monotonic()
        jump = 0.0
        if self._doubt is not None:
            since = (database_us - self._base_us) / 1e6
            least, most = sent_at - self._read_at - self._doubt, answered_at - self._read_at + self._doubt
            jump = min(0.0, since - least) + max(0.0, since - most)
        self._doubt = (answered_at - sent_at) / 2
        self._read_at = (sent_at + answered_at) / 2
        self._base_us = database_us
        return jump

    def move(self, moved_us: int) -> None:
        """Moves the clock to `moved_us` ahead of the real clock, never back. Sleepers notice at once."""
        if moved_us / 1e6 > self.moved:
            self.moved = moved_us / 1e6
            self._moves.set()
            self._moves = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._moves.wait()
            except TimeoutError:
                return

    def new_id(self) -> bytes:
        """A UUIDv7 by this clock (A9: ids that the server makes are stamped by the database's clock)."""
        return uuid7(self.real_now_us() // 1000, secrets.randbits(80))
