"""Brings deferred jobs into memory when they are due. Their rows stay until the outcome (A4).

Newly due rows are read in the order of their times, and the cursor passes every row, even without room for it: no lane
stops another. A lane that had no room for all of its rows is behind, and is read separately from its first passed row
on, when it has room. A walk over the lanes finds those with due rows; its cost does not depend on their number of rows.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from taskflow_server.coordinator.entries import SPEC_BYTES, SPECS_A_QUERY, due_entry, lane_key
from taskflow_server.coordinator.lanes.budget import MemoryBudget
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.lanes import LOW_ID, LaneKey
from taskflow_server.runtime import logs
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.database import Row
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import DueLane, DuePlace, LaneReader, NewlyDue, Spec

log = logs.get("due")

ROWS_A_SHARD = 500  # newly due rows of one read
ROWS_A_LOOK = 10_000  # rows of lanes that are behind, of one read
TURNS_A_LOOK = 1000  # lanes that are behind whose room one read checks
PASSED = 500  # rows already in memory that such a read may pass, beside those that it admits
WALK = 500  # lanes of one shard that one query visits
OVERLAP = timedelta(seconds=1)  # read again
BEGINNING = DuePlace(datetime(1970, 1, 1, tzinfo=UTC), LOW_ID)
_FIRST = LaneKey("", "", -1)  # before every lane


class Deferred:
    def __init__(self, shared: Shared, budget: MemoryBudget, reader: LaneReader) -> None:
        self._shared = shared
        self._budget = budget
        self._reader = reader
        self._outage = shared.readiness.outage(log, "due jobs cannot be read")
        self._places: dict[int, DuePlace] = {}  # by shard: earlier rows were read, or their lanes are behind
        self._behind = shared.due_behind
        self._epochs: dict[int, int] = {}  # of the reads in `_places`
        self._look_at_all = 0.0  # time of the next walk over all lanes with due rows
        self._reading = asyncio.Lock()
        self._left: set[bytes] = set()  # jobs that have left memory since the present read began

    def rescan(self) -> None:
        """Call when rows were written whose times may be before the cursor."""
        self._look_at_all = 0.0

    async def run(self) -> None:
        shared = self._shared
        while True:
            try:
                async with asyncio.timeout(shared.settings.due_interval):
                    await shared.due_wanted.wait()
            except TimeoutError:
                pass
            shared.due_wanted.clear()
            try:
                await self.due_now()
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
                await shared.clock.sleep(shared.settings.sweep_interval)

    async def due_now(self) -> None:
        """Admits the jobs that are due now, as far as there is room."""
        async with self._reading:
            table = self._shared.table
            self._follow_shards()
            if not table.shards:
                return
            await self._begin()
            now = self._shared.clock.monotonic()
            if now >= self._look_at_all:
                self._look_at_all = now + self._shared.settings.due_reread
                for lane in await self._walk(table.shards):
                    self._behind[lane] = BEGINNING  # rows may be committed after the cursor has passed their time
            with table.departures() as self._left:
                await self._read_new()
                await self._read_behind()

    def _follow_shards(self) -> None:
        """Reads everything again under another epoch."""
        epochs = {number: shard.epoch for number, shard in self._shared.table.shards.items()}
        for number in [n for n, epoch in self._epochs.items() if epochs.get(n) != epoch]:
            self._places.pop(number, None)
            for behind in [b for b in self._behind if b[0] == number]:
                del self._behind[behind]
        self._epochs = epochs
        for behind in self._shared.table.due_left:
            if behind[0] in epochs:
                self._behind[behind] = BEGINNING
        self._shared.table.due_left.clear()

    async def _begin(self) -> None:
        """Marks every lane with a due row as behind, for shards that are newly owned."""
        new = [number for number in self._epochs if number not in self._places]
        if new:
            now = (await self._newly_due({}, 0)).now
            for lane in await self._walk(new):
                self._behind[lane] = BEGINNING
            self._places.update(dict.fromkeys(new, DuePlace(now - OVERLAP, LOW_ID)))

    async def _walk(self, shards: Iterable[int]) -> list[tuple[int, LaneKey]]:
        """The lanes of these shards that have a due row."""
        found = []
        after = dict.fromkeys(shards, _FIRST)
        while after:
            walked: dict[int, list[LaneKey]] = {}
            for row in await self._reader.lanes_with_due(after, WALK):
                shard, key = _lane_of(row)
                walked.setdefault(shard, []).append(key)
                if row["due"]:
                    found.append((shard, key))
            after = {shard: keys[-1] for shard, keys in walked.items() if len(keys) == WALK}
        return found

    async def _newly_due(self, since: Mapping[int, DuePlace], limit: int) -> NewlyDue:
        """Also wakes the loops of `start_by` and `sla`, which need no queries of their own while no row has passed."""
        shared = self._shared
        found = await self._reader.newly_due(since, limit, shared.settings.sla_interval)
        if found.starts_late:
            shared.start_bys_wanted.set()
        if found.slas_over:
            shared.slas_wanted.set()
        return found

    # -- newly due rows ----------------------------------------------------------------------
    async def _read_new(self) -> None:
        """Reads newly due rows. If they exceed one page, they are read lane by lane: no lane waits for another."""
        due = await self._newly_due(self._places, ROWS_A_SHARD)
        now, rows = due.now, due.rows
        await reach("coordinator.after_due")
        counts = Counter(row["shard"] for row in rows)
        many = [shard for shard, count in counts.items() if count == ROWS_A_SHARD]
        for shard, key in await self._walk(many) if many else ():
            self._behind.setdefault((shard, key), self._places[shard])
        recent = DuePlace(now - OVERLAP, LOW_ID)  # rows are committed a moment after the time that they have
        for row in rows:
            self._places[row["shard"]] = min(DuePlace(row["due_at"], row["job_id"]), recent)
        self._places.update(dict.fromkeys(many, recent))
        await self._admit([row for row in rows if counts[row["shard"]] < ROWS_A_SHARD])

    # -- lanes that are behind ---------------------------------------------------------------
    async def _read_behind(self) -> None:
        """Reads some lanes that are behind, in turns, as far as each has room."""
        wanted: list[DueLane] = []
        rows = 0
        for shard, key in list(self._behind)[:TURNS_A_LOOK]:
            place = self._behind.pop((shard, key))
            self._behind[shard, key] = place
            if self._budget.wants_due(key) and rows < ROWS_A_LOOK:
                limit = min(self._budget.due_room(key), self._shared.settings.page_size) + PASSED
                wanted.append(DueLane(shard, key, place, limit))
                rows += limit
        if not wanted:
            return
        found = await self._reader.due_of_lanes(wanted)
        await reach("coordinator.after_due")
        for lane, due in zip(wanted, found, strict=True):
            del self._behind[lane.shard, lane.key]
            if len(due) == lane.limit:
                self._behind[lane.shard, lane.key] = DuePlace(due[-1]["due_at"], due[-1]["job_id"])
                self._shared.due_wanted.set()
        await self._admit([row for due in found for row in due])

    async def _admit(self, rows: Sequence[Row]) -> None:
        """Admits rows as far as their lanes have room. A lane is behind from its first row without room on."""
        epochs = dict(self._epochs)
        fresh = [row for row in rows if row["job_id"] not in self._shared.table.by_job and self._has_room(row)]
        while fresh:
            part = fresh[:SPECS_A_QUERY]
            try:
                specs = await self._reader.specs([row["job_id"] for row in part], SPEC_BYTES)
            except FAULTS:
                for row in fresh:
                    self._leave(row)
                raise
            done = 0
            for row in part:
                spec = specs.get(row["job_id"])
                if spec is not None and not spec.told:
                    break  # with the next part
                if spec is not None and self._has_room(row):
                    self._take(row, spec, epochs)
                done += 1
            fresh = fresh[done:]
            self._shared.fed.set()
            self._shared.settle_wanted.set()

    def _has_room(self, row: Row) -> bool:
        """Whether the lane of a row has room. If not, or if the lane is behind, the row is left to the lane's turn."""
        place = self._behind.get(_lane_of(row))
        if place is not None and place < (row["due_at"], row["job_id"]):
            return False
        if self._budget.due_fits(_lane_of(row)[1]):
            return True
        self._leave(row)
        return False

    def _leave(self, row: Row) -> None:
        """Leaves a row: its lane is read again from this row on."""
        lane, before = _lane_of(row), DuePlace(row["due_at"], _before(row["job_id"]))
        self._behind[lane] = min(before, self._behind.get(lane, before))

    def _take(self, row: Row, spec: Spec, epochs: dict[int, int]) -> None:
        """Admits a row that is still valid. If its job has left memory since the read began, or the epoch is an older
        one of this owner, its attempt has ended meanwhile and must not run again (A3)."""
        table = self._shared.table
        job_id: bytes = row["job_id"]
        shard = table.shards.get(row["shard"])
        if shard is None or shard.epoch != epochs.get(row["shard"]):
            return
        if job_id in self._left:
            self._leave(row)  # the next read has its present state
            self._shared.due_wanted.set()
            return
        if job_id in table.by_job:
            return
        table.admit(due_entry(row, spec, len(spec.payload or b"")), in_doubt=row["due_at"] <= shard.opened_at)


def _lane_of(row: Row) -> tuple[int, LaneKey]:
    return row["shard"], lane_key(row)


def _before(job_id: bytes) -> bytes:
    return (int.from_bytes(job_id, "big") - 1).to_bytes(16, "big")
