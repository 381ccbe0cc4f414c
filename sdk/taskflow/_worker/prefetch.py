"""How many attempts a worker prefetches: asks for beyond its free slots, so that no slot waits for a poll."""

from __future__ import annotations

import math

MOST = 256
MOST_PER_SLOT = 10
PATIENCE = 5.0  # times `seconds`: a prefetched attempt that has not started by then is returned

_RATE_SECONDS = 0.1  # over which the rate of ended handlers is smoothed
_RUNS = 32  # handlers over which the mean run time is smoothed


class Prefetch:
    """Allows as many as will start within `seconds`, by the recent mean run time and the recent rate of ended handlers.

    The mean keeps a worker of long handlers from prefetching, also when many of them end at once. The rate falls
    while no handler ends: the mean does not include handlers that are still running. Pure: times are arguments.
    """

    def __init__(self, slots: int, seconds: float) -> None:
        self._slots = slots
        self._seconds = seconds
        # With one slot jobs start in the order of their lane (R13), which a returned job would leave.
        self._most = min(MOST, MOST_PER_SLOT * slots) if slots > 1 else 0
        self._mean = math.inf
        self._rate = 0.0
        self._at = 0.0

    @property
    def patience(self) -> float:
        """Seconds until a prefetched attempt that has not started is returned."""
        return self._seconds * PATIENCE

    def ended(self, runs: list[float], now: float) -> None:
        """Handlers have ended, after so many seconds each, and freed their slots."""
        mean, count = sum(runs) / len(runs), len(runs)
        self._mean = mean if math.isinf(self._mean) else self._mean + (mean - self._mean) * count / (count + _RUNS)
        self._rate = self._faded(now) + count / _RATE_SECONDS
        self._at = max(now, self._at)

    def stalled(self) -> None:
        """Prefetched attempts waited for too long: none are prefetched until further handlers have ended."""
        self._rate = 0.0

    def allowed(self, now: float) -> int:
        """How many attempts may be prefetched and not started now."""
        by_rate = self._faded(now) * self._seconds
        by_mean = self._slots * self._seconds / self._mean if self._mean > 0 else math.inf
        return int(min(by_rate, by_mean, self._most))

    def _faded(self, now: float) -> float:
        return self._rate * math.exp(-max(0.0, now - self._at) / _RATE_SECONDS)
