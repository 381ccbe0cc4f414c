"""The only reader of time in the SDK.

Everything that waits or measures does it through a `Clock`, so that one that a test moves can stand in its
place. Ids and deadlines of calls stay on the real clock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the SDK asks of a clock."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def now(self) -> datetime:
        """The present instant, for people."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns when `monotonic` has advanced by `seconds`."""
        ...


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


SYSTEM = SystemClock()


class ClusterClock:
    """The machine's clock, as far ahead of it as the cluster's is of the real one (`taskflow up --clock=manual`)."""

    def __init__(self) -> None:
        self.moved_us = 0
        self._moves = asyncio.Event()

    def monotonic(self) -> float:
        return time.monotonic() + self.moved_us / 1e6

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(microseconds=self.moved_us)

    async def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._moves.wait()
            except TimeoutError:
                return

    def move(self, moved_us: int) -> float:
        """On the I/O loop. The seconds by which it was moved; never back."""
        by = moved_us - self.moved_us
        if by <= 0:
            return 0.0
        self.moved_us = moved_us
        self._moves.set()
        self._moves = asyncio.Event()
        return by / 1e6


def wall_ms() -> int:
    """Unix time in milliseconds, for ids."""
    return time.time_ns() // 1_000_000
