"""Rows of `leases`: for attempts that outlast a heartbeat, and for jobs that are handed out after doubt (A12).

A row outlives this process: it tells the next owner of the shard which worker has the attempt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.rpc.values import clean
from taskflow_server.runtime import logs
from taskflow_server.store.dispatch import Changes, LeaseRow
from taskflow_server.store.errors import FAULTS

log = logs.get("leases")


class LeaseRows:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._outage = shared.readiness.outage(log, "leases cannot be written")

    async def write(self, entries: Sequence[Entry], rows: list[LeaseRow]) -> None:
        """Writes rows of `leases`. An entry counts as leased once its row is committed. After a commit in doubt the
        next check writes the row again, and the outcome deletes it."""
        if not entries:
            return
        progress = [entry.progress for entry in entries]
        self._shared.table.writing_lease(entries)
        await self._outcomes.write(Changes(leases=rows), {e.shard for e in entries})
        for entry, written in zip(entries, progress, strict=True):
            self._shared.table.leased(entry, written)

    async def run(self) -> None:
        """Writes rows for attempts that outlast a heartbeat, with their progress."""
        shared = self._shared
        while True:
            await shared.clock.sleep(1.0)
            if not shared.healthy:
                continue
            try:
                async with self._outcomes.exclusive:
                    long = self._long()
                    now_us, now = shared.clock.now_us(), shared.clock.monotonic()
                    began = [now_us - int((now - entry.taken_at) * 1e6) for entry in long]
                    rows = [lease_row(e, started_at=b, worker=self._name(e)) for e, b in zip(long, began, strict=True)]
                    await self.write(long, rows)
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)

    def _name(self, entry: Entry) -> str | None:
        seat = self._shared.table.workers.get(entry.worker)
        return seat.name if seat is not None else None

    def _long(self) -> list[Entry]:
        before = self._shared.clock.monotonic() - self._shared.settings.lease_row_after
        found = []
        for seat in self._shared.table.workers.values():
            for entry in seat.entries.values():
                if entry.taken_at > before or entry.phase is not Phase.TAKEN or not entry.key.queue:
                    continue
                if not entry.started:
                    if entry.executor_lease is not None:
                        continue  # an executor reports its start itself
                    self._shared.table.running(entry)  # a live worker has had it for longer than a heartbeat
                elif entry.leased and entry.lease_written is entry.progress:
                    continue
                found.append(entry)
        return found


def lease_row(
    entry: Entry, *, started_at: int | None, worker: str | None, fenced: bool | None = None
) -> LeaseRow:
    key = entry.key
    progress = entry.progress
    told = None
    if progress is not None:
        words = {"unit": clean(progress.unit, 100), "message": clean(progress.message)}
        told = json.dumps({"current": progress.current, "total": progress.total, **words})
    return LeaseRow(
        entry.job_id, entry.exec_id or bytes(16), started_at, entry.shard, key.priority,
        entry.attempt, entry.tries, entry.handouts, entry.started, key.queue, key.task, worker, told,
        round(entry.executor_lease.silence * 1000) if entry.executor_lease is not None else None, fenced,
    )  # fmt: skip
