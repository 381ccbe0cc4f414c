"""The runs of our shards: their events are applied, and what follows is written, in one fenced transaction (A11).

What holds: nobody else changes a run; an event leaves the inbox in the transaction that stores what it led to; a
document, a result or a value that cannot be handled fails its own run, and no other; runs have their turns one after
the other, however many events one of them has.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import chain, zip_longest
from typing import TYPE_CHECKING
from uuid import UUID

from taskflow_server.coordinator.lanes.pager import LanePager
from taskflow_server.coordinator.outcomes.sla_misses import Miss, recorded
from taskflow_server.coordinator.shared import Shared
from taskflow_server.runtime import logs
from taskflow_server.store.database import Writer
from taskflow_server.store.errors import FAULTS

if TYPE_CHECKING:
    from taskflow_server.coordinator.runs.batch import RunWork

log = logs.get("runs")

AT_ONCE = 50  # runs of one transaction
SLAS_AT_ONCE = 500  # runs of one shard that miss their sla in one statement
LOOK = 1.0  # seconds between looks at the inbox, beside the hints
_FIRST = UUID(int=0)


class RunLoop:
    def __init__(self, shared: Shared, pager: LanePager) -> None:
        self._shared = shared
        self._pager = pager
        self._writer = Writer(shared.settings.database_url, timeout=shared.settings.database_timeout)
        self._work: RunWork | None = None  # from the first run with news on
        self._after = _FIRST  # the last run of the present round that has had its turn
        self._busy = False  # a run was advanced in this round
        self._held_at = 0.0  # when held runs are looked at next
        self._slas_at = 0.0  # when those are that should have begun
        self._outage = shared.readiness.outage(log, "runs cannot go on")
        self._begun = self._ended = 0  # passes
        self._passed = asyncio.Event()  # the next end of a pass; a new one for each

    async def close(self) -> None:
        await self._writer.reset()

    async def run(self) -> None:
        shared = self._shared
        while True:
            wait = LOOK
            shared.runs_wanted.clear()
            self._begun += 1
            try:
                found, due = await self._pass()
                wait = 0.0 if found else min(LOOK, max(0.0, due))
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
            except Exception as error:  # a fault of ours: runs wait, and all dispatch goes on
                log.error("a pass over the runs failed", exc_info=error)
            if wait:
                self._ended = self._begun
                self._passed.set()
                self._passed = asyncio.Event()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await shared.runs_wanted.wait()

    async def caught_up(self, patience: float) -> None:
        """Returns when all that was to be heard by now is, or after so many seconds."""
        wanted = self._begun + 1
        self._shared.runs_wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._ended < wanted:
                    await self._passed.wait()

    async def _pass(self) -> tuple[bool, float]:
        """Whether there may be more to do at once, and in how many seconds the next timer is due."""
        epochs = self._shared.epochs(list(self._shared.table.shards))
        if not epochs or not self._shared.healthy:
            return False, LOOK
        await self._release_held(epochs)
        await self._miss_slas(epochs)
        left_out = self._work.left_out() if self._work is not None else []
        rows = await self._shared.db.rows(
            "runs_with_news", shards=list(epochs), after=self._after, left_out=left_out, limit=AT_ONCE
        )
        due = next((row["next_due"] for row in rows if row["run_id"] is None), None)
        found = sorted(row["run_id"] for row in rows if row["run_id"] is not None and not row["timed"])
        timed = [row["run_id"] for row in rows if row["timed"]]
        ids = list(dict.fromkeys(one for one in chain(*zip_longest(found, timed)) if one is not None))[:AT_ONCE]
        wanted = [run_id for run_id in ids if run_id not in set(left_out)]
        done = await self._worker().go_on(wanted, epochs) if wanted else []
        more = self._follow(found, {*done, *left_out}, bool(done))
        return more, LOOK if due is None else due

    def _follow(self, found: list[UUID], had: set[UUID], advanced: bool) -> bool:
        """Moves the round on over the runs that have had their turn. Whether to go on at once."""
        self._busy = self._busy or advanced
        for run_id in found:
            if run_id not in had:
                return True
            self._after = run_id
        if len(found) >= AT_ONCE:
            return True
        busy, self._busy, self._after = self._busy, False, _FIRST
        return busy

    async def _release_held(self, epochs: dict[int, int]) -> None:
        now = self._shared.clock.real.monotonic()
        if now < self._held_at:
            return
        self._held_at = now + self._shared.settings.held_interval
        if await self._shared.db.rows("any_held"):
            await self._worker().release_held(epochs)

    async def _miss_slas(self, epochs: dict[int, int]) -> None:
        """Runs that have not begun by their sla have missed it now, whatever they wait for (S1.3)."""
        now = self._shared.clock.real.monotonic()
        if now < self._slas_at:
            return
        missed = await self._shared.db.rows("missed_slas", shards=list(epochs), limit=SLAS_AT_ONCE)
        recorded([Miss("run", row["id"], row["workflow"]) for row in missed])
        if len(missed) < SLAS_AT_ONCE:
            self._slas_at = now + self._shared.settings.sla_interval

    def _worker(self) -> RunWork:
        if self._work is None:
            from taskflow_server.coordinator.runs.batch import RunWork  # see there why not before

            self._work = RunWork(self._shared, self._pager, self._writer)
        return self._work
