"""Wishes to cancel (protocol A13): waiting jobs at once, running ones by their worker, all of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from services.coordinator.ledger import Ledger
from services.coordinator.owner import Owner
from services.coordinator.recovery import Recovery, spec_of
from services.coordinator.sessions import Sessions
from services.coordinator.state import State
from services.core.book import Entry, Phase
from services.core.errors import NotOwner, Unavailable
from services.core.lanes import LaneKey
from services.runtime import logs
from services.store.dispatch import Changes
from taskflow._policy import Outcome

log = logs.get("cancels")

SWEEP = 5.0  # seconds between readings of open wishes, beside the scheduler's hints


class Cancels:
    def __init__(self, state: State, ledger: Ledger, sessions: Sessions, recovery: Recovery) -> None:
        self._state = state
        self._ledger = ledger
        self._sessions = sessions
        self._recovery = recovery
        self._outage = logs.Outage(log, "cannot cancel now")
        self._deadlines: dict[bytes, float] = {}  # running attempts that were told: when their grace is over
        self.owner: Owner | None = None  # set by whoever puts the parts together
        self.expiring: set[bytes] = set()

    async def run(self) -> None:
        state = self._state
        while True:
            try:
                async with asyncio.timeout(min(SWEEP, 0.5) if self._deadlines else SWEEP):
                    await state.cancels_wanted.wait()
            except TimeoutError:
                pass
            state.cancels_wanted.clear()
            try:
                await self._sweep()
                self._outage.over()
            except (Unavailable, NotOwner) as error:
                self._outage.failed(error)
                await state.clock.sleep(1.0)

    async def _sweep(self) -> None:
        state = self._state
        if not state.book.shards:
            return
        self._end_graces()
        rows = await state.db.rows("open_cancels", shards=list(state.book.shards))
        unknown = []
        for row in rows:
            entry = state.book.by_job.get(row["job_id"].bytes)
            if entry is None:
                unknown.append(row)
            else:
                self._cancel(entry, row["reason"])
        if unknown:
            await self._cancel_unknown(unknown)

    def _cancel(self, entry: Entry, reason: str) -> None:
        if entry.phase is Phase.ENDING:
            entry.cancelling = True  # its outcome closes the wish, if it is not too late; else the next sweep does
            return
        entry.cancelling, entry.cancel_reason = True, reason
        if entry.phase is Phase.HELD:
            return  # a worker may have it: once that is known, one of the other ways
        if entry.phase is Phase.QUEUED:
            self._take_out([entry])
        elif entry.hold is not None:  # an executor cannot be told, nor confirm: its next word is refused as stale
            self._ledger.end([entry], Outcome.CANCELLED, "cancelled_running" if entry.started else "cancelled")
        elif entry.exec_id not in self._deadlines:
            self._sessions.tell_cancel(entry)
            self._deadlines[entry.exec_id] = self._state.clock.monotonic() + self._state.settings.cancel_grace

    def _take_out(self, entries: list[Entry]) -> None:
        """Asks the queue service; it answers `removed`, or has said or says who took it."""
        waiting = [e for e in entries if e in self._state.book.outbox]
        self.removed(waiting)
        feed = self.owner.feed if self.owner is not None else None
        if feed is not None:
            feed.remove([e.exec_id for e in entries if e not in waiting])

    def removed(self, entries: Sequence[Entry]) -> None:
        """Out of the queue: final."""
        for entry in entries:
            if entry.job_id in self.expiring:
                self.expiring.discard(entry.job_id)
                self._ledger.end([entry], Outcome.CANCELLED, "expired")
            elif entry.cancelling:
                self._ledger.end([entry], Outcome.CANCELLED, "cancelled")
            else:
                self._state.book.hand_out(entry)  # a wish that was revoked meanwhile
                self._state.fed.set()

    def expire(self, entry: Entry) -> None:
        """Its `start_by` has passed (R7)."""
        self.expiring.add(entry.job_id)
        self._take_out([entry])

    def _end_graces(self) -> None:
        now = self._state.clock.monotonic()
        for exec_id in [e for e, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[exec_id]
            entry = self._state.book.by_exec.get(exec_id)
            if entry is not None and entry.cancelling and entry.phase is Phase.TAKEN:
                self._ledger.end([entry], Outcome.CANCELLED, "cancel_grace")

    async def _cancel_unknown(self, rows: list[dict[str, Any]]) -> None:
        """Not in memory: final already, deferred, or waiting in Postgres for room in its lane."""
        state = self._state
        facts = await self._recovery.facts([row["job_id"].bytes for row in rows])
        for row in rows:
            job_id = row["job_id"].bytes
            known = facts.get(job_id)
            if known is None or job_id in state.book.by_job or known["shard"] not in state.book.shards:
                continue
            key = LaneKey(known["queue"], known["task"], known["priority"])
            entry = Entry(job_id, key, known["shard"], 1, 0, spec_of(job_id, known))
            entry.cancelling, entry.cancel_reason = True, row["reason"]
            if known["due_attempt"] is not None:
                entry.due, entry.attempt, entry.tries = True, known["due_attempt"], known["due_tries"]
            elif known["last_final"]:
                await self._close_wish(job_id, known["shard"])
                continue
            else:
                lane = state.book.lanes.get(key)
                if lane is not None:
                    lane.drop(job_id)
            state.book.by_job[job_id] = entry
            state.book.waiting[key] += 1
            self._ledger.end([entry], Outcome.CANCELLED, "cancelled")

    async def _close_wish(self, job_id: bytes, shard: int) -> None:
        async with self._ledger.exclusive:
            await self._ledger.write(Changes(cancelled=[job_id]), {shard})
