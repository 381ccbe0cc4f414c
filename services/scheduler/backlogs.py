"""Counts the waiting jobs of long queues, in the index of lanes, and limits the share of time spent on counting.

The number is an estimate: it includes jobs that were dispatched or finished since the marks were written (3 s), and is
as old as the interval between counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from taskflow_server.core.errors import Unavailable
from taskflow_server.runtime import logs
from taskflow_server.store.database import Database

log = logs.get("backlogs")

MOST = 5_000_000  # limit of the count of one queue
SHARE = 50  # a count is repeated after this multiple of its duration
FRESH = 1.0  # minimum age in seconds before a count is repeated
MOST_KEPT = 10_000  # queues whose counts are remembered


@dataclass(frozen=True, slots=True)
class Backlog:
    jobs: int
    due_at: float  # time of the next count


class Backlogs:
    def __init__(self, db: Database, now: Callable[[], float]) -> None:
        self._db = db
        self._now = now
        self._known: dict[str, Backlog] = {}
        self._one_at_a_time = asyncio.Lock()

    async def count(self, queues: Iterable[str]) -> dict[str, int]:
        """The approximate number of waiting jobs by queue, at most MOST. Omits queues that cannot be counted now."""
        found = {}
        for queue in queues:
            async with self._one_at_a_time:
                jobs = await self._count(queue)
            if jobs is not None:
                found[queue] = jobs
        return found

    async def _count(self, queue: str) -> int | None:
        now = self._now()
        known = self._known.get(queue)
        if known is not None and now < known.due_at:
            return known.jobs
        try:
            jobs: int | None = (await self._db.rows("backlog_of_queue", queue=queue, cap=MOST))[0]["jobs"]
        except Unavailable as error:  # for example: the count exceeds the statement timeout
            log.warning("a long queue could not be counted", queue=queue, error=str(error))
            jobs = known.jobs if known is not None else None
        took = self._now() - now
        if len(self._known) >= MOST_KEPT:
            self._known.clear()
        if jobs is not None:
            self._known[queue] = Backlog(jobs, now + max(FRESH, took * SHARE))
        return jobs
