"""Reading what waits: pages of lanes, and deferred jobs that are due."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from services.coordinator.expiry import Expiry
from services.coordinator.state import State
from services.core.book import Entry
from services.core.errors import Unavailable
from services.core.lanes import Lane, LaneKey, Mark, Position
from services.rpc.values import options_from_json
from services.runtime import logs, metrics
from services.runtime.failpoints import reach
from services.store.dispatch import LaneReader, Spec
from services.store.times import to_us
from taskflow.v1 import jobs_pb2
from taskflow.v1.dispatch_pb2 import LaneJobs
from taskflow.v1.queue_pb2 import Assignment

log = logs.get("pager")

LANES_A_QUERY = 200
SPECS_A_QUERY = 500
JOB_BYTES = 500  # of a job in memory besides its payload, about
UNKNOWN_BYTES = 128 << 10  # what a payload is taken to have before the lane's first page
SWEEPS_FOR_ALL = 5  # every lane is looked at within so many sweeps
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
REREAD_DUE = 30.0  # deferred rows can be committed after their time was passed


def task_of(job_id: bytes, spec: Spec) -> Assignment:
    task = Assignment(job_id=job_id, payload=spec.payload or b"", encoding=spec.encoding, retries=spec.retries)  # type: ignore[arg-type]
    if spec.options:
        task.options.CopyFrom(options_from_json(spec.options) or jobs_pb2.JobOptions())
    return task


class Pager:
    def __init__(self, state: State, expiry: Expiry) -> None:
        self._state = state
        self._expiry = expiry
        settings = state.settings
        self._reader = LaneReader(settings.database_url, settings.database_timeout)
        self._outage = logs.Outage(log, "cannot read what waits")
        self._round: list[LaneKey] = []
        self._unknown: set[LaneKey] = set()
        self._search = False
        self._filling: set[LaneKey] = set()  # lanes of which a page is being read or admitted
        self._mean_bytes: dict[LaneKey, float] = {}
        self._due_since = _BEGINNING
        self._due_reread_at = 0.0
        self._due_reading = asyncio.Lock()

    async def close(self) -> None:
        await self._reader.close()

    def forget(self) -> None:
        """A takeover begins: nothing that was read before counts."""
        self._round.clear()
        self._unknown.clear()
        self._state.hungry.clear()
        self._due_since = _BEGINNING

    # -- offers ------------------------------------------------------------------------------
    def offer(self, group: LaneJobs) -> None:
        """Takes offered jobs that the lane's reading has not covered, while there is room and no backlog (A3)."""
        book = self._state.book
        shard = book.shards.get(group.shard)
        if shard is None:
            return
        key = LaneKey(group.queue, group.task, group.priority)
        lane = book.lanes.get(key)
        if lane is None:
            self._unknown.add(key)
            self._state.page_wanted.set()
            return
        if lane.news or key in self._filling or self._room(lane) < len(group.jobs):
            lane.news = True  # a backlog, or a page on its way: first come, first served, by the pager (R13)
            self._state.hungry[key] = lane
            metrics.offers_refused.inc(len(group.jobs))
            self._state.page_wanted.set()
            return
        for spec in group.jobs:
            if spec.id not in book.by_job and lane.offer(group.tx, spec.id):
                task = Assignment(job_id=spec.id, payload=spec.payload, encoding=spec.encoding, retries=spec.retries)
                if spec.HasField("options"):
                    task.options.CopyFrom(spec.options)
                entry = Entry(spec.id, key, group.shard, 1, 0, task)
                book.admit(entry, in_doubt=False)
                self._expiry.consider(entry)
        self._state.fed.set()

    def search(self) -> None:
        """A scheduler is here whose first offers may have found nobody: it may have made lanes."""
        self._search = True
        self._state.page_wanted.set()

    # -- pages -------------------------------------------------------------------------------
    async def run_lanes(self) -> None:
        """Reads lanes that have news and room at once, and all lanes every few sweeps."""
        state = self._state
        since_search = 0
        while True:
            sweep = False
            try:
                async with asyncio.timeout(state.settings.sweep_interval):
                    await state.page_wanted.wait()
            except TimeoutError:
                sweep = True
            state.page_wanted.clear()
            try:
                since_search += sweep
                if self._unknown or self._search or since_search >= SWEEPS_FOR_ALL:
                    since_search, self._search = 0, False
                    await self.find_lanes()
                await self._read(self._pick(sweep))
                self._outage.over()
            except Unavailable as error:
                self._outage.failed(error)
                await state.clock.sleep(state.settings.sweep_interval)

    async def find_lanes(self) -> None:
        """Lanes whose row we have not seen yet."""
        self._unknown.clear()
        self.add_lanes(await self._state.db.rows("list_lanes", shards=list(self._state.book.shards)))

    def add_lanes(self, rows: list[dict[str, Any]], *, taking_over: bool = False) -> None:
        """To be read from their marks on. One born after the takeover holds nothing that an older owner can have
        seen."""
        state = self._state
        for row in rows:
            key = LaneKey(row["queue"], row["task"], row["priority"])
            shard = state.book.shards.get(row["shard"])
            if shard is not None and key not in state.book.lanes:
                mark = Mark(Position(row["tx"], row["id"].bytes), frozenset(row["late"]))
                lane = Lane.at(key, row["shard"], mark, shard.catch_to if taking_over else 0)
                state.book.lanes[key] = state.hungry[key] = lane

    def _room(self, lane: Lane) -> int:
        """Jobs of this lane that may still be read: by their number, and by their mean size."""
        book = self._state.book
        by_size = int(self._state.settings.lane_bytes / self._mean_bytes.get(lane.key, UNKNOWN_BYTES))
        return min(book.depth, max(by_size, 1)) - book.waiting[lane.key]

    def _pick(self, sweep: bool) -> list[Lane]:
        """Hungry lanes with room for half of what they may hold, and in a sweep some others."""
        book, hungry = self._state.book, self._state.hungry
        picked = {}
        for key, lane in list(hungry.items()):
            if book.lanes.get(key) is not lane or not lane.news:
                del hungry[key]
            elif not lane.reading and self._room(lane) >= max(1, book.waiting[key]):
                picked[key] = lane
        if sweep:
            if not self._round:
                self._round = list(book.lanes)
            share = max(LANES_A_QUERY, len(book.lanes) // SWEEPS_FOR_ALL + 1)
            due, self._round = self._round[:share], self._round[share:]
            for key in due:
                known = book.lanes.get(key)
                if known is not None and not known.reading and self._room(known) > 0:
                    picked[key] = known
        return list(picked.values())

    async def _read(self, lanes: list[Lane]) -> None:
        for start in range(0, len(lanes), LANES_A_QUERY):
            part = lanes[start : start + LANES_A_QUERY]
            size = self._state.settings.page_size
            wanted = [(lane, lane.request(min(size, self._room(lane)))) for lane in part]
            self._filling = {lane.key for lane in part}
            try:
                pages = await self._reader.pages(wanted)
            except BaseException:
                self._filling.clear()
                for lane, request in wanted:
                    lane.abandon(request)
                    self._state.hungry[lane.key] = lane
                raise
            await reach("coordinator.after_page")
            for (lane, request), page in zip(wanted, pages, strict=True):
                if self._state.book.lanes.get(lane.key) is lane:
                    fresh = lane.merge(request, page)
                    if fresh:
                        await self._admit(lane, fresh, request.catching_up)
                    if lane.news:
                        self._state.hungry[lane.key] = lane
                self._filling.discard(lane.key)
            if any(lane.news for lane in part):
                self._state.page_wanted.set()

    async def _admit(self, lane: Lane, rows: list[Position], catching_up: bool) -> None:
        """Dispatches what a page has brought. Their payloads are read in parts, up to the lane's share of memory."""
        book = self._state.book
        for start in range(0, len(rows), SPECS_A_QUERY):
            part = rows[start : start + SPECS_A_QUERY]
            claimed = [row for row in part if row.id in book.by_job]
            for row in claimed:  # a worker has it, or a lease: only its place in the lane was missing
                entry = book.by_job[row.id]
                entry.key = lane.key if not entry.key.queue else entry.key
                if entry.leased:
                    lane.close((row.id,))
            wanted = [row for row in part if row.id not in book.by_job]
            specs = await self._specs([row.id for row in wanted])
            self._weigh(lane.key, specs)
            shard = book.shards.get(lane.shard)
            if shard is None or book.lanes.get(lane.key) is not lane:
                return  # a takeover came between
            for row in wanted:
                if row.id in book.by_job or row.id not in specs:
                    continue
                if lane.dropped.pop(row.id, None) is not None:
                    lane.close((row.id,))  # cancelled while its payload was read
                    continue
                entry = Entry(row.id, lane.key, lane.shard, 1, 0, task_of(row.id, specs[row.id]))
                book.admit(entry, in_doubt=catching_up and row.tx < shard.catch_to)
                self._expiry.consider(entry)
            self._state.fed.set()
            self._state.settle_wanted.set()

    def _weigh(self, key: LaneKey, specs: dict[bytes, Spec]) -> None:
        """Follows the mean size of the lane's payloads, quickly upwards."""
        if specs:
            mean = sum(len(s.payload or b"") for s in specs.values()) / len(specs) + JOB_BYTES
            before = self._mean_bytes.get(key, mean)
            self._mean_bytes[key] = max(mean, 0.8 * before + 0.2 * mean)

    async def _specs(self, ids: list[bytes]) -> dict[bytes, Spec]:
        while True:
            try:
                return await self._reader.specs(ids) if ids else {}
            except Unavailable as error:
                # The lane has moved past these rows: they must be dispatched from here.
                self._outage.failed(error)
                await self._state.clock.sleep(self._state.settings.sweep_interval)

    # -- deferred ----------------------------------------------------------------------------
    async def run_due(self) -> None:
        """Brings deferred jobs into memory when their time has come. Their rows stay until the outcome (A4)."""
        state = self._state
        while True:
            try:
                async with asyncio.timeout(state.settings.due_interval):
                    await state.due_wanted.wait()
            except TimeoutError:
                pass
            state.due_wanted.clear()
            try:
                await self.due_now()
            except Unavailable as error:
                self._outage.failed(error)
                await state.clock.sleep(state.settings.sweep_interval)

    def rescan_due(self) -> None:
        """Rows were written whose time may lie before what has been read."""
        self._due_reread_at = 0.0

    async def due_now(self) -> None:
        """Brings in what is due by now."""
        async with self._due_reading:
            self._state.book.left = set()
            try:
                await self._read_due()
            finally:
                self._state.book.left = None

    async def _read_due(self) -> None:
        state, book = self._state, self._state.book
        if not book.shards:
            return
        now = state.clock.monotonic()
        if now >= self._due_reread_at:
            self._due_reread_at, self._due_since = now + REREAD_DUE, _BEGINNING
        in_memory = sum(1 for e in book.by_job.values() if e.due and not e.worker) if book.by_job else 0
        room = state.settings.due_depth - in_memory
        if room <= 0:
            return
        epochs = {number: shard.epoch for number, shard in book.shards.items()}
        rows = await state.db.rows(
            "due_jobs", shards=list(book.shards), since=self._due_since, limit=min(room + in_memory, 2000)
        )
        await reach("coordinator.after_due")
        fresh = [row for row in rows if row["job_id"].bytes not in book.by_job]
        if fresh and len(rows) >= 2000:
            state.due_wanted.set()
        stale = 0
        for start in range(0, len(fresh), SPECS_A_QUERY):
            part = fresh[start : start + SPECS_A_QUERY]
            specs = await self._specs([row["job_id"].bytes for row in part])
            stale += self._admit_due(part, specs, epochs)
        if stale:
            state.due_wanted.set()  # what became of those, the next reading sees
        elif rows:
            # A row that is committed with an earlier time than this is found by the next reading from the beginning.
            self._due_since = max(self._due_since, rows[-1]["due_at"] - timedelta(seconds=1))

    def _admit_due(self, rows: list[dict[str, Any]], specs: dict[bytes, Spec], epochs: dict[int, int]) -> int:
        """Takes rows that still hold; how many do not. One whose job has left memory since the reading began is of an
        attempt that has ended meanwhile, and so is one of an older epoch of ours: neither may run again (A3)."""
        book = self._state.book
        left = book.left or ()
        stale = 0
        for row in rows:
            job_id: bytes = row["job_id"].bytes
            shard = book.shards.get(row["shard"])
            if job_id in left or (shard is not None and shard.epoch != epochs.get(row["shard"])):
                stale += 1
                continue
            if shard is None or job_id in book.by_job or job_id not in specs:
                continue
            key = LaneKey(row["queue"], row["task"], row["priority"])
            entry = Entry(job_id, key, row["shard"], row["attempt"], row["tries"], task_of(job_id, specs[job_id]))
            entry.due, entry.due_us = True, to_us(row["due_at"]) or 0
            entry.run_at_us = to_us(specs[job_id].run_at) or 0
            book.admit(entry, in_doubt=row["due_at"] <= shard.opened_at)
            self._expiry.consider(entry)
        self._state.fed.set()
        self._state.settle_wanted.set()
        return stale
