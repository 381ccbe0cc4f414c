"""The clock of all code. Real in production; moved by calls in tests and with `--clock=manual`."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; for durations and deadlines."""

    def now_us(self) -> int:
        """Microseconds since 1970 by the database's clock: the last reading plus the time since."""

    async def sleep(self, seconds: float) -> None:
        """Returns when `seconds` have passed on this clock."""
