"""What the parts of a coordinator share."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from taskflow.v1.worker_pb2 import ShardEpoch
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.core import ids
from taskflow_server.core.dispatch.executor_leases import ExecutorLeases
from taskflow_server.core.dispatch.limits import Limits
from taskflow_server.core.dispatch.permits import Permits
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.errors import NotOwner
from taskflow_server.core.lanes import Lane, LaneKey
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.readiness import Readiness
from taskflow_server.store.database import Database
from taskflow_server.store.lane_reader import DuePlace


class Shared:
    def __init__(self, settings: CoordinatorSettings, clock: SystemClock, db: Database) -> None:
        self.settings = settings
        self.clock = clock
        self.db = db
        self.readiness = Readiness(clock.real.monotonic)
        self.rng = random.Random(secrets.randbits(64)).random
        self._number = 0
        self.permits_wanted = asyncio.Event()
        self.paused_wanted = asyncio.Event()
        limits = Limits(self.permits_wanted.set, self.paused_wanted.set)
        self.table = DispatchTable(
            self._token, depth=settings.lane_depth, limits=limits, max_handouts=settings.max_handouts
        )
        self.permits = Permits(self.table)
        self.executor_leases = ExecutorLeases(self.table)
        self.valid_until = 0.0  # by the real clock: to the end of our last renewal in Postgres
        self.standby = False  # as last read, another member owns the shards
        self.lost = asyncio.Event()  # a fence has failed: others own what we thought ours
        self.paused: frozenset[str] = frozenset()  # queues of our shards of which nothing is handed out
        self.hungry: dict[LaneKey, Lane] = {}  # lanes with something to read, as far as room allows
        self.queue_memory = settings.memory_bytes  # bytes for waiting jobs in the queue service, as it said
        self.take_back: Callable[[list[bytes]], None] = lambda exec_ids: None  # out of the queue service: the feed's
        self.without_payload: list[Entry] = []  # to be fed once more, their payloads not in memory
        self.due_behind: dict[tuple[int, LaneKey], DuePlace] = {}  # lanes with due rows beyond a place
        self.page_wanted = asyncio.Event()
        self.due_wanted = asyncio.Event()
        self.cancels_wanted = asyncio.Event()
        self.settle_wanted = asyncio.Event()
        self.payloads_wanted = asyncio.Event()
        self.runs_wanted = asyncio.Event()
        self.fed = asyncio.Event()  # the table's outbox has something
        self.finished: Counter[tuple[str, int, int, int]] = Counter()  # queue, shard, minute, outcome: not yet counted
        self.fail_unreadable: Callable[[list[Entry]], object] = lambda entries: None  # set by service.py
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
            return {n: self.table.shards[n].epoch for n in shards}
        except KeyError as error:
            raise NotOwner(f"shard {error.args[0]} is not ours") from None

    def shard_epochs(self) -> list[ShardEpoch]:
        return [ShardEpoch(shard=n, epoch=s.epoch) for n, s in self.table.shards.items()]

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
