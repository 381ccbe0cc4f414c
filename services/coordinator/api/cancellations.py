"""Wishes to cancel (protocol A13): waiting jobs at once, running ones by their worker, all of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

from taskflow._policy import Outcome
from taskflow_server.coordinator.entries import FACTS_A_QUERY, load_facts, unread_entry
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter, committed
from taskflow_server.coordinator.ownership.leadership import Leadership
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.sessions import WorkerSessions
from taskflow_server.core.dispatch.records import Entry, Phase
from taskflow_server.runtime import logs
from taskflow_server.store.database import Row
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS

log = logs.get("cancels")

WISHES = 500  # of one shard, read at a time
_FIRST = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


class Cancellations:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, sessions: WorkerSessions) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._sessions = sessions
        self._outage = shared.readiness.outage(log, "jobs cannot be cancelled")
        self._deadlines: dict[bytes, float] = {}  # running attempts that were told: when their grace is over
        self._queued: list[Entry] = []  # waiting in the queue service, to be taken out
        self.leadership: Leadership | None = None  # set by whoever puts the parts together

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
        """One page of open wishes. What can be ended at once is ended before the next page is read."""
        unknown = []
        for row in rows:
            entry = self._shared.table.by_job.get(row["job_id"].bytes)
            if entry is None:
                unknown.append(row)
            else:
                self._cancel(entry, row["reason"])
        self._take_out_queued()
        for start in range(0, len(unknown), FACTS_A_QUERY):
            await self._cancel_unknown(unknown[start : start + FACTS_A_QUERY])

    def _cancel(self, entry: Entry, reason: str) -> None:
        if entry.phase is Phase.ENDING:
            # Its outcome heeds the cancel and closes it, if it is not too late; else the next sweep finds it waiting.
            entry.cancelling, entry.cancel_reason = True, reason
            return
        entry.cancelling, entry.cancel_reason = True, reason
        if entry.phase is Phase.IN_DOUBT:
            return  # a worker may have it: once that is known, one of the other ways
        if entry.phase in (Phase.QUEUED, Phase.BLOCKED):
            self._queued.append(entry)
        elif (
            entry.executor_lease is not None
        ):  # an executor cannot be told, nor confirm: its next word is refused as stale
            self._outcomes.end([entry], Outcome.CANCELLED, "cancelled_running" if entry.started else "cancelled")
        elif entry.exec_id not in self._deadlines:
            self._sessions.send_cancel(entry)
            self._deadlines[entry.exec_id] = self._shared.clock.monotonic() + self._shared.settings.cancel_grace

    def _take_out_queued(self) -> None:
        queued, self._queued = self._queued, []
        self._take_out(queued)

    def _take_out(self, entries: Sequence[Entry]) -> None:
        """Asks the queue service; it answers `removed`, or has said or says who took it."""
        if not entries:
            return
        unfed = {id(e) for e in self._shared.table.outbox}
        unfed.update(id(e) for e in entries if e.phase is Phase.BLOCKED)
        self.removed([e for e in entries if id(e) in unfed])
        feed = self.leadership.feed if self.leadership is not None else None
        if feed is not None:
            feed.remove([e.exec_id for e in entries if id(e) not in unfed])

    def removed(self, entries: Sequence[Entry]) -> None:
        """Out of the queue: final."""
        for entry in entries:
            if entry.expiring:
                self._outcomes.end([entry], Outcome.CANCELLED, "expired")
            elif entry.cancelling:
                self._outcomes.end([entry], Outcome.CANCELLED, "cancelled")
            else:
                self._shared.table.hand_out(entry)  # a wish that was revoked meanwhile
                self._shared.fed.set()

    def expire(self, entries: Sequence[Entry]) -> None:
        """Their `start_by` has passed (R7)."""
        for entry in entries:
            entry.expiring = True
        self._take_out(entries)

    def _end_graces(self) -> None:
        now = self._shared.clock.monotonic()
        for exec_id in [e for e, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[exec_id]
            entry = self._shared.table.by_exec.get(exec_id)
            if entry is not None and entry.cancelling and entry.phase is Phase.TAKEN:
                self._outcomes.end([entry], Outcome.CANCELLED, "cancel_grace")

    async def _cancel_unknown(self, rows: Sequence[Row]) -> None:
        """Not in memory: final already, deferred, or waiting in Postgres for room in its lane."""
        table = self._shared.table
        facts = await load_facts(self._shared.db, [row["job_id"].bytes for row in rows], payloads=False)
        final: dict[bytes, int] = {}
        endings = []
        for row in rows:
            job_id = row["job_id"].bytes
            known = facts.get(job_id)
            if known is None or known["shard"] not in table.shards:
                continue
            if (here := table.by_job.get(job_id)) is not None:  # its lane has read it meanwhile
                self._cancel(here, row["reason"])
                continue
            if known["due_attempt"] is None and known["last_final"]:
                final[job_id] = known["shard"]
                continue
            entry = unread_entry(self._shared.table, job_id, known)
            entry.cancelling, entry.cancel_reason = True, row["reason"]
            endings.append(self._outcomes.end([entry], Outcome.CANCELLED, "cancelled"))
        self._take_out_queued()
        await committed(endings)
        if final:
            await self._close_wishes(final)

    async def _close_wishes(self, final: Mapping[bytes, int]) -> None:
        async with self._outcomes.exclusive:
            await self._outcomes.write(Changes(cancelled=list(final)), set(final.values()))
