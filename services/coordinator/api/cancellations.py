"""Applies cancels (protocol A13): to waiting jobs at once, to running ones by their worker, to each once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from taskflow._policy import Outcome
from taskflow_server.coordinator.entries import FACTS_A_QUERY, load_facts, unread_entry
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter, committed
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.runtime import logs
from taskflow_server.store.database import Row
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS

log = logs.get("cancels")

WISHES = 500  # cancels of one shard that one query reads
_FIRST = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class Cancellations:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, performer: Performer) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._performer = performer
        self._outage = shared.readiness.outage(log, "jobs cannot be cancelled")
        self._deadlines: dict[bytes, float] = {}  # end of the grace, by exec_id of attempts whose worker was notified

    async def run(self) -> None:
        shared = self._shared
        while True:
            interval = shared.settings.cancel_interval
            try:
                async with asyncio.timeout(min(interval, 0.5) if self._deadlines else interval):
                    await shared.cancels_wanted.wait()
            except TimeoutError:
                pass
            shared.cancels_wanted.clear()
            try:
                await self._sweep()
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
                await shared.clock.sleep(1.0)

    async def _sweep(self) -> None:
        shared = self._shared
        if not shared.table.shards:
            return
        self._end_graces()
        after = dict.fromkeys(shared.table.shards, _FIRST)
        while after:
            sinces, ids = zip(*after.values(), strict=True)
            rows = await shared.db.rows(
                "open_cancels", shards=list(after), sinces=list(sinces), ids=list(ids), limit=WISHES
            )
            await self._apply(rows)
            read: dict[int, list[tuple[datetime, UUID]]] = {}
            for row in rows:
                read.setdefault(row["shard"], []).append((row["requested_at"], row["job_id"]))
            after = {shard: places[-1] for shard, places in read.items() if len(places) == WISHES}

    async def _apply(self, rows: Sequence[Row]) -> None:
        """Applies one page of open cancels. Jobs that can be ended at once end before the next page is read."""
        unknown, known = [], []
        for row in rows:
            entry = self._shared.table.by_job.get(row["job_id"].bytes)
            if entry is None:
                unknown.append(row)
            else:
                known.append((entry, row["reason"]))
        self._cancel(known)
        for start in range(0, len(unknown), FACTS_A_QUERY):
            await self._cancel_unknown(unknown[start : start + FACTS_A_QUERY])

    def _cancel(self, known: Sequence[tuple[Entry, str]]) -> None:
        effects = self._shared.table.cancel(known)
        deadline = self._shared.clock.monotonic() + self._shared.settings.cancel_grace
        # A worker is notified once here; the answers to its heartbeats repeat it.
        effects.cancel = [entry for entry in effects.cancel if entry.exec_id not in self._deadlines]
        for entry in effects.cancel:
            self._deadlines[entry.exec_id] = deadline
        self._performer.perform(effects)

    def _end_graces(self) -> None:
        now = self._shared.clock.monotonic()
        for exec_id in [e for e, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[exec_id]
            entry = self._shared.table.by_exec.get(exec_id)
            if entry is not None and entry.cancelling and entry.phase is Phase.TAKEN:
                self._outcomes.end([entry], Outcome.CANCELLED, "cancel_grace")

    async def _cancel_unknown(self, rows: Sequence[Row]) -> None:
        """Cancels jobs that are not in memory: final, deferred, or waiting in Postgres for room in their lane."""
        table = self._shared.table
        facts = await load_facts(self._shared.db, [row["job_id"].bytes for row in rows], payloads=False)
        final: dict[bytes, int] = {}
        endings, here = [], []
        for row in rows:
            job_id = row["job_id"].bytes
            known = facts.get(job_id)
            if known is None or known["shard"] not in table.shards:
                continue
            if (entry := table.by_job.get(job_id)) is not None:  # its lane has read it meanwhile
                here.append((entry, row["reason"]))
                continue
            if known["due_attempt"] is None and known["last_final"]:
                final[job_id] = known["shard"]
                continue
            entry = unread_entry(known)
            table.admit_unread(entry, cancel_reason=row["reason"])
            endings.append(self._outcomes.end([entry], Outcome.CANCELLED, "cancelled"))
        self._cancel(here)
        await committed(endings)
        if final:
            await self._close_wishes(final)

    async def _close_wishes(self, final: Mapping[bytes, int]) -> None:
        async with self._outcomes.exclusive:
            await self._outcomes.write(Changes(cancelled=list(final)), set(final.values()))
