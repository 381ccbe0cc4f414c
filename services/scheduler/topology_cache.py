"""The scheduler's cache of queues, lanes and the cluster, read from Postgres."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from taskflow_server.runtime.clock import SystemClock
from taskflow_server.store.database import Database
from taskflow_server.store.lanes import KnownLanes


@dataclass(slots=True)
class ClusterView:
    """The owners of shards, as last read."""

    owners: dict[int, str] = field(default_factory=dict)  # shard -> coordinator's address
    coordinators: list[dict[str, Any]] = field(default_factory=list)
    schedulers: list[dict[str, Any]] = field(default_factory=list)
    queues: list[dict[str, Any]] = field(default_factory=list)


class TopologyCache(KnownLanes):
    def __init__(self, db: Database, clock: SystemClock) -> None:
        super().__init__(db)
        self._clock = clock
        self.cluster = ClusterView()
        self.draining: frozenset[str] = frozenset()  # queues that accept no new jobs
        self.handlers_version = -1  # of what workers have registered: taskflow_server.scheduler.handlers

    async def read_draining(self) -> None:
        """Reads which queues drain."""
        self.draining = frozenset(row["name"] for row in await self._db.rows("draining_queues"))

    async def refresh(self) -> float:
        """Reads shards, members and the database's clock. Returns the seconds by which that jumped: see SystemClock."""
        sent_at = self._clock.real.monotonic()
        (facts,) = await self._db.rows("cluster_facts")
        jump = self._clock.set_now_us(facts["now_us"], sent_at)
        self._clock.move(facts["moved_us"])
        self.draining, self.handlers_version = frozenset(facts["draining"]), facts["handlers_version"]
        members = {m["name"]: m for m in await self._db.rows("list_members")}
        shards = await self._db.rows("list_shards")
        owned = [s for s in shards if s["owner"] in members]
        fed = {s["queue_name"] for s in owned}
        self.cluster = ClusterView(
            owners={s["shard"]: s["address"] for s in owned},
            coordinators=[members[name] for name in sorted({s["owner"] for s in owned})],
            schedulers=[m for m in members.values() if m["kind"] == "scheduler"],
            queues=[m for m in members.values() if m["kind"] == "queue" and m["name"] in fed],
        )
        return jump
