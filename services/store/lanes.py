"""Inserts the rows of queues and lanes, which must exist before a lane's first job (protocol B9)."""

from __future__ import annotations

from collections.abc import Iterable

from taskflow_server.core.lanes import LaneKey
from taskflow_server.core.names import shard_of
from taskflow_server.store.database import Database

MOST_LANES = 200_000  # remembered; beyond it the memory is cleared


class KnownLanes:
    """The lanes whose rows are known to exist, and the shards of their queues."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._shards: dict[str, int] = {}
        self._lanes: set[LaneKey] = set()

    def known(self, lane: LaneKey) -> bool:
        return lane in self._lanes

    def shard(self, queue: str) -> int:
        return self._shards[queue]

    async def learn(self, lanes: Iterable[LaneKey]) -> None:
        """Inserts the rows of new queues and lanes, in short separate transactions."""
        wanted = sorted({lane for lane in lanes if lane not in self._lanes})
        if not wanted:
            return
        if len(self._lanes) > MOST_LANES:
            self._lanes.clear()
            self._shards.clear()
        queues = sorted({lane.queue for lane in wanted if lane.queue not in self._shards})
        if queues:
            await self._db.run("create_queues", names=queues, shards=[shard_of(q) for q in queues])
            for row in await self._db.rows("get_queues", names=queues):
                self._shards[row["name"]] = row["shard"]
        await self._db.run(
            "create_lanes",
            queue=[lane.queue for lane in wanted],
            task=[lane.task for lane in wanted],
            priority=[lane.priority for lane in wanted],
        )
        self._lanes.update(wanted)
