"""Cancels jobs that have not started by their `start_by`, reason `expired` (R7).

Each has a row in `start_bys` from its submission to that time, wherever it waits: nothing of it is kept in memory. The
row is deleted once its job has started or ended. A job with a `run_at` beyond its `start_by` expires when it is due.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from taskflow._policy import Outcome
from taskflow_server.coordinator.entries import FACTS_A_QUERY, load_facts, unread_entry
from taskflow_server.coordinator.lanes.deferred import BEGINNING
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter, committed
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.runtime import logs
from taskflow_server.store.database import Row
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import DuePlace, LaneReader

log = logs.get("expiry")

ROWS_A_SHARD = 200  # of one page; the rest is on the next one
LOOK = 5.0  # seconds between looks that no reading of due rows has asked for


class StartByExpiry:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, performer: Performer, reader: LaneReader) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._performer = performer
        self._reader = reader
        self._outage = shared.readiness.outage(log, "expired jobs cannot be read")

    async def run(self) -> None:
        shared = self._shared
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await shared.start_bys_wanted.wait()
            shared.start_bys_wanted.clear()
            try:
                await self._look()
                self._outage.over()
                await shared.clock.sleep(shared.settings.due_interval)  # rows of jobs in doubt stay, and ask again
            except FAULTS as error:
                self._outage.failed(error)
                shared.start_bys_wanted.set()  # the outage is over with the next look, whether or not a row has passed
                await shared.clock.sleep(shared.settings.sweep_interval)

    async def _look(self) -> None:
        since = dict.fromkeys(self._shared.table.shards, BEGINNING)
        while since:
            rows = await self._reader.late_starts(since, ROWS_A_SHARD)
            begun, queued, unknown = self._sort(rows)
            self._performer.perform(self._shared.table.expire(queued))
            for start in range(0, len(unknown), FACTS_A_QUERY):
                begun += await self._end_unknown(unknown[start : start + FACTS_A_QUERY])
            if begun:
                await self._forget(begun)
            read: dict[int, list[DuePlace]] = {}
            for row in rows:
                read.setdefault(row["shard"], []).append(DuePlace(row["start_by"], row["job_id"]))
            since = {shard: places[-1] for shard, places in read.items() if len(places) == ROWS_A_SHARD}

    def _sort(self, rows: Sequence[Row]) -> tuple[list[Row], list[Entry], list[Row]]:
        """The jobs that have started, those that wait in the queue service, and those that are not in memory. For the
        others it is unknown yet whether they have started: a later check decides."""
        table = self._shared.table
        begun, queued, unknown = [], [], []
        for row in rows:
            shard = table.shards.get(row["shard"])
            entry = table.by_job.get(row["job_id"])
            if shard is None:
                continue
            if row["begun"] or (entry is not None and _has_begun(entry)):
                begun.append(row)
            elif entry is not None and entry.phase in (Phase.QUEUED, Phase.BLOCKED):
                queued.append(entry)
            elif entry is None and shard.settled:  # else a worker that has not confirmed yet may run it
                unknown.append(row)
        return begun, queued, unknown

    async def _end_unknown(self, rows: Sequence[Row]) -> list[Row]:
        """Ends jobs that are deferred, or wait in Postgres. Returns the rows without a job to end."""
        table = self._shared.table
        facts = await load_facts(self._shared.db, [row["job_id"] for row in rows], payloads=False)
        begun, endings = [], []
        for row in rows:
            job_id = row["job_id"]
            known = facts.get(job_id)
            if known is None or known["last_attempt"] is not None:
                begun.append(row)
            elif job_id not in table.by_job and known["shard"] in table.shards and known["lease_attempt"] is None:
                entry = unread_entry(known)
                table.admit_unread(entry)
                endings.append(self._outcomes.end([entry], Outcome.CANCELLED, "expired"))
        await committed(endings)
        return begun

    async def _forget(self, rows: Sequence[Row]) -> None:
        """Deletes rows. The next check finds those that remain after a failure."""
        shards = self._shared.table.shards
        mine = [row for row in rows if row["shard"] in shards]
        if not mine:
            return
        columns = {
            "shard": [row["shard"] for row in mine],
            "start_by": [row["start_by"] for row in mine],
            "job_id": [UUID(bytes=row["job_id"]) for row in mine],
        }
        async with self._outcomes.exclusive:
            await self._outcomes.write(Changes(other=[("forget_start_bys", columns)]), {row["shard"] for row in mine})


def _has_begun(entry: Entry) -> bool:
    """Whether the job has started; a job that is retried has."""
    return entry.attempt > 1 or (entry.phase is Phase.TAKEN and entry.started)
