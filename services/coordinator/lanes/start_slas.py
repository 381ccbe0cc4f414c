"""Records jobs that have not started within their `sla`, each once (S1.1).

Each has a row in `job_slas` from its submission until it is known whether it started in time, wherever it waits:
nothing of it is kept in memory. It is checked a moment after the end of its sla, so that the report of a start in time
has arrived. Recording is one fenced transaction: a former owner records nothing, and each row is judged once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

from taskflow_server.coordinator.lanes.deferred import BEGINNING
from taskflow_server.coordinator.outcomes.sla_misses import Miss, recorded
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.errors import NotOwner
from taskflow_server.core.ids import shard_and_epoch
from taskflow_server.runtime import logs
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.database import Row, Writer
from taskflow_server.store.dispatch import judge_slas
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import DuePlace
from taskflow_server.store.times import to_datetime

log = logs.get("slas")

ROWS_A_SHARD = 200  # of one page; the rest is on the next one
LOOK = 5.0  # seconds between looks that no reading of due rows has asked for


class StartSlas:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._writer = Writer(shared.settings.database_url, timeout=shared.settings.database_timeout)
        self._outage = shared.readiness.outage(log, "missed slas of jobs cannot be recorded")

    async def close(self) -> None:
        await self._writer.reset()

    async def run(self) -> None:
        shared = self._shared
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK):
                    await shared.slas_wanted.wait()
            shared.slas_wanted.clear()
            try:
                if shared.healthy:
                    await self._look()
                self._outage.over()
            except NotOwner:
                shared.lost.set()  # the next owner finds the rows
            except FAULTS as error:
                self._outage.failed(error)
                shared.slas_wanted.set()  # the outage is over with the next look, whether or not an sla has ended
            await shared.clock.sleep(shared.settings.sla_interval)  # rows of jobs in doubt stay, and ask again

    async def _look(self) -> None:
        shared = self._shared
        since = dict.fromkeys(shared.table.shards, BEGINNING)
        while since:
            places = list(since.values())
            rows = await shared.db.rows(
                "due_job_slas", shards=list(since), sinces=[place.due_at for place in places],
                ids=[UUID(bytes=place.job_id) for place in places], seconds=shared.settings.sla_interval,
                limit=ROWS_A_SHARD,
            )  # fmt: skip
            await self._judge([row for row in rows if row["shard"] in shared.table.shards])
            read: dict[int, list[DuePlace]] = {}
            for row in rows:
                read.setdefault(row["shard"], []).append(DuePlace(row["due_at"], row["job_id"].bytes))
            since = {shard: found[-1] for shard, found in read.items() if len(found) == ROWS_A_SHARD}

    async def _judge(self, rows: Sequence[Row]) -> None:
        """Judges rows. Memory is read before the statement that reads the disk: an attempt leaves memory after its
        commit, so one of the two has it."""
        if not rows:
            return
        shared = self._shared
        entries = [shared.table.by_job.get(row["job_id"].bytes) for row in rows]
        columns: dict[str, list[Any]] = {name: [row[name] for row in rows] for name in ("shard", "due_at", "job_id")}
        columns["late"] = [self._is_late(row, entry) for row, entry in zip(rows, entries, strict=True)]
        columns["absent"] = [entry is None for entry in entries]
        epochs = shared.epochs({row["shard"] for row in rows})
        await reach("coordinator.before_sla")
        found = await judge_slas(self._writer, columns, epochs)
        await reach("coordinator.after_sla")
        recorded([Miss("job", row["job_id"], row["task"], row["queue"]) for row in found])

    def _is_late(self, row: Row, entry: Entry | None) -> bool | None:
        """Whether a job without an end on disk had not started by its instant, according to memory; None: unknown.

        A worker reports a start with its next heartbeat. Until then a job that it has may have started in time; a job
        that its last heartbeat listed as not started had not started by then.
        """
        shard = self._shared.table.shards[row["shard"]]
        if entry is None:
            return True if shard.settled else None  # else a worker that has not confirmed yet may run it
        if entry.phase in (Phase.QUEUED, Phase.BLOCKED):
            return True
        if entry.phase is not Phase.TAKEN:
            return None  # in doubt, or its outcome is being committed
        if entry.executor_lease is not None and not entry.started:
            return True  # an executor reports its start itself
        if shard_and_epoch(entry.exec_id)[1] != shard.epoch & 0xFFFFFFFF:
            return None  # handed out by a former owner: its report has the start
        clock = self._shared.clock
        idle_until = to_datetime(clock.now_us() - int((clock.monotonic() - entry.taken_at) * 1e6))
        late = idle_until is not None and idle_until > row["due_at"]
        return late if entry.started else late or None
