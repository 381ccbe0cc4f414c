"""What the scheduler remembers of queues, lanes and the cluster, read from Postgres."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from services.core.lanes import LaneKey
from services.core.names import shard_of
from services.runtime import logs
from services.runtime.clock import SystemClock
from services.store.database import Database

MOST_LANES = 200_000  # remembered; beyond, all are forgotten and learnt anew

log = logs.get("directory")


@dataclass(slots=True)
class Cluster:
    """Who owns what, as last read."""

    owners: dict[int, str] = field(default_factory=dict)  # shard -> coordinator's address
    coordinators: list[dict[str, Any]] = field(default_factory=list)
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    queues: list[dict[str, Any]] = field(default_factory=list)


class Directory:
    def __init__(self, db: Database, clock: SystemClock) -> None:
        self._db = db
        self._clock = clock
        self._shards: dict[str, int] = {}
        self._lanes: set[LaneKey] = set()
        self.cluster = Cluster()

    def known(self, lane: LaneKey) -> bool:
        return lane in self._lanes

    def shard(self, queue: str) -> int:
        return self._shards[queue]

    async def learn(self, lanes: Iterable[LaneKey]) -> None:
        """Makes the rows of new queues and lanes, in short transactions of their own, before their first job (B9)."""
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

    async def refresh(self) -> None:
        """Reads shards, members and the database's clock."""
        sent_at = self._clock.real.monotonic()
        now = await self._db.rows("database_time")
        self._clock.set_now_us(now[0]["now_us"], sent_at)
        self._clock.move(now[0]["moved_us"])
        members = {m["name"]: m for m in await self._db.rows("list_members")}
        shards = await self._db.rows("list_shards")
        owned = [s for s in shards if s["owner"] in members]
        fed = {s["queue_name"] for s in owned}
        self.cluster = Cluster(
            owners={s["shard"]: s["address"] for s in owned},
            coordinators=[members[name] for name in sorted({s["owner"] for s in owned})],
            schedulers=[m for m in members.values() if m["kind"] == "scheduler"],
            queues=[m for m in members.values() if m["kind"] == "queue" and m["name"] in fed],
        )
