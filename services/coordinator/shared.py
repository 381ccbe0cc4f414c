"""The state that the parts of a coordinator share."""

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
        self.lost = asyncio.Event()  # the shards must be taken over anew: a fence has failed, or memory is wrong
        limits = Limits(self.permits_wanted.set, self.paused_wanted.set)
        self.table = DispatchTable(
            self._token, depth=settings.lane_depth, limits=limits, max_handouts=settings.max_handouts,
            damaged=self.lost.set,
        )  # fmt: skip
        self.permits = Permits(self.table)
        self.executor_leases = ExecutorLeases(self.table)
        self.valid_until = 0.0  # by the real clock: the end of the last renewal in Postgres
        self.standby = False  # as last read, another member owns the shards
        self.paused: frozenset[str] = frozenset()  # paused queues of the owned shards
        self.hungry: dict[LaneKey, Lane] = {}  # lanes with jobs to read, as far as there is room
        self.queue_memory = settings.memory_bytes  # bytes for waiting jobs in the queue service, from its hello
        self.take_back: Callable[[list[bytes]], None] = lambda exec_ids: None  # by the feed
        self.without_payload: list[Entry] = []  # entries to feed once more, whose payloads are not in memory
        self.due_behind: dict[tuple[int, LaneKey], DuePlace] = {}  # lanes with due rows beyond a place
        self.page_wanted = asyncio.Event()
        self.due_wanted = asyncio.Event()
        self.start_bys_wanted = asyncio.Event()  # a reading of due rows has seen that some have passed
        self.slas_wanted = asyncio.Event()  # likewise, of slas
        self.cancels_wanted = asyncio.Event()
        self.settle_wanted = asyncio.Event()
        self.payloads_wanted = asyncio.Event()
        self.runs_wanted = asyncio.Event()
        self.fed = asyncio.Event()  # the table's outbox is not empty
        self.finished: Counter[tuple[str, int, int, int]] = Counter()  # by queue, shard, minute, outcome
        self.fail_unreadable: Callable[[list[Entry]], object] = lambda entries: None  # set by service.py
        self._watchers: defaultdict[bytes, set[asyncio.Queue[bytes]]] = defaultdict(set)

    def _token(self, shard: int, epoch: int) -> bytes:
        self._number += 1
        return ids.exec_id(shard, epoch, self._number, random.getrandbits(32))

    @property
    def healthy(self) -> bool:
        """Whether Postgres has confirmed the claim lately, so that the shards are still owned."""
        return self.clock.real.monotonic() < self.valid_until

    def epochs(self, shards: Iterable[int]) -> dict[int, int]:
        """The epochs of these shards for a fence. NotOwner when this coordinator no longer owns one."""
        try:
            return {n: self.table.shards[n].epoch for n in shards}
        except KeyError as error:
            raise NotOwner(f"shard {error.args[0]} has another owner") from None

    def shard_epochs(self) -> list[ShardEpoch]:
        return [ShardEpoch(shard=n, epoch=s.epoch) for n, s in self.table.shards.items()]

    # -- watchers of jobs --------------------------------------------------------------------
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
