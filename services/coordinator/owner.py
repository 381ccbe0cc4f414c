"""Ownership: taking shards over, keeping them, handing them over. Taking over is the one recovery."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import grpc

from services.coordinator.feed import Feed
from services.coordinator.ledger import Ledger
from services.coordinator.pager import Pager
from services.coordinator.recovery import Recovery
from services.coordinator.state import State
from services.core.book import Entry, Shard
from services.core.errors import NotOwner, Unavailable
from services.core.lanes import LaneKey
from services.runtime import logs, metrics
from services.runtime.lifecycle import Fatal
from services.store import dispatch as store
from services.store.database import Writer
from services.store.dispatch import Changes
from services.store.times import to_datetime

log = logs.get("owner")

STANDBY_READS = 3  # good reads of an unchanged beat before an owner counts as dead (protocol B1)
RETRY = 0.25
PAUSED_EVERY = 2.0  # seconds between looks at which queues are paused, beside the hints


class Owner:
    def __init__(
        self,
        state: State,
        ledger: Ledger,
        pager: Pager,
        recovery: Recovery,
        announce: Callable[[], None],
        orphaned: Callable[[list[Entry]], None],
        removed: Callable[[list[Entry]], None],
        clock_moved: Callable[[int], None],
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._pager = pager
        self._recovery = recovery
        self._announce = announce
        self._orphaned = orphaned
        self._removed = removed
        self._clock_moved = clock_moved
        self.incarnation = uuid4()
        self._outage = logs.Outage(log, "Postgres does not answer")
        self._queue_outage = logs.Outage(log, "the queue service does not answer")
        self.feed: Feed | None = None
        self.took_over = asyncio.Event()  # since the process began
        self._writer = Writer(state.settings.database_url, timeout=state.settings.database_timeout)
        self._seen_beats: dict[str, tuple[int, float, int]] = {}  # name -> beat, since when, good reads

    async def join(self) -> None:
        """Our row in `members`, under a new incarnation. The clock is the cluster's before anything is timed by it."""
        settings = self._state.settings
        now = await self._state.db.rows("database_time")
        self._state.clock.set_now_us(now[0]["now_us"], self._state.clock.real.monotonic() - 0.0005)
        self._state.clock.move(now[0]["moved_us"])
        await self._state.db.run(
            "join_members",
            name=settings.name,
            kind="coordinator",
            incarnation=self.incarnation,
            addresses=settings.addresses,
        )
        self._state.valid_until = self._state.clock.real.monotonic() + settings.owner_timeout

    async def beat(self) -> None:
        """Renews our claim for as long as Postgres answers; counted from the sending (A7)."""
        state = self._state
        while True:
            await state.clock.real.sleep(state.settings.beat_interval)
            sent_at = state.clock.real.monotonic()
            try:
                alive = await state.db.rows("beat", name=state.settings.name, incarnation=self.incarnation)
                now = await state.db.rows("database_time")
            except Unavailable as error:
                self._outage.failed(error)
                continue
            if not alive:
                raise Fatal(f"another process runs under the name {state.settings.name}; this one ends")
            state.clock.set_now_us(now[0]["now_us"], state.clock.real.monotonic() - 0.0005)
            self._clock_moved(now[0]["moved_us"])
            self._outage.over()
            state.valid_until = sent_at + state.settings.owner_timeout
            if self.feed is not None:
                self.feed.prolong()

    async def run(self) -> None:
        """Owns what can be owned; whenever that ends, begins anew."""
        while True:
            try:
                await self._reign()
            except (grpc.RpcError, ConnectionError, TimeoutError) as error:
                self._queue_outage.failed(ConnectionError(_first_line(error)))
            except (Unavailable, NotOwner) as error:
                self._outage.failed(error)
            await self._state.clock.real.sleep(RETRY)

    async def _reign(self) -> None:
        state = self._state
        if not await self._may_take():
            return
        feed = Feed(state, self._orphaned, self._removed)
        try:
            seen = await feed.open()
            await self._join_queue(feed.queue_incarnation)
            await self._take_over(seen)
            self.feed = feed
            feed.prolong()
            self._announce()
            self.took_over.set()
            self._queue_outage.over()
            streaming = asyncio.ensure_future(feed.run())
            losing = asyncio.ensure_future(state.lost.wait())
            try:
                await asyncio.wait({streaming, losing}, return_when=asyncio.FIRST_COMPLETED)
                if losing.done():
                    log.warning("these shards have another owner now")
                    self._shut()
                    return
                streaming.result()
                raise ConnectionError("its stream ended")
            finally:
                for task in (streaming, losing):
                    task.cancel()
                await asyncio.gather(streaming, losing, return_exceptions=True)
        finally:
            self.feed = None
            await feed.close()

    async def _may_take(self) -> bool:
        """All shards are free, ours, or their owner's beat has stopped."""
        state = self._state
        members = {m["name"]: m for m in await state.db.rows("list_members")}
        now = state.clock.real.monotonic()
        for row in await state.db.rows("list_shards"):
            owner = row["owner"]
            if owner is None or owner == state.settings.name or owner not in members:
                continue
            beat = members[owner]["beat"]
            known, since, reads = self._seen_beats.get(owner, (-1, now, 0))
            if known != beat:
                self._seen_beats[owner] = (beat, now, 1)
                return False
            self._seen_beats[owner] = (beat, since, reads + 1)
            if now - since < state.settings.owner_timeout or reads + 1 < STANDBY_READS:
                return False
        return True

    async def _take_over(self, seen: dict[int, int]) -> None:
        """Raises the epochs, reads what must be known, opens the shards (protocol A1: reads after its commit)."""
        state, settings = self._state, self._state.settings
        # What is being committed is decided by the fence; what is not must come again, and be looked up then.
        self._shut()
        await self._ledger.drained()
        floors = {row["shard"]: seen.get(row["shard"], 0) for row in await state.db.rows("list_shards")}
        previous = {row["owner"] for row in await state.db.rows("list_shards")} - {None}
        epochs = await store.take_shards(
            self._writer,
            floors,
            owner=settings.name,
            incarnation=self.incarnation,
            address=settings.addresses[0],
            queue_name=settings.queue_name,
            queue_address=",".join(settings.queue_addresses),
        )
        snapshot = (await state.db.rows("snapshot_now"))[0]
        registered = await self._recovery.seats(previous | {settings.name})
        leases = await self._recovery.read_leases(list(epochs))
        lanes = await state.db.rows("list_lanes", shards=list(epochs))
        state.paused = await self._read_paused(list(epochs))
        # From here on nothing waits: whoever finds a shard open finds its lanes and leases there, too.
        state.lost.clear()
        self._pager.forget()
        state.book.outbox.clear()
        for number, (epoch, clean) in epochs.items():
            shard = Shard(number, epoch, snapshot["xmax"], clean)
            shard.opened_at = snapshot["now"]
            state.book.open(shard, registered)
        self._pager.add_lanes(lanes, taking_over=True)
        self._recovery.restore(leases)
        for wanted in (state.page_wanted, state.settle_wanted, state.due_wanted, state.cancels_wanted):
            wanted.set()
        metrics.takeovers.inc(len(epochs))
        log.info("took over", shards=len(epochs), epoch=max(e for e, _ in epochs.values()), workers=len(registered))

    async def _join_queue(self, incarnation: str) -> None:
        """The queue service's row in `members`, which it cannot write: so the topology can say which process it is."""
        settings = self._state.settings
        await self._state.db.run(
            "join_members",
            name=settings.queue_name,
            kind="queue",
            incarnation=UUID(incarnation),
            addresses=settings.queue_addresses,
        )

    async def _read_paused(self, shards: list[int]) -> frozenset[str]:
        return frozenset(row["name"] for row in await self._state.db.rows("paused_queues", shards=shards))

    async def follow_paused(self) -> None:
        """Hints say when a queue was paused or resumed; the look every few seconds is the net under them."""
        state = self._state
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSED_EVERY):
                    await state.paused_wanted.wait()
            state.paused_wanted.clear()
            with suppress(Unavailable):
                await self.read_paused()

    async def read_paused(self) -> None:
        """Tells the queue service at once."""
        state = self._state
        paused = await self._read_paused(list(state.book.shards))
        if paused != state.paused:
            state.paused = paused
            if self.feed is not None:
                self.feed.pause()

    def _shut(self) -> None:
        for number in list(self._state.book.shards):
            self._state.book.shut(number)

    async def write_marks(self) -> None:
        """Every few seconds, the marks that have moved."""
        state = self._state
        written: dict[LaneKey, object] = {}
        while True:
            await state.clock.real.sleep(state.settings.mark_interval)
            with suppress(Unavailable, NotOwner):
                async with self._ledger.exclusive:
                    marks = [(lane.key, lane.mark()) for lane in state.book.lanes.values()]
                    moved = [(key, mark) for key, mark in marks if written.get(key) != mark]
                    if not (moved or state.finished) or not state.healthy:
                        continue
                    shards = {state.book.lanes[key].shard for key, _ in moved}
                    counted, finished = self._counts()
                    shards.update(shard for _, shard, _, _ in finished)
                    await self._ledger.write(Changes(marks=moved, other=counted), shards)
                    state.finished -= finished
                written.update(moved)

    def _counts(self) -> tuple[list[tuple[str, dict[str, Any]]], Counter[tuple[str, int, int, int]]]:
        """What ended on our shards since the last writing, as a statement, and what it counts."""
        mine = Counter({key: n for key, n in self._state.finished.items() if key[1] in self._state.book.shards})
        if not mine:
            return [], mine
        rows = sorted(mine.items())
        columns = {
            "queue": [queue for (queue, _, _, _), _ in rows],
            "minute": [to_datetime(minute * 60_000_000) for (_, _, minute, _), _ in rows],
            "outcome": [outcome for (_, _, _, outcome), _ in rows],
            "n": [n for _, n in rows],
        }
        return [("add_counts", columns)], mine

    async def hand_over(self) -> None:
        """SIGTERM: feed nothing more, write what is known, release the shards in order (B13)."""
        state = self._state
        with suppress(Unavailable, NotOwner, TimeoutError):
            async with asyncio.timeout(state.settings.stop_grace):
                await self._ledger.drained()
                shards = set(state.book.shards)
                if shards:
                    marks = [(lane.key, lane.mark()) for lane in state.book.lanes.values()]
                    release = ("release_shards", {"shards": sorted(shards), "owner": state.settings.name})
                    async with self._ledger.exclusive:
                        # The fence locks what the release has updated: both are ours, in one transaction.
                        counted, _ = self._counts()
                        await self._ledger.write(Changes(marks=marks, other=[*counted, release]), shards)
                await state.db.run("leave_members", name=state.settings.name, incarnation=self.incarnation)
        await self._writer.reset()


def _first_line(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.details() or str(error.code())
    return (str(error).splitlines() or [type(error).__name__])[0]
