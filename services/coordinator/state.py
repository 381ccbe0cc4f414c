"""What the parts of a coordinator share."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable

from services.coordinator.settings import CoordinatorSettings
from services.core import ids
from services.core.book import Book
from services.core.errors import NotOwner
from services.core.holds import Holds
from services.core.lanes import Lane, LaneKey
from services.runtime.clock import SystemClock
from services.store.database import Database
from taskflow.v1.worker_pb2 import ShardEpoch


class State:
    def __init__(self, settings: CoordinatorSettings, clock: SystemClock, db: Database) -> None:
        self.settings = settings
        self.clock = clock
        self.db = db
        self.rng = random.Random(secrets.randbits(64)).random
        self._number = 0
        self.book = Book(self._token, depth=settings.lane_depth)
        self.holds = Holds(self.book)
        self.valid_until = 0.0  # by the real clock: to the end of our last renewal in Postgres
        self.lost = asyncio.Event()  # a fence has failed: others own what we thought ours
        self.paused: frozenset[str] = frozenset()  # queues of our shards of which nothing is handed out
        self.hungry: dict[LaneKey, Lane] = {}  # lanes with something to read, as far as room allows
        self.page_wanted = asyncio.Event()
        self.due_wanted = asyncio.Event()
        self.cancels_wanted = asyncio.Event()
        self.settle_wanted = asyncio.Event()
        self.paused_wanted = asyncio.Event()
        self.runs_wanted = asyncio.Event()
        self.fed = asyncio.Event()  # the book's outbox has something
        self.finished: Counter[tuple[str, int, int, int]] = Counter()  # queue, shard, minute, outcome: not yet counted
        self._watchers: defaultdict[bytes, set[asyncio.Queue[bytes]]] = defaultdict(set)

    def _token(self, shard: int, epoch: int) -> bytes:
        self._number += 1
        return ids.exec_id(shard, epoch, self._number, random.getrandbits(32))

    @property
    def healthy(self) -> bool:
        """Postgres has answered lately: what we think we own is ours."""
        return self.clock.real.monotonic() < self.valid_until

    def epochs(self, shards: Iterable[int]) -> dict[int, int]:
        """For a fence. NotOwner when one of them is not ours any more."""
        try:
            return {n: self.book.shards[n].epoch for n in shards}
        except KeyError as error:
            raise NotOwner(f"shard {error.args[0]} is not ours") from None

    def shard_epochs(self) -> list[ShardEpoch]:
        return [ShardEpoch(shard=n, epoch=s.epoch) for n, s in self.book.shards.items()]

    # -- those who wait for jobs -------------------------------------------------------------
    def watch(self, job_id: bytes, who: asyncio.Queue[bytes]) -> None:
        self._watchers[job_id].add(who)

    def unwatch(self, job_id: bytes, who: asyncio.Queue[bytes]) -> None:
        watchers = self._watchers.get(job_id)
        if watchers is not None:
            watchers.discard(who)
            if not watchers:
                del self._watchers[job_id]

    def announce_final(self, job_id: bytes) -> None:
        for who in self._watchers.pop(job_id, ()):
            who.put_nowait(job_id)
