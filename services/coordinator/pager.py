"""Reading what waits in lanes: offers, pages, and the payloads of what is fed once more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taskflow.v1 import jobs_pb2
from taskflow.v1.dispatch_pb2 import LaneJobs
from taskflow.v1.queue_pb2 import Assignment
from taskflow_server.coordinator.lanes import LANES_A_QUERY, Lanes
from taskflow_server.coordinator.memory import Memory
from taskflow_server.coordinator.state import State, note_limit
from taskflow_server.core.book import Entry, Phase
from taskflow_server.core.lanes import Lane, LaneKey, Position
from taskflow_server.core.waiting import JOB_BYTES
from taskflow_server.rpc.values import options_from_json, times_to_json
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import LaneReader, Spec

log = logs.get("pager")

SPECS_A_QUERY = 500
THERE_LESS = 650  # bytes that a job takes less in the queue service than here, its payload apart
SPEC_BYTES = 4 << 20  # of payloads that are read at a time


def task_of(job_id: bytes, spec: Spec) -> Assignment:
    task = Assignment(job_id=job_id, payload=spec.payload or b"", encoding=spec.encoding, retries=spec.retries)  # type: ignore[arg-type]
    if spec.options:
        try:
            task.options.CopyFrom(options_from_json(spec.options) or jobs_pb2.JobOptions())
            times_to_json(task.options, "options")
        except Exception as fault:  # a row that SQL has written: this job fails, and no other waits for it
            task.ClearField("options")
            task.fault = f"options: {type(fault).__name__}: {fault}"[:500]
    return task


def entry_of(
    job_id: bytes, key: LaneKey, shard: int, attempt: int, tries: int, task: Assignment, payload: int
) -> Entry:
    """A job that comes into memory, with what it takes there; `payload` in bytes."""
    if not task.HasField("options"):
        return Entry(job_id, key, shard, attempt, tries, task, JOB_BYTES - THERE_LESS + payload)
    own_size = JOB_BYTES + task.options.ByteSize()
    entry = Entry(job_id, key, shard, attempt, tries, task, own_size - THERE_LESS + payload, own_size)
    note_limit(entry)
    return entry


class Pager:
    def __init__(self, state: State, memory: Memory) -> None:
        self._state = state
        self._memory = memory
        settings = state.settings
        self._reader = LaneReader(settings.database_url, settings.database_timeout)
        self._lanes = Lanes(state, self._reader)
        self._outage = state.readiness.outage(log, "lanes cannot be read")
        self._specs_outage = state.readiness.outage(log, "payloads cannot be read")
        self._filling: set[LaneKey] = set()  # lanes of which a page is being read or admitted

    async def close(self) -> None:
        await self._reader.close()

    def forget(self) -> None:
        """A takeover begins: nothing that was read before counts."""
        self._lanes.forget()

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
            metrics.offers_refused.inc(len(group.jobs))
            self._lanes.want(key)
            return
        if lane.news or key in self._filling or self._memory.room(key) < len(group.jobs):
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
                book.admit(entry_of(spec.id, key, group.shard, 1, 0, task, len(spec.payload)), in_doubt=False)
        self._state.fed.set()

    def search(self) -> None:
        """A scheduler is here whose first offers may have found nobody: it may have made lanes."""
        self._lanes.search()

    # -- pages -------------------------------------------------------------------------------
    async def run_lanes(self) -> None:
        """Reads lanes that have news and room at once, and looks at all lanes every few sweeps."""
        state = self._state
        swept_at = state.clock.real.monotonic()
        while True:
            try:
                left = swept_at + state.settings.sweep_interval - state.clock.real.monotonic()
                async with asyncio.timeout(max(left, 0.0)):
                    await state.page_wanted.wait()
            except TimeoutError:
                pass
            state.page_wanted.clear()
            # Wishes may come without a pause: a sweep comes in its time all the same.
            sweep = state.clock.real.monotonic() - swept_at >= state.settings.sweep_interval
            try:
                if sweep:
                    swept_at = state.clock.real.monotonic()
                    self._lanes.retire()
                await self._lanes.find(sweep)
                self._memory.share_out(sweep)
                await self._read(self._pick())
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
                await state.clock.sleep(state.settings.sweep_interval)

    def _pick(self) -> list[Lane]:
        """Hungry lanes with room for half of what they may hold."""
        book, hungry = self._state.book, self._state.hungry
        picked = []
        for key, lane in list(hungry.items()):
            if book.lanes.get(key) is not lane or not lane.news:
                del hungry[key]
            elif not lane.reading and self._memory.wants(key):
                picked.append(lane)
        return picked

    async def _read(self, lanes: list[Lane]) -> None:
        for start in range(0, len(lanes), LANES_A_QUERY):
            size = self._state.settings.page_size
            rooms = [(lane, min(size, self._memory.room(lane.key))) for lane in lanes[start : start + LANES_A_QUERY]]
            wanted = [(lane, lane.request(room)) for lane, room in rooms if room > 0]
            self._filling = {lane.key for lane, _ in wanted}
            try:
                pages = await self._reader.pages(wanted) if wanted else []
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
                        await self._admit(lane, fresh, request.catching_up, page.snapshot.xmax)
                    if lane.news:
                        self._state.hungry[lane.key] = lane
                self._filling.discard(lane.key)
            if any(lane.news for lane, _ in wanted):
                self._state.page_wanted.set()

    async def _admit(self, lane: Lane, rows: list[Position], catching_up: bool, xmax: int) -> None:
        """Dispatches what a page has brought. Payloads are read in parts, as far as the lane has room for them."""
        book = self._state.book
        for row in rows:
            if (entry := book.by_job.get(row.id)) is not None:
                self._claimed(lane, entry)
        rows = [row for row in rows if row.id not in book.by_job]
        while rows:
            part = rows[:SPECS_A_QUERY]
            wanted = [row.id for row in part if row.id not in book.by_job]
            specs = await self._specs(wanted)
            self._memory.weigh(lane.key, specs)
            shard = book.shards.get(lane.shard)
            if shard is None or book.lanes.get(lane.key) is not lane:
                return  # a takeover came between
            done, fits = 0, self._memory.gauge(lane.key)
            for row in part:
                spec = specs.get(row.id)
                entry = book.by_job.get(row.id)
                if entry is not None:
                    self._claimed(lane, entry)
                elif spec is not None and lane.holds(row.id):  # else it has ended while payloads were read
                    # Payloads that are larger than the last ones were: the page is longer than there is room.
                    if not spec.told or not fits():
                        break
                    if lane.dropped.pop(row.id, None) is not None:
                        lane.close((row.id,))  # cancelled while its payload was read
                    else:
                        task = task_of(row.id, spec)
                        entry = entry_of(row.id, lane.key, lane.shard, 1, 0, task, len(spec.payload or b""))
                        book.admit(entry, in_doubt=catching_up and row.tx < shard.catch_to)
                done += 1
            rows = rows[done:]
            self._state.fed.set()
            self._state.settle_wanted.set()
            if rows and not self._memory.fits(lane.key):
                lane.unread(rows, xmax)
                return

    def _claimed(self, lane: Lane, entry: Entry) -> None:
        """A worker has it, or a lease: only its place in the lane was missing."""
        entry.key = lane.key if not entry.key.queue else entry.key
        if entry.leased or entry.due:
            lane.close((entry.job_id,))

    async def _specs(self, ids: list[bytes]) -> dict[bytes, Spec]:
        while True:
            try:
                specs = await self._reader.specs(ids, SPEC_BYTES) if ids else {}
                self._specs_outage.over()
                return specs
            except FAULTS as error:
                # The lane has moved past these rows: they must be dispatched from here.
                self._specs_outage.failed(error)
                await self._state.clock.sleep(self._state.settings.sweep_interval)

    # -- payloads ----------------------------------------------------------------------------
    async def run_payloads(self) -> None:
        """Reads again what the queue service has had once, and is to have once more."""
        state = self._state
        while True:
            await state.payloads_wanted.wait()
            state.payloads_wanted.clear()
            wanted, state.without_payload = state.without_payload, []
            for start in range(0, len(wanted), SPECS_A_QUERY):
                await self._reload(wanted[start : start + SPECS_A_QUERY])

    async def _reload(self, entries: Sequence[Entry]) -> None:
        while entries := [e for e in entries if e.phase is Phase.QUEUED and self._holds(e)]:
            specs = await self._specs([e.job_id for e in entries])
            told = [e for e in entries if e.job_id not in specs or specs[e.job_id].told]
            for entry in told:
                if entry.phase is Phase.QUEUED and self._holds(entry) and entry.job_id in specs:
                    entry.spec.payload, entry.fed = specs[entry.job_id].payload or b"", False
                    self._state.book.outbox.append(entry)
            self._state.fed.set()
            entries = [e for e in entries if e not in told]

    def _holds(self, entry: Entry) -> bool:
        return self._state.book.by_job.get(entry.job_id) is entry
