"""Ownership: taking shards over, keeping them, handing them over. Taking over is the one recovery."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import grpc

from taskflow_server.coordinator.feed import Feed
from taskflow_server.coordinator.ledger import Ledger
from taskflow_server.coordinator.membership import Beats, take_name
from taskflow_server.coordinator.pager import Pager
from taskflow_server.coordinator.recovery import Recovery
from taskflow_server.coordinator.state import State, task_limit
from taskflow_server.core.book import Entry, Phase, Shard
from taskflow_server.core.errors import InternalFault, NotOwner, Unavailable
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.lifecycle import Fatal
from taskflow_server.store import dispatch as store
from taskflow_server.store.database import CommitUnknown, Writer
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS, DatabaseError
from taskflow_server.store.times import to_datetime

log = logs.get("owner")

RETRY = 0.25
GIVE_BACK = 0.5  # seconds that the owner waits for jobs that a lowered limit takes back; they come all the same
GIVE_BACK_CHECK = 0.01
PAUSED_EVERY = 2.0  # seconds between looks at which queues are paused and which limits there are, beside the hints


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
        recall: Callable[[frozenset[str]], None],
        dismiss: Callable[[], None],
    ) -> None:
        self._state = state
        self._ledger = ledger
        self._pager = pager
        self._recovery = recovery
        self._announce = announce
        self._orphaned = orphaned
        self._removed = removed
        self._clock_moved = clock_moved
        self._recall = recall
        self._dismiss = dismiss
        self._reading_limits = asyncio.Lock()
        self.incarnation = uuid4()
        self._outage = state.readiness.outage(log, "this process cannot renew its claim")
        self._taking_outage = state.readiness.outage(log, "shards cannot be taken over")
        self._paused_outage = state.readiness.outage(log, "paused queues cannot be read")
        self._queue_outage = logs.Outage(log, "the queue service does not answer")
        self.feed: Feed | None = None
        self.took_over = asyncio.Event()  # since the process began
        self._writer = Writer(state.settings.database_url, timeout=state.settings.database_timeout)
        self._beats = Beats(state.clock.real.monotonic, state.settings.owner_timeout)

    async def join(self) -> None:
        """Our row in `members`, under a new incarnation. The clock is the cluster's before anything is timed by it."""
        settings = self._state.settings
        asked_at = self._state.clock.real.monotonic()
        now = await self._state.db.rows("database_time")
        self._state.clock.set_now_us(now[0]["now_us"], asked_at)
        self._state.clock.move(now[0]["moved_us"])
        await take_name(self._state, self._beats, self.incarnation)
        self._state.valid_until = self._state.clock.real.monotonic() + settings.owner_timeout

    async def beat(self) -> None:
        """Renews our claim for as long as Postgres answers; counted from the sending (A7)."""
        state = self._state
        while True:
            await state.clock.real.sleep(state.settings.beat_interval)
            sent_at = state.clock.real.monotonic()
            try:
                alive = await state.db.rows("beat", name=state.settings.name, incarnation=self.incarnation)
                asked_at = state.clock.real.monotonic()
                now = await state.db.rows("database_time")
                state.clock.set_now_us(now[0]["now_us"], asked_at)
                shards = await state.db.rows("list_shards")
            except (Unavailable, InternalFault, DatabaseError) as error:
                self._outage.failed(error)
                continue
            if not alive:
                raise Fatal(f"another process runs under the name {state.settings.name}; this one ends")
            self._clock_moved(now[0]["moved_us"])
            self._outage.over()
            if self._superseded(shards):  # stopped for longer than the owner timeout: a beat alone proves nothing (B2)
                state.lost.set()
                continue
            state.valid_until = sent_at + state.settings.owner_timeout
            if self.feed is not None:
                self.feed.prolong()

    def _superseded(self, rows: list[dict[str, Any]]) -> bool:
        """Whether a shard that this process thinks its own has a higher epoch."""
        book = self._state.book
        return any(row["epoch"] > book.shards[row["shard"]].epoch for row in rows if row["shard"] in book.shards)

    async def run(self) -> None:
        """Owns what can be owned; whenever that ends, begins anew."""
        while True:
            try:
                await self._reign()
            except (grpc.RpcError, ConnectionError, TimeoutError) as error:
                self._queue_outage.failed(ConnectionError(_first_line(error)))
            except FAULTS as error:
                self._taking_outage.failed(error)
            await self._state.clock.real.sleep(RETRY)

    async def _reign(self) -> None:
        state = self._state
        before, state.standby = state.standby, not await self._may_take()
        if state.standby:
            self._taking_outage.over()
            if not before:
                log.info("standby: another coordinator owns the shards")
                self._shut()
                self._dismiss()
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
            self._taking_outage.over()
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
        """All shards are free, ours, or of an owner that has stopped."""
        state = self._state
        members = {m["name"]: m for m in await state.db.rows("list_members")}
        owners = {row["owner"] for row in await state.db.rows("list_shards")} - {None, state.settings.name}
        stopped = [self._beats.has_stopped(members[owner]) for owner in owners if owner in members]
        return all(stopped)

    async def _take_over(self, seen: dict[int, int]) -> None:
        """Raises the epochs, reads what must be known, opens the shards (protocol A1: reads after its commit)."""
        state, settings = self._state, self._state.settings
        # What is being committed is decided by the fence; what is not must come again, and be looked up then.
        self._shut()
        await self._ledger.drained()
        floors = {row["shard"]: seen.get(row["shard"], 0) for row in await state.db.rows("list_shards")}
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
        leases = await self._recovery.read_leases(list(epochs))
        state.paused = await self._read_paused(list(epochs))
        await self._read_limits()
        state.permits.gone = True
        # The last reading: a worker that is proved dead loses its seat, and what it may have had would be in no doubt.
        await self._recovery.seats()
        # From here on nothing waits: whoever finds a shard open finds its leases there, too. Its lanes come into memory
        # as far as something stands beyond their marks.
        state.lost.clear()
        self._pager.forget()
        state.book.outbox.clear()
        for number, (epoch, clean) in epochs.items():
            shard = Shard(number, epoch, snapshot["xmax"], clean)
            shard.opened_at = snapshot["now"]
            state.book.open(shard)
        self._recovery.restore(leases)
        for wanted in (state.page_wanted, state.settle_wanted, state.due_wanted, state.cancels_wanted):
            wanted.set()
        metrics.takeovers.inc(len(epochs))
        awaited = len(set().union(*(shard.unconfirmed for shard in state.book.shards.values())))
        log.info("took over", shards=len(epochs), epoch=max(e for e, _ in epochs.values()), workers=awaited)

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

    async def _read_limits(self) -> None:
        """One reading at a time: an older one must not undo what a newer one has brought."""
        state = self._state
        async with self._reading_limits:
            asked = set(state.book.limits.unknown)
            limits = {task_limit(row["id"]): row["concurrency"] for row in await state.db.rows("task_limits")}
            if limits == state.book.limits.most:
                return
            state.permits.change(limits, asked)
            state.fed.set()
            state.settle_wanted.set()  # for those that are free now, and want their lease row first
            back = state.permits.lowered()
        if back:
            state.take_back([entry.exec_id for entry in back])
            await self._given_back(back)

    async def _given_back(self, entries: Sequence[Entry]) -> None:
        """Until the queue service has said which are removed and which were taken: so a change counts once answered."""
        clock = self._state.clock.real
        deadline = clock.monotonic() + GIVE_BACK
        while any(e.yielding and e.phase is Phase.QUEUED for e in entries) and clock.monotonic() < deadline:
            await clock.sleep(GIVE_BACK_CHECK)

    async def follow_paused(self) -> None:
        """Hints say when a queue was paused or resumed, or a limit changed; the look every few seconds is the net under
        them."""
        state = self._state
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSED_EVERY):
                    await state.paused_wanted.wait()
            state.paused_wanted.clear()
            try:
                await self.read_paused()
                self._paused_outage.over()
            except FAULTS as error:
                self._paused_outage.failed(error)

    async def read_paused(self) -> None:
        """Sends a changed set to the queue service at once; workers return attempts that have not started."""
        state = self._state
        await self._read_limits()
        before, paused = state.paused, await self._read_paused(list(state.book.shards))
        if paused != before:
            state.paused = paused
            if self.feed is not None:
                self.feed.pause()
            if paused - before:
                self._recall(paused - before)

    def _shut(self) -> None:
        for number in list(self._state.book.shards):
            self._state.book.shut(number)

    async def write_marks(self) -> None:
        """Every few seconds, the marks of lanes whose jobs have moved on. An idle lane's position moves with every
        transaction of others; its written mark is as good, for nothing stands beyond it."""
        state = self._state
        while True:
            await state.clock.real.sleep(state.settings.mark_interval)
            with suppress(Unavailable, NotOwner):
                async with self._ledger.exclusive:
                    moved = [(lane, lane.passed) for lane in state.book.lanes.values() if lane.passed != lane.marked]
                    if not (moved or state.finished) or not state.healthy:
                        continue
                    shards = {lane.shard for lane, _ in moved}
                    counted, finished = self._counts()
                    shards.update(shard for _, shard, _, _ in finished)
                    marks = [(lane.key, lane.mark()) for lane, _ in moved]
                    try:
                        await self._ledger.write(Changes(marks=marks, other=counted), shards)
                    except CommitUnknown:
                        # They may be written. A count that misses some is allowed, one that has some twice is not.
                        state.finished -= finished
                        raise
                    state.finished -= finished
                    for lane, passed in moved:
                        lane.marked = passed

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
        with suppress(*FAULTS, TimeoutError):
            async with asyncio.timeout(state.settings.stop_grace):
                await self._ledger.drained()
                shards = set(state.book.shards)
                if shards:
                    lanes = [lane for lane in state.book.lanes.values() if lane.passed != lane.marked]
                    marks = [(lane.key, lane.mark()) for lane in lanes]
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
