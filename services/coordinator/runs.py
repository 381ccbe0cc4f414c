"""The runs of our shards: what they hear is applied, and what follows is written, in one fenced transaction (A11).

What holds: nobody else changes a run; what it has heard leaves its inbox in the transaction that stores what that led
to; a document, a result or a value that cannot be handled fails its own run, and no other.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from services.coordinator.pager import Pager
from services.coordinator.state import State
from services.core.errors import NotOwner, Unavailable
from services.runtime import logs
from services.store.database import Writer

if TYPE_CHECKING:
    from services.coordinator.run_work import RunWork

log = logs.get("runs")

AT_ONCE = 50  # runs of one transaction
LOOK = 1.0  # seconds between looks at the inbox, beside the hints


class Runs:
    def __init__(self, state: State, pager: Pager) -> None:
        self._state = state
        self._pager = pager
        self._writer = Writer(state.settings.database_url, timeout=state.settings.database_timeout)
        self._work: RunWork | None = None  # from the first run with news on
        self._outage = logs.Outage(log, "runs cannot go on")
        self._begun = self._ended = 0  # passes
        self._passed = asyncio.Event()  # the next end of a pass; a new one for each

    async def close(self) -> None:
        await self._writer.reset()

    async def run(self) -> None:
        state = self._state
        while True:
            wait = LOOK
            state.runs_wanted.clear()
            self._begun += 1
            try:
                found, due = await self._pass()
                wait = 0.0 if found else min(LOOK, max(0.0, due))
                self._outage.over()
            except (Unavailable, NotOwner) as error:
                self._outage.failed(error)
            if wait:
                self._ended = self._begun
                self._passed.set()
                self._passed = asyncio.Event()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await state.runs_wanted.wait()

    async def caught_up(self, patience: float) -> None:
        """Returns when all that was to be heard by now is, or after so many seconds."""
        wanted = self._begun + 1
        self._state.runs_wanted.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                while self._ended < wanted:
                    await self._passed.wait()

    async def _pass(self) -> tuple[bool, float]:
        """Whether any run had news, and in how many seconds the next timer is due."""
        epochs = self._state.epochs(list(self._state.book.shards))
        if not epochs or not self._state.healthy:
            return False, LOOK
        rows = await self._state.db.rows("runs_with_news", shards=list(epochs), limit=AT_ONCE)
        due = next((row["next_due"] for row in rows if row["run_id"] is None), None)
        ids = list(dict.fromkeys(row["run_id"] for row in rows if row["run_id"] is not None))[:AT_ONCE]
        done = bool(ids) and await self._worker().go_on(ids, epochs)
        return done, LOOK if due is None else due

    def _worker(self) -> RunWork:
        if self._work is None:
            from services.coordinator.run_work import RunWork  # see there why not before

            self._work = RunWork(self._state, self._pager, self._writer)
        return self._work
