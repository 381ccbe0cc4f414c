"""How long a failed job waits before its next try."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential:
    """Waits `min(limit, first × factor^(n-1))` seconds before further try n, spread by ± `jitter` (a share, 0–1)."""

    first: float = 1.0
    factor: float = 2.0
    limit: float = 600.0
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class Constant:
    """Waits `delay` seconds before every further try, spread by ± `jitter` (a share, 0–1)."""

    delay: float
    jitter: float = 0.1


Backoff = Exponential | Constant
