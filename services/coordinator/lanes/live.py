"""Which lanes are in memory: they come with something to read, and leave when they have been idle for a while (B9).

A lane that is not in memory has all its jobs in one of the other places, and its written mark says so. Whatever brings
it back reads it from that mark as after a takeover, so that nothing rests on what was known of it before.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.lanes import Lane, LaneKey, Mark, Position
from taskflow_server.store.database import Row
from taskflow_server.store.lane_reader import LaneReader

LANES_A_QUERY = 200  # of which pages are read at a time
LOOK = 1000  # lanes that one query looks at
SWEEPS_FOR_ALL = 5  # every lane is looked at within so many sweeps
MOST_WANTED = 10_000  # lanes that offers named; beyond, all are looked at instead
_FIRST = LaneKey("", "", -1)  # before every lane


class LiveLanes:
    def __init__(self, shared: Shared, reader: LaneReader) -> None:
        self._shared = shared
        self._reader = reader
        self._wanted: set[LaneKey] = set()  # named by offers, not in memory
        self._begin = False  # look at every lane now
        self._all = False  # that is under way
        self._place = _FIRST  # how far this round of sweeps has come
        self._epochs: dict[int, int] = {}  # under which the present look began
        self._round = self._known = 0  # lanes looked at in this round, and in the last one

    def forget(self) -> None:
        """A takeover begins: nothing that was read before counts."""
        self._wanted.clear()
        self._shared.hungry.clear()
        self.search()

    def search(self) -> None:
        """Look at every lane now."""
        self._begin = True
        self._shared.page_wanted.set()

    def want(self, key: LaneKey) -> None:
        """A lane that is not in memory has something new."""
        self._wanted.add(key)
        if len(self._wanted) > MOST_WANTED:
            self._wanted.clear()
            self._begin = True
        self._shared.page_wanted.set()

    async def find(self, sweep: bool) -> None:
        """Brings lanes into memory: those that offers named, and in a sweep some of those with news."""
        self._epochs = {number: shard.epoch for number, shard in self._shared.table.shards.items()}
        shards = list(self._epochs)
        if not shards:
            return
        wanted = list(self._wanted)
        for start in range(0, len(wanted), LOOK):
            part = wanted[start : start + LOOK]
            self._wanted.difference_update(part)  # what is named while these are read may be newer than the answer
            try:
                self._add(await self._reader.lanes_by_key(shards, part))
            except BaseException:
                self._wanted.update(part)
                raise
        if self._begin:
            self._place, self._round, self._begin, self._all = _FIRST, 0, False, True
        if self._all:
            self._all = not await self._look(shards, LOOK)
            if self._all:  # pages of those that were found are read before the next look
                self._shared.page_wanted.set()
        elif sweep:
            share = max(LANES_A_QUERY, self._known // SWEEPS_FOR_ALL + 1)
            for start in range(0, share, LOOK):
                if await self._look(shards, min(LOOK, share - start)):
                    break

    async def _look(self, shards: Sequence[int], limit: int) -> bool:
        """Looks at the next lanes; whether these were the last."""
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
        """To be read, from their marks on if they were not in memory."""
        table, hungry = self._shared.table, self._shared.hungry
        for row in rows:
            shard = table.shards.get(row["shard"])
            if shard is None or shard.epoch != self._epochs.get(shard.number):
                continue  # a takeover came between: it looks at every lane
            key = LaneKey(row["queue"], row["task"], row["priority"])
            lane = table.lanes.get(key)
            if lane is None:
                mark = Mark(Position(row["tx"], row["id"]), frozenset(row["late"]))
                lane = table.lanes[key] = Lane.at(key, shard.number, mark, row["read_at"])
            lane.news = lane.news or not lane.reading
            hungry[key] = lane

    def retire(self) -> None:
        """Lanes that have been idle for a while leave memory."""
        now, patience = self._shared.clock.real.monotonic(), self._shared.settings.lane_idle
        lanes = self._shared.table.lanes
        for lane in list(lanes.values()):
            if not lane.idle:
                lane.quiet_since = None
            elif lane.quiet_since is None:
                lane.quiet_since = now
            elif now - lane.quiet_since >= patience:
                del lanes[lane.key]
