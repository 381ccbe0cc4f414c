"""The only reader of time in the SDK.

Everything that waits or measures does it through a `Clock`, so that one that a test moves can stand in its
place. Ids and deadlines of calls stay on the real clock.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
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


def wall_ms() -> int:
    """Unix time in milliseconds, for ids."""
    return time.time_ns() // 1_000_000
