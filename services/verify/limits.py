"""Counts how many attempts ran at once. Pure."""

from __future__ import annotations

import heapq
from datetime import datetime, timedelta

# Instants of an attempt are its coordinator's reading of the database's clock: an end may seem so much later than the
# start for which it made room.
BLUR = timedelta(milliseconds=250)


class Running:
    """Attempts in the order of their starts: holds those that run, however many there were."""

    def __init__(self) -> None:
        self._ends: list[tuple[datetime, str]] = []

    def start(self, started: datetime, finished: datetime, name: str) -> list[str]:
        """Adds an attempt; the names of all that run at its start, it included."""
        while self._ends and self._ends[0][0] - BLUR <= started:
            heapq.heappop(self._ends)
        heapq.heappush(self._ends, (finished, name))
        return [name for _, name in self._ends]
