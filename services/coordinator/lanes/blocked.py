"""Jobs that wait for a permit of a limit: they get one in order, and beyond a depth wait in Postgres (B4).

A blocked job takes no room in its lane, so that it hides no other. `TASKFLOW_BLOCKED_DEPTH` of a limit wait in memory;
each of the others has a row in `deferred`, with the limit's key, which is read when few are left in memory. A row stays
until the attempt's outcome, as every row of `deferred` does (A4). A job that has waited in memory for
`TASKFLOW_LEASE_ROW_AFTER` gets a row too, and stays in memory: without the row it would hold back its lane's mark (B3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from taskflow._policy import Deferral
from taskflow_server.coordinator.entries import SPEC_BYTES, SPECS_A_QUERY, due_entry
from taskflow_server.coordinator.lanes.deferred import Deferred
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.limits import beyond
from taskflow_server.core.dispatch.records import FIRST, Entry, Limit, Order, order_of
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.runtime import logs
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.database import Row
from taskflow_server.store.dispatch import BlockedRow, Changes
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import LaneReader, Spec

log = logs.get("blocked")

CHECK = 1.0  # seconds between checks for jobs that have waited for long
ROWS_A_WRITE = 2000
LIMITS_A_QUERY = 100
RELEASED_AT_ONCE = 5000  # rows of a removed limit
KEPT_PAYLOAD = 4096  # bytes; a larger one is read again when its job gets a permit


class Found(NamedTuple):
    """The facts of a job without a large payload, and the size of its payload."""

    spec: Spec
    size: int


class BlockedJobs:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, deferred: Deferred, reader: LaneReader) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._deferred = deferred
        self._reader = reader
        self._outage = shared.readiness.outage(log, "jobs that wait for a permit cannot be read or written")
        self._depth = shared.settings.blocked_depth  # of each limit; less when many limits share the memory
        self._looked_at = 0.0  # time of the last check for jobs that have waited for long

    async def run(self) -> None:
        shared = self._shared
        while True:
            try:
                async with asyncio.timeout(CHECK):
                    await shared.permits_wanted.wait()
            except TimeoutError:
                pass
            shared.permits_wanted.clear()
            try:
                await self._look()
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
                await shared.clock.sleep(shared.settings.sweep_interval)
                shared.permits_wanted.set()

    async def _look(self) -> None:
        permits, limits = self._shared.permits, self._shared.table.limits
        if not self._shared.table.shards:
            return
        permits.begin()
        changed, limits.changed = limits.changed, set()
        self._give(changed)
        try:
            if permits.gone:
                await self._release()
            await self._fill([limit for limit in changed if self._is_short(limit)])
            self._give(changed)
            await self._store(changed)
        except BaseException:
            limits.changed |= changed.intersection(limits)
            raise

    def _give(self, changed: set[Limit]) -> None:
        """Gives the free permits, and drops large payloads of the jobs that still wait."""
        shared, now = self._shared, self._shared.clock.monotonic()
        for limit in changed:
            held, back = shared.permits.give(limit)
            if held:
                shared.settle_wanted.set()
            if back:
                shared.take_back([entry.exec_id for entry in back])
            for entry in shared.permits.begin_waiting(limit, now):
                if entry.spec is not None and len(entry.spec.payload) > KEPT_PAYLOAD:
                    shared.table.drop_payload(entry)
        shared.fed.set()

    def _share_out(self) -> None:
        """Divides the memory among the limits for which jobs wait, or may wait in Postgres."""
        settings = self._shared.settings
        busy = sum(1 for limit in self._shared.table.limits if limit.blocked or limit.stored is not None)
        self._depth = max(1, min(settings.blocked_depth, settings.blocked_in_memory // (2 * max(busy, 1))))

    # -- from Postgres -----------------------------------------------------------------------
    def _is_short(self, limit: Limit) -> bool:
        """Whether there may be more jobs in Postgres, and room for them."""
        if limit.stored is None or not self._shared.table.limits.open:
            return False
        return limit.stored is FIRST or 2 * len(limit.blocked) < self._depth

    async def _fill(self, limits: Sequence[Limit]) -> None:
        table = self._shared.table
        if any(limit.stored is FIRST for limit in limits):  # all limits, after a takeover
            self._share_out()
        for start in range(0, len(limits), LIMITS_A_QUERY):
            part = limits[start : start + LIMITS_A_QUERY]
            epochs = {number: shard.epoch for number, shard in table.shards.items()}
            # This number of the first rows may be in memory already.
            most = [self._depth + len(limit.blocked) + len(limit.holders) for limit in part]
            with table.departures() as left:
                rows = await self._reader.blocked_of_limits([limit.key for limit in part], most)
                await reach("coordinator.after_blocked")
                specs = await self._specs([row["job_id"] for row in rows if row["job_id"] not in table.by_job])
                if {number: shard.epoch for number, shard in table.shards.items()} != epochs:
                    return  # a takeover came between: the rows are read again
                for limit, count in zip(part, most, strict=True):
                    self._admit(limit, [row for row in rows if row["blocked_by"] == limit.key], count, specs, left)

    async def _specs(self, ids: Sequence[bytes]) -> dict[bytes, Found]:
        """Reads jobs, and drops large payloads after each query: those of all limits would not fit into memory."""
        found: dict[bytes, Found] = {}
        while ids:
            part = ids[:SPECS_A_QUERY]
            specs = await self._reader.specs(part, SPEC_BYTES)
            told = {job_id: _light(spec) for job_id, spec in specs.items() if spec.told}
            found |= told
            ids = [job_id for job_id in ids if job_id not in told and (job_id in specs or job_id not in part)]
        return found

    def _admit(self, limit: Limit, rows: Sequence[Row], most: int, specs: dict[bytes, Found], left: set[bytes]) -> None:
        """Admits rows that are still valid. The next read has the jobs that have left memory since this one (A3)."""
        table, again = self._shared.table, False
        for row in rows:
            job_id: bytes = row["job_id"]
            shard, found = table.shards.get(row["shard"]), specs.get(job_id)
            if job_id in table.by_job or shard is None:
                continue
            if job_id in left or found is None:
                again = again or job_id in left
                continue
            fed = found.spec.payload is None and bool(found.size)  # loaded again when it gets its permit
            table.admit(due_entry(row, found.spec, found.size, fed=fed), in_doubt=row["due_at"] <= shard.opened_at)
        last = Order(-rows[-1]["priority"], rows[-1]["job_id"]) if len(rows) == most else None
        limit.stored = FIRST if again else last
        if again:
            self._shared.permits_wanted.set()
            table.limits.changed.add(limit)
        self._shared.settle_wanted.set()

    # -- to Postgres -------------------------------------------------------------------------
    def _to_store(self, changed: set[Limit]) -> tuple[list[Entry], list[Entry]]:
        """The jobs to move to Postgres, and those to write there as well."""
        shared, now = self._shared, self._shared.clock.monotonic()
        limits, since = changed, float("-inf")
        if now - self._looked_at >= CHECK:
            self._looked_at, limits = now, set(shared.table.limits)
            since = now - shared.settings.lease_row_after
            self._share_out()
        found = [beyond(limit, self._depth, since) for limit in limits if limit.blocked]
        return [e for alone, _ in found for e in alone], [e for _, also in found for e in also]

    async def _store(self, changed: set[Limit]) -> None:
        shared, table = self._shared, self._shared.table
        if not any(limit.blocked for limit in changed) and shared.clock.monotonic() - self._looked_at < CHECK:
            return
        async with self._outcomes.exclusive:
            alone, also = self._to_store(changed)
            entries = [*alone, *also][:ROWS_A_WRITE]
            if not entries:
                return
            table.writing_deferred(entries)
            await self._outcomes.write(Changes(block=[_row(e) for e in entries]), {e.shard for e in entries})
            leaving = set(alone)
            for entry in entries:
                if table.by_job.get(entry.job_id) is entry:
                    self._stored(entry, leaves=entry in leaving)
        if len(alone) + len(also) > len(entries):
            table.limits.changed |= changed
            self._looked_at = 0.0
            shared.permits_wanted.set()
        shared.page_wanted.set()  # lanes may have waited for this room
        shared.due_wanted.set()

    def _stored(self, entry: Entry, *, leaves: bool) -> None:
        """Its row is written. If it has ended meanwhile, its outcome deletes the row."""
        table, limit = self._shared.table, entry.limit
        if entry.phase is Phase.BLOCKED and limit is not None:
            if leaves and limit.stored is not FIRST:
                limit.stored = min(limit.stored or order_of(entry), order_of(entry))
            table.deferred(entry, leaves=leaves and entry.may_leave)
        else:
            self._shared.permits.gone = True  # its limit may be removed

    async def _release(self) -> None:
        """Makes jobs of removed limits due like all others."""
        most, permits = self._shared.table.limits.most, self._shared.permits
        permits.gone = False
        try:
            keys = [row["blocked_by"] for row in await self._shared.db.rows("keys_of_blocked")]
            gone = [key for key in keys if key not in most]
            shards = set(self._shared.table.shards)
            if gone and shards:  # the shards may have another owner by now, and a write without a shard has no fence
                permits.gone = True  # until no row is found
                part = gone[:LIMITS_A_QUERY]
                statements = [("release_blocked", {"key": key, "limit": RELEASED_AT_ONCE}) for key in part]
                async with self._outcomes.exclusive:
                    await self._outcomes.write(Changes(other=statements), shards)
                self._deferred.rescan()
                self._shared.due_wanted.set()
                self._shared.permits_wanted.set()
        except BaseException:
            permits.gone = True
            raise


def _row(entry: Entry) -> BlockedRow:
    key = entry.key
    assert entry.limit is not None
    return BlockedRow(
        entry.job_id, entry.shard, key.priority, entry.attempt, entry.tries, int(Deferral.BLOCKED), key.queue, key.task,
        entry.limit.key,
    )  # fmt: skip


def _light(spec: Spec) -> Found:
    size = len(spec.payload or b"")
    return Found(spec._replace(payload=None) if size > KEPT_PAYLOAD else spec, size)
