"""Readiness: a service is ready while none of its parts waits for Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from taskflow_server.runtime import logs

LOOK = 1.0  # seconds between looks for outages that end by themselves


class Readiness:
    """The parts of one service, and which of them wait."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.monotonic = monotonic
        self._waiting: dict[PartOutage, float] = {}  # until when
        self._changed = asyncio.Event()

    def outage(self, log: FilteringBoundLogger, what: str, *, lasts: float = float("inf")) -> PartOutage:
        """For one part. `lasts`: seconds after which a failure counts no more, for a part that does not try again by
        itself, and so might never report that it works."""
        return PartOutage(self, log, what, lasts)

    @property
    def ready(self) -> bool:
        now = self.monotonic()
        return all(until <= now for until in self._waiting.values())

    async def follow(self, serving: Callable[[bool], Awaitable[None]]) -> None:
        """Passes on each change, for as long as the service lives. It begins as ready."""
        was = True
        while True:
            ready = self.ready
            if ready != was:
                was = ready
                await serving(ready)
            try:
                async with asyncio.timeout(LOOK):
                    await self._changed.wait()
            except TimeoutError:
                continue
            self._changed.clear()

    def waits(self, part: PartOutage, until: float) -> None:
        self._waiting[part] = until
        self._changed.set()

    def works(self, part: PartOutage) -> None:
        if self._waiting.pop(part, None) is not None:
            self._changed.set()


class PartOutage(logs.Outage):
    """An outage that also makes its service not ready."""

    def __init__(self, readiness: Readiness, log: FilteringBoundLogger, what: str, lasts: float) -> None:
        super().__init__(log, what)
        self._readiness = readiness
        self._lasts = lasts

    def failed(self, error: BaseException) -> None:
        super().failed(error)
        self._readiness.waits(self, self._readiness.monotonic() + self._lasts)

    def over(self) -> None:
        super().over()
        self._readiness.works(self)
