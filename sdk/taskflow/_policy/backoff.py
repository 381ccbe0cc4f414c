"""How long a failed job waits before its next try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """`min(limit, first × factor^(n-1))` seconds before further try n, spread by ± `jitter` (a share, 0–1).

    The spread keeps jobs that failed together from coming back together (AWS Architecture Blog,
    «Exponential Backoff and Jitter», 2015); a narrow one keeps a delay recognisable.
    """

    first: float = 1.0
    factor: float = 2.0
    limit: float = 600.0
    jitter: float = 0.1

    def delay(self, n: int, rng: Callable[[], float]) -> float:
        """Seconds before further try `n` (from 1); `rng` gives a number in [0, 1)."""
        try:
            base = min(self.limit, self.first * self.factor ** (max(n, 1) - 1))
        except OverflowError:
            base = self.limit
        return max(0.0, base * (1 + self.jitter * (2 * rng() - 1)))


DEFAULT_BACKOFF = Backoff()
