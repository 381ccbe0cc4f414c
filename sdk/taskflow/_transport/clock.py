"""The only reader of time in the SDK.

Everything that waits or measures does it through a `Clock`, so that one that a test moves can stand in its
place. Ids and deadlines of calls stay on the real clock.

Libraries that freeze time for a test replace functions in the names of modules: those here are kept in a class, where
they are not looked for. A deadline by a clock that stands still would never come.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """The clock that the SDK needs."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def now(self) -> datetime:
        """The present instant, for people."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Returns when `monotonic` has advanced by `seconds`."""
        ...


class _Real:
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)
    time_ns = staticmethod(time.time_ns)


class SystemClock:
    """The machine's clock."""

    def monotonic(self) -> float:
        return _Real.monotonic()

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
        return _Real.monotonic() + self.moved_us / 1e6

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


_FAKES = ("freezegun", "time_machine")  # libraries that fake the time of day; the last fakes all ways to read it
_LOOK_NS = 100_000_000  # between looks at whether the time of day is faked, or was set


class _Wall:
    """Unix time by the monotonic clock, which no library fakes: a look at the time of day for each id would cost more
    than the id."""

    def __init__(self) -> None:
        self._looked_at = _Real.monotonic_ns()
        self._offset = _Real.time_ns() - self._looked_at

    def ms(self) -> int:
        now = _Real.monotonic_ns()
        if now - self._looked_at > _LOOK_NS:
            self._looked_at = now
            if not is_faked():
                self._offset = _Real.time_ns() - _Real.monotonic_ns()
        return (self._offset + now) // 1_000_000


wall_ms = _Wall().ms
"""Unix time in milliseconds, for ids."""


def is_faked() -> bool:
    """Whether this may be a test in which the time is a fake."""
    return any(name in sys.modules for name in _FAKES)
