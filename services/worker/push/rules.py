"""The times and limits of one pusher. Times are seconds; see the settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    limit: int
    poll_interval: float
    sweep_interval: float
    settle: float
    call_timeout: float
    longest_pause: float
