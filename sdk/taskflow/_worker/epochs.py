"""A worker's knowledge of shards: the highest epoch heard, and which coordinator announced it (A5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from taskflow.v1 import worker_pb2


@dataclass(slots=True)
class Epochs:
    """`highest` says what may start, `owner` where outcomes go. A coordinator is known by its name."""

    highest: dict[int, int] = field(default_factory=dict)
    owner: dict[int, str] = field(default_factory=dict)
    _owned_at: dict[int, int] = field(default_factory=dict)

    def announce(self, coordinator: str, shards: Iterable[worker_pb2.ShardEpoch]) -> list[int]:
        """Takes in what a coordinator says that it owns. The shards of which a higher epoch was learnt."""
        raised = []
        mine = set()
        for each in shards:
            mine.add(each.shard)
            if self.see(each.shard, each.epoch):
                raised.append(each.shard)
            if each.epoch >= self._owned_at.get(each.shard, -1):
                self._owned_at[each.shard] = each.epoch
                self.owner[each.shard] = coordinator
        for shard in [s for s, name in self.owner.items() if name == coordinator and s not in mine]:
            del self.owner[shard]
        return raised

    def see(self, shard: int, epoch: int) -> bool:
        """Whether this epoch is higher than any heard before."""
        if epoch <= self.highest.get(shard, -1):
            return False
        self.highest[shard] = epoch
        return True

    def is_stale(self, shard: int, epoch: int) -> bool:
        """Whether a task of this epoch must not be started any more."""
        return epoch < self.highest.get(shard, -1)

    def owned_by(self, coordinator: str) -> list[worker_pb2.ShardEpoch]:
        """To be confirmed to it: its shards, each with the highest epoch heard."""
        return [
            worker_pb2.ShardEpoch(shard=shard, epoch=self.highest[shard])
            for shard, name in self.owner.items()
            if name == coordinator
        ]
