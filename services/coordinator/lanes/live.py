"""The lanes in memory: they enter when they have jobs to read, and leave when they have been idle for a while (B9).

All jobs of a lane that is not in memory are finished, deferred, leased, or beyond its written mark. When it returns, it
is read from that mark as after a takeover, so nothing depends on its former state in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.lanes import Lane, LaneKey, Mark, Position
from taskflow_server.store.database import Row
from taskflow_server.store.lane_reader import LaneReader

LANES_A_QUERY = 200  # lanes whose pages one query reads
LOOK = 1000  # lanes that one query checks
SWEEPS_FOR_ALL = 5  # sweeps that together check every lane
MOST_WANTED = 10_000  # limit of lanes named by offers; beyond it, all lanes are checked
_FIRST = LaneKey("", "", -1)  # before every lane


class LiveLanes:
    def __init__(self, shared: Shared, reader: LaneReader) -> None:
        self._shared = shared
        self._reader = reader
        self._wanted: set[LaneKey] = set()  # named by offers, not in memory
        self._begin = False  # check every lane now
        self._all = False  # a check of every lane is in progress
        self._place = _FIRST  # position of this round of sweeps
        self._epochs: dict[int, int] = {}  # epochs at the start of the present check
        self._round = self._known = 0  # lanes checked in this round, and in the last one

    def forget(self) -> None:
        """Call when a takeover begins: drops everything that was read before."""
        self._wanted.clear()
        self._shared.hungry.clear()
        self.search()

    def search(self) -> None:
        """Checks every lane now."""
        self._begin = True
        self._shared.page_wanted.set()

    def want(self, key: LaneKey) -> None:
        """Records that a lane which is not in memory has new jobs."""
        self._wanted.add(key)
        if len(self._wanted) > MOST_WANTED:
            self._wanted.clear()
            self._begin = True
        self._shared.page_wanted.set()

    async def find(self, sweep: bool) -> None:
        """Brings lanes into memory: those named by offers, and in a sweep some with new jobs."""
        self._epochs = {number: shard.epoch for number, shard in self._shared.table.shards.items()}
        shards = list(self._epochs)
        if not shards:
            return
        wanted = list(self._wanted)
        for start in range(0, len(wanted), LOOK):
            part = wanted[start : start + LOOK]
            self._wanted.difference_update(part)  # lanes named during this read may be newer than its result
            try:
                self._add(await self._reader.lanes_by_key(shards, part))
            except BaseException:
                self._wanted.update(part)
                raise
        if self._begin:
            self._place, self._round, self._begin, self._all = _FIRST, 0, False, True
        if self._all:
            self._all = not await self._look(shards, LOOK)
            if self._all:  # read pages of the lanes found before the next check
                self._shared.page_wanted.set()
        elif sweep:
            share = max(LANES_A_QUERY, self._known // SWEEPS_FOR_ALL + 1)
            for start in range(0, share, LOOK):
                if await self._look(shards, min(LOOK, share - start)):
                    break

    async def _look(self, shards: Sequence[int], limit: int) -> bool:
        """Checks the next lanes; True when these were the last."""
        rows = await self._reader.lanes_with_news(shards, self._place, limit)
        looked_at = rows[-1]["looked_at"] if rows else 0
        self._add([row for row in rows if row["news"]])
        self._round += looked_at
        if looked_at < limit:
            self._place, self._known, self._round = _FIRST, self._round, 0
            return True
        self._place = LaneKey(rows[-1]["queue"], rows[-1]["task"], rows[-1]["priority"])
        return False

    def _add(self, rows: Sequence[Row]) -> None:
        """Adds lanes to read, from their marks on if they were not in memory."""
        table, hungry = self._shared.table, self._shared.hungry
        for row in rows:
            shard = table.shards.get(row["shard"])
            if shard is None or shard.epoch != self._epochs.get(shard.number):
                continue  # a takeover came between, which checks every lane
            key = LaneKey(row["queue"], row["task"], row["priority"])
            lane = table.lanes.get(key)
            if lane is None:
                mark = Mark(Position(row["tx"], row["id"]), frozenset(row["late"]))
                lane = table.lanes[key] = Lane.at(key, shard.number, mark, row["read_at"])
            lane.news = lane.news or not lane.reading
            hungry[key] = lane

    def retire(self) -> None:
        """Removes lanes from memory that have been idle for a while."""
        now, patience = self._shared.clock.real.monotonic(), self._shared.settings.lane_idle
        lanes = self._shared.table.lanes
        for lane in list(lanes.values()):
            if not lane.idle:
                lane.quiet_since = None
            elif lane.quiet_since is None:
                lane.quiet_since = now
            elif now - lane.quiet_since >= patience:
                del lanes[lane.key]
