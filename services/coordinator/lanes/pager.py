"""Reads the waiting jobs of lanes: offers, pages, and the payloads of jobs that are fed once more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from taskflow.v1.dispatch_pb2 import LaneJobs
from taskflow.v1.queue_pb2 import Assignment
from taskflow_server.coordinator.entries import SPEC_BYTES, SPECS_A_QUERY, assignment_of, waiting_entry
from taskflow_server.coordinator.lanes.budget import MemoryBudget
from taskflow_server.coordinator.lanes.live import LANES_A_QUERY, LiveLanes
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.lanes import Lane, LaneKey, Position
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.lane_reader import LaneReader, Spec

log = logs.get("pager")


class LanePager:
    def __init__(self, shared: Shared, budget: MemoryBudget) -> None:
        self._shared = shared
        self._budget = budget
        settings = shared.settings
        self._reader = LaneReader(settings.database_url, settings.database_timeout)
        self._lanes = LiveLanes(shared, self._reader)
        self._outage = shared.readiness.outage(log, "lanes cannot be read")
        self._specs_outage = shared.readiness.outage(log, "payloads cannot be read")
        self._filling: set[LaneKey] = set()  # lanes with a page that is being read or admitted

    async def close(self) -> None:
        await self._reader.close()

    def forget(self) -> None:
        """Call when a takeover begins: drops everything that was read before."""
        self._lanes.forget()

    # -- offers ------------------------------------------------------------------------------
    def offer(self, group: LaneJobs) -> None:
        """Accepts offered jobs that no page of the lane has covered, while there is room and no backlog (A3)."""
        table = self._shared.table
        shard = table.shards.get(group.shard)
        if shard is None:
            return
        key = LaneKey(group.queue, group.task, group.priority)
        lane = table.lanes.get(key)
        if lane is None:
            metrics.offers_refused.inc(len(group.jobs))
            self._lanes.want(key)
            return
        if lane.news or key in self._filling or self._budget.room(key) < len(group.jobs):
            lane.news = True  # a backlog, or a page in progress: the pager keeps the order of the lane (R13)
            self._shared.hungry[key] = lane
            metrics.offers_refused.inc(len(group.jobs))
            self._shared.page_wanted.set()
            return
        for spec in group.jobs:
            if spec.id not in table.by_job and lane.offer(group.tx, spec.id):
                task = Assignment(job_id=spec.id, payload=spec.payload, encoding=spec.encoding, retries=spec.retries)
                if spec.HasField("options"):
                    task.options.CopyFrom(spec.options)
                table.admit(waiting_entry(spec.id, key, group.shard, 1, 0, task, len(spec.payload)), in_doubt=False)
        self._shared.fed.set()

    def search(self) -> None:
        """Checks all lanes for a new scheduler, whose first offers may have reached no owner."""
        self._lanes.search()

    # -- pages -------------------------------------------------------------------------------
    async def run_lanes(self) -> None:
        """Reads lanes with new jobs and room at once, and checks all lanes every few sweeps."""
        shared = self._shared
        swept_at = shared.clock.real.monotonic()
        while True:
            try:
                left = swept_at + shared.settings.sweep_interval - shared.clock.real.monotonic()
                async with asyncio.timeout(max(left, 0.0)):
                    await shared.page_wanted.wait()
            except TimeoutError:
                pass
            shared.page_wanted.clear()
            # Offers may arrive without a pause, and must not delay a sweep.
            sweep = shared.clock.real.monotonic() - swept_at >= shared.settings.sweep_interval
            try:
                if sweep:
                    swept_at = shared.clock.real.monotonic()
                    self._lanes.retire()
                await self._lanes.find(sweep)
                self._budget.share_out(sweep)
                await self._read(self._pick())
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
                await shared.clock.sleep(shared.settings.sweep_interval)

    def _pick(self) -> list[Lane]:
        """The lanes with jobs to read that have room for half of their share."""
        table, hungry = self._shared.table, self._shared.hungry
        picked = []
        for key, lane in list(hungry.items()):
            if table.lanes.get(key) is not lane or not lane.news:
                del hungry[key]
            elif not lane.reading and self._budget.wants(key):
                picked.append(lane)
        return picked

    async def _read(self, lanes: list[Lane]) -> None:
        for start in range(0, len(lanes), LANES_A_QUERY):
            size = self._shared.settings.page_size
            rooms = [(lane, min(size, self._budget.room(lane.key))) for lane in lanes[start : start + LANES_A_QUERY]]
            wanted = [(lane, lane.request(room)) for lane, room in rooms if room > 0]
            self._filling = {lane.key for lane, _ in wanted}
            try:
                pages = await self._reader.pages(wanted) if wanted else []
            except BaseException:
                self._filling.clear()
                for lane, request in wanted:
                    lane.abandon(request)
                    self._shared.hungry[lane.key] = lane
                raise
            await reach("coordinator.after_page")
            for (lane, request), page in zip(wanted, pages, strict=True):
                if self._shared.table.lanes.get(lane.key) is lane:
                    fresh = lane.merge(request, page)
                    if fresh:
                        await self._admit(lane, fresh, request.catching_up, page.snapshot.xmax)
                    if lane.news:
                        self._shared.hungry[lane.key] = lane
                self._filling.discard(lane.key)
            if any(lane.news for lane, _ in wanted):
                self._shared.page_wanted.set()

    async def _admit(self, lane: Lane, rows: list[Position], catching_up: bool, xmax: int) -> None:
        """Dispatches the rows of a page. Payloads are read in parts, as far as the lane has room for them."""
        table = self._shared.table
        for row in rows:
            if (entry := table.by_job.get(row.id)) is not None:
                table.read_once_more(lane, entry)
        rows = [row for row in rows if row.id not in table.by_job]
        while rows:
            part = rows[:SPECS_A_QUERY]
            wanted = [row.id for row in part if row.id not in table.by_job]
            specs = await self._specs(wanted)
            self._budget.weigh(lane.key, specs)
            shard = table.shards.get(lane.shard)
            if shard is None or table.lanes.get(lane.key) is not lane:
                return  # a takeover came between
            done, fits = 0, self._budget.gauge(lane.key)
            for row in part:
                spec = specs.get(row.id)
                entry = table.by_job.get(row.id)
                if entry is not None:
                    table.read_once_more(lane, entry)
                elif spec is not None and lane.holds(row.id):  # else it has ended during the read
                    # The payloads are larger than the last ones were: there is no room for the whole page.
                    if not spec.told or not fits():
                        break
                    if lane.dropped.pop(row.id, None) is not None:
                        lane.close((row.id,))  # cancelled while its payload was read
                    else:
                        task = assignment_of(row.id, spec)
                        entry = waiting_entry(row.id, lane.key, lane.shard, 1, 0, task, len(spec.payload or b""))
                        table.admit(entry, in_doubt=catching_up and row.tx < shard.catch_to)
                done += 1
            rows = rows[done:]
            self._shared.fed.set()
            self._shared.settle_wanted.set()
            if rows and not self._budget.fits(lane.key):
                lane.unread(rows, xmax)
                return

    async def _specs(self, ids: list[bytes]) -> dict[bytes, Spec]:
        while True:
            try:
                specs = await self._reader.specs(ids, SPEC_BYTES) if ids else {}
                self._specs_outage.over()
                return specs
            except FAULTS as error:
                # The lane has moved past these rows, so they must be dispatched here.
                self._specs_outage.failed(error)
                await self._shared.clock.sleep(self._shared.settings.sweep_interval)

    # -- payloads ----------------------------------------------------------------------------
    async def run_payloads(self) -> None:
        """Reads the payloads of jobs that are fed to the queue service once more."""
        shared = self._shared
        while True:
            await shared.payloads_wanted.wait()
            shared.payloads_wanted.clear()
            wanted, shared.without_payload = shared.without_payload, []
            for start in range(0, len(wanted), SPECS_A_QUERY):
                await self._reload(wanted[start : start + SPECS_A_QUERY])

    async def _reload(self, entries: Sequence[Entry]) -> None:
        while entries := [e for e in entries if e.phase is Phase.QUEUED and self._holds(e)]:
            specs = await self._specs([e.job_id for e in entries])
            told = [e for e in entries if e.job_id not in specs or specs[e.job_id].told]
            for entry in told:
                if entry.phase is Phase.QUEUED and self._holds(entry) and entry.job_id in specs:
                    self._shared.table.payload_loaded(entry, specs[entry.job_id].payload or b"")
            self._shared.fed.set()
            entries = [e for e in entries if e not in told]

    def _holds(self, entry: Entry) -> bool:
        return self._shared.table.has(entry)
