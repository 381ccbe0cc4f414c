"""Handlers that wait at a gate of the test, and count how many of each task run at once."""

from __future__ import annotations

import threading
from collections import Counter

from taskflow import Job


class Gate:
    """Handlers enter it and stay until they are let through, one by one or all."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._free: Counter[str] = Counter()
        self._open = False
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.entered: list[str] = []  # jobs, in the order of their starts

    def pass_through(self, name: str, job: Job) -> None:
        with self._changed:
            self.entered.append(job.id)
            self.inside[name] += 1
            self.most[name] = max(self.most[name], self.inside[name])
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open or self._free[name] > 0, 60)
            self._free[name] -= 1
            self.inside[name] -= 1

    def let(self, name: str, count: int = 1) -> None:
        with self._changed:
            self._free[name] += count
            self._changed.notify_all()

    def open(self) -> None:
        with self._changed:
            self._open = True
            self._changed.notify_all()
