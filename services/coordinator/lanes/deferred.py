"""Bringing deferred jobs into memory when their time has come. Their rows stay until the outcome (A4).

What is newly due is read in the order of its time, past every row, whether or not there is room for it: no lane stops
another. A lane that had no room for all of its rows is behind, and is read by itself from where it was left, as it gets
room. Which lanes have due rows at all is found by a walk over the lanes, whatever number of rows each has.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from taskflow_server.coordinator.entries import SPEC_BYTES, SPECS_A_QUERY, due_entry, lane_key
from taskflow_server.coordinator.lanes.budget import MemoryBudget
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.lanes import LOW_ID, LaneKey
from taskflow_server.runtime import logs
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.database import Row
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import DueLane, DuePlace, LaneReader, Spec

log = logs.get("due")

ROWS_A_SHARD = 500  # newly due rows of one look
ROWS_A_LOOK = 10_000  # of lanes that are behind
TURNS_A_LOOK = 1000  # lanes that are behind, of which one look sees whether they have room
PASSED = 500  # rows that are in memory already, which such a reading may pass beside those that it brings
WALK = 500  # lanes of one shard that one query steps over
OVERLAP = timedelta(seconds=1)  # that is read again
BEGINNING = DuePlace(datetime(1970, 1, 1, tzinfo=UTC), LOW_ID)
_FIRST = LaneKey("", "", -1)  # before every lane


class Deferred:
    def __init__(self, shared: Shared, budget: MemoryBudget, reader: LaneReader) -> None:
        self._shared = shared
        self._budget = budget
        self._reader = reader
        self._outage = shared.readiness.outage(log, "due jobs cannot be read")
        self._places: dict[int, DuePlace] = {}  # of each shard: what lies before was read, or its lane is behind
        self._behind = shared.due_behind
        self._epochs: dict[int, int] = {}  # under which those were read
        self._look_at_all = 0.0  # when all lanes with due rows are looked at again
        self._reading = asyncio.Lock()
        self._left: set[bytes] = set()  # jobs that have left memory since the present reading began

    def rescan(self) -> None:
        """Rows were written whose time may lie before what has been read."""
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
        """Brings in what is due by now, as far as there is room."""
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
                    self._behind[lane] = BEGINNING  # rows may be committed after their time was passed
            with table.departures() as self._left:
                await self._read_new()
                await self._read_behind()

    def _follow_shards(self) -> None:
        """Under another epoch everything is read again."""
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
        """Of shards that are new to us, every lane with a due row is behind."""
        new = [number for number in self._epochs if number not in self._places]
        if new:
            now, _ = await self._reader.newly_due({}, 0)
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

    # -- what has become due -----------------------------------------------------------------
    async def _read_new(self) -> None:
        """Where more has become due at once than one page holds, it is read lane by lane: none waits for another's."""
        now, rows = await self._reader.newly_due(self._places, ROWS_A_SHARD)
        await reach("coordinator.after_due")
        counts = Counter(row["shard"] for row in rows)
        many = [shard for shard, count in counts.items() if count == ROWS_A_SHARD]
        for shard, key in await self._walk(many) if many else ():
            self._behind.setdefault((shard, key), self._places[shard])
        recent = DuePlace(now - OVERLAP, LOW_ID)  # rows are committed a moment after the time that they name
        for row in rows:
            self._places[row["shard"]] = min(DuePlace(row["due_at"], row["job_id"]), recent)
        self._places.update(dict.fromkeys(many, recent))
        await self._admit([row for row in rows if counts[row["shard"]] < ROWS_A_SHARD])

    # -- lanes that are behind ---------------------------------------------------------------
    async def _read_behind(self) -> None:
        """Some of them, in turns, as far as each has room."""
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
        """Takes rows as far as their lanes have room. From the first for which there is none, its lane is behind."""
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
        """Its lane has. Where it has not, or is behind already, the row is left to its lane's turn."""
        place = self._behind.get(_lane_of(row))
        if place is not None and place < (row["due_at"], row["job_id"]):
            return False
        if self._budget.due_fits(_lane_of(row)[1]):
            return True
        self._leave(row)
        return False

    def _leave(self, row: Row) -> None:
        """Its lane is read again from this row on."""
        lane, before = _lane_of(row), DuePlace(row["due_at"], _before(row["job_id"]))
        self._behind[lane] = min(before, self._behind.get(lane, before))

    def _take(self, row: Row, spec: Spec, epochs: dict[int, int]) -> None:
        """Takes a row that still holds. One whose job has left memory since the reading began is of an attempt that
        has ended meanwhile, and so is one of an older epoch of ours: neither may run again (A3)."""
        table = self._shared.table
        job_id: bytes = row["job_id"]
        shard = table.shards.get(row["shard"])
        if shard is None or shard.epoch != epochs.get(row["shard"]):
            return
        if job_id in self._left:
            self._leave(row)  # what became of it, the next reading sees
            self._shared.due_wanted.set()
            return
        if job_id in table.by_job:
            return
        table.admit(due_entry(row, spec, len(spec.payload or b"")), in_doubt=row["due_at"] <= shard.opened_at)


def _lane_of(row: Row) -> tuple[int, LaneKey]:
    return row["shard"], lane_key(row)


def _before(job_id: bytes) -> bytes:
    return (int.from_bytes(job_id, "big") - 1).to_bytes(16, "big")
