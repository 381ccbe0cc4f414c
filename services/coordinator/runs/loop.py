"""The loop over the runs of the owned shards: applies their events in fenced transactions (A11).

Invariants: only the owner changes a run; the transaction that stores the effect of an event deletes it from the inbox;
a document, a result or a value that cannot be handled fails only its own run; runs take turns, whatever the number of
events of one of them.
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
from taskflow_server.store.raw_ids import Shards

if TYPE_CHECKING:
    from taskflow_server.coordinator.runs.batch import RunWork

log = logs.get("runs")

AT_ONCE = 50  # runs in one transaction
SLAS_AT_ONCE = 500  # runs of one shard whose missed slas one statement records
LOOK = 1.0  # seconds between reads of the inbox, besides the hints
_FIRST = UUID(int=0)


class RunLoop:
    def __init__(self, shared: Shared, pager: LanePager) -> None:
        self._shared = shared
        self._pager = pager
        self._writer = Writer(shared.settings.database_url, timeout=shared.settings.database_timeout)
        self._work: RunWork | None = None  # set with the first run that has events
        self._after = _FIRST  # the last run that had its turn in the present round
        self._busy = False  # a run was advanced in this round
        self._held_at = 0.0  # time of the next check of held runs
        self._slas_at = 0.0  # time of the next check of missed slas
        self._outage = shared.readiness.outage(log, "runs cannot go on")
        self._begun = self._ended = 0  # number of passes
        self._passed = asyncio.Event()  # set at the end of a pass; a new event for each

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
            except Exception as error:  # a fault in TaskFlow: runs wait, and dispatch continues
                log.error("a pass over the runs failed", exc_info=error)
            if wait:
                self._ended = self._begun
                self._passed.set()
                self._passed = asyncio.Event()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await shared.runs_wanted.wait()

    async def caught_up(self, patience: float) -> None:
        """Returns when all present events are applied, or after `patience` seconds."""
        wanted = self._begun + 1
        self._shared.runs_wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._ended < wanted:
                    await self._passed.wait()

    async def _pass(self) -> tuple[bool, float]:
        """One pass. Returns whether there may be more to do at once, and the seconds until the next timer is due."""
        epochs = self._shared.epochs(list(self._shared.table.shards))
        if not epochs or not self._shared.healthy:
            return False, LOOK
        await self._release_held(epochs)
        left_out = self._work.left_out() if self._work is not None else []
        rows = await self._shared.db.rows(
            "runs_with_news", shards=Shards(epochs), after=self._after, left_out=left_out, limit=AT_ONCE
        )
        (facts,) = [row for row in rows if row["run_id"] is None]
        if facts["slas_over"]:
            await self._miss_slas(epochs)
        found = sorted(row["run_id"] for row in rows if row["run_id"] is not None and not row["timed"])
        timed = [row["run_id"] for row in rows if row["timed"]]
        ids = list(dict.fromkeys(one for one in chain(*zip_longest(found, timed)) if one is not None))[:AT_ONCE]
        wanted = [run_id for run_id in ids if run_id not in set(left_out)]
        done = await self._worker().go_on(wanted, epochs) if wanted else []
        more = self._follow(found, {*done, *left_out}, bool(done))
        return more, LOOK if facts["next_due"] is None else facts["next_due"]

    def _follow(self, found: list[UUID], had: set[UUID], advanced: bool) -> bool:
        """Advances the round past the runs that had their turn. True when the next pass must follow at once."""
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
        """Records the runs that have not started within their sla, whatever they wait for (S1.3)."""
        now = self._shared.clock.real.monotonic()
        if now < self._slas_at:
            return
        missed = await self._shared.db.rows("missed_slas", shards=list(epochs), limit=SLAS_AT_ONCE)
        recorded([Miss("run", row["id"], row["workflow"]) for row in missed])
        if len(missed) < SLAS_AT_ONCE:
            self._slas_at = now + self._shared.settings.sla_interval

    def _worker(self) -> RunWork:
        if self._work is None:
            from taskflow_server.coordinator.runs.batch import RunWork  # imported late: see there

            self._work = RunWork(self._shared, self._pager, self._writer)
        return self._work
