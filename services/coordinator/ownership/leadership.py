"""Ownership of shards: takeover, renewal and hand-over. A takeover is the one recovery."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import grpc

from taskflow_server.coordinator.entries import task_limit
from taskflow_server.coordinator.lanes.pager import LanePager
from taskflow_server.coordinator.lanes.queue_feed import QueueFeed
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.ownership.membership import Beats, take_name
from taskflow_server.coordinator.ownership.takeover import Takeover
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.effects import Effects
from taskflow_server.core.dispatch.records import Entry, Shard
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.errors import InternalFault, NotOwner, Unavailable
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.lifecycle import Fatal
from taskflow_server.store import dispatch as store
from taskflow_server.store.database import CommitUnknown, Row, Writer
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS, DatabaseError
from taskflow_server.store.raw_ids import Shards
from taskflow_server.store.times import to_datetime

log = logs.get("owner")

RETRY = 0.25
GIVE_BACK = 0.5  # seconds that a change of limits waits for the jobs to be taken back; later ones are as well
GIVE_BACK_CHECK = 0.01
PAUSED_EVERY = 2.0  # seconds between reads of paused queues and limits, besides the hints


class Leadership:
    def __init__(
        self,
        shared: Shared,
        outcomes: OutcomeWriter,
        pager: LanePager,
        takeover: Takeover,
        announce: Callable[[], None],
        perform: Callable[[Effects], None],
        clock_moved: Callable[[int], None],
        recall: Callable[[frozenset[str]], None],
        dismiss: Callable[[], None],
    ) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._pager = pager
        self._takeover = takeover
        self._announce = announce
        self._perform = perform
        self._clock_moved = clock_moved
        self._recall = recall
        self._dismiss = dismiss
        self._reading_limits = asyncio.Lock()
        self.incarnation = uuid4()
        self._outage = shared.readiness.outage(log, "this process cannot renew its claim")
        self._taking_outage = shared.readiness.outage(log, "shards cannot be taken over")
        self._paused_outage = shared.readiness.outage(log, "paused queues cannot be read")
        self._queue_outage = logs.Outage(log, "the queue service does not answer")
        self.feed: QueueFeed | None = None
        self.took_over = asyncio.Event()  # since the start of the process
        self._writer = Writer(shared.settings.database_url, timeout=shared.settings.database_timeout)
        self._beats = Beats(shared.clock.real.monotonic, shared.settings.owner_timeout)

    async def join(self) -> None:
        """Inserts the row in `members`, under a new incarnation, and sets the cluster's clock before any use."""
        settings = self._shared.settings
        asked_at = self._shared.clock.real.monotonic()
        now = await self._shared.db.rows("database_time")
        self._shared.clock.set_now_us(now[0]["now_us"], asked_at)
        self._shared.clock.move(now[0]["moved_us"])
        await take_name(self._shared, self._beats, self.incarnation)
        self._shared.valid_until = self._shared.clock.real.monotonic() + settings.owner_timeout

    async def beat(self) -> None:
        """Renews the claim while Postgres answers; its validity counts from the sending (A7)."""
        shared = self._shared
        while True:
            await shared.clock.real.sleep(shared.settings.beat_interval)
            sent_at = shared.clock.real.monotonic()
            try:
                alive = await shared.db.rows("beat", name=shared.settings.name, incarnation=self.incarnation)
                asked_at = shared.clock.real.monotonic()
                (facts,) = await shared.db.rows("claim_facts")
                shared.clock.set_now_us(facts["now_us"], asked_at)
            except (Unavailable, InternalFault, DatabaseError) as error:
                self._outage.failed(error)
                continue
            if not alive:
                raise Fatal(f"another process runs under the name {shared.settings.name}; this one ends")
            self._clock_moved(facts["moved_us"])
            self._outage.over()
            if self._superseded(facts):  # paused for longer than the owner timeout: a beat proves nothing (B2)
                shared.lost.set()
                continue
            shared.valid_until = sent_at + shared.settings.owner_timeout
            if self.feed is not None:
                self.feed.prolong()

    def _superseded(self, facts: Row) -> bool:
        """Whether a shard that this process believes to own has a higher epoch."""
        owned, epochs = self._shared.table.shards, zip(facts["shards"], facts["epochs"], strict=True)
        return any(epoch > owned[number].epoch for number, epoch in epochs if number in owned)

    async def run(self) -> None:
        """Owns the shards whenever possible; starts again when ownership ends."""
        while True:
            try:
                await self._reign()
            except (grpc.RpcError, ConnectionError, TimeoutError) as error:
                self._queue_outage.failed(ConnectionError(_first_line(error)))
            except FAULTS as error:
                self._taking_outage.failed(error)
            await self._shared.clock.real.sleep(RETRY)

    async def _reign(self) -> None:
        shared = self._shared
        before, shared.standby = shared.standby, not await self._may_take()
        if shared.standby:
            self._taking_outage.over()
            if not before:
                log.info("standby: another coordinator owns the shards")
                self._shut()
                self._dismiss()
            return
        feed = QueueFeed(shared, self._perform)
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
            losing = asyncio.ensure_future(shared.lost.wait())
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
        """Whether all shards are free, its own, or of an owner that has stopped."""
        shared = self._shared
        members = {m["name"]: m for m in await shared.db.rows("list_members")}
        owners = {row["owner"] for row in await shared.db.rows("list_shards")} - {None, shared.settings.name}
        stopped = [self._beats.has_stopped(members[owner]) for owner in owners if owner in members]
        return all(stopped)

    async def _take_over(self, seen: dict[int, int]) -> None:
        """Raises the epochs, reads the state of the shards, and opens them (protocol A1: reads after its commit)."""
        shared, settings = self._shared, self._shared.settings
        # The fence decides about commits in progress; other outcomes are reported again, and looked up then.
        self._shut()
        await self._outcomes.drained()
        floors = {row["shard"]: seen.get(row["shard"], 0) for row in await shared.db.rows("list_shards")}
        epochs = await store.take_shards(
            self._writer,
            floors,
            owner=settings.name,
            incarnation=self.incarnation,
            address=settings.addresses[0],
            queue_name=settings.queue_name,
            queue_address=",".join(settings.queue_addresses),
        )
        snapshot = (await shared.db.rows("snapshot_now"))[0]
        leases = await self._takeover.read_leases(list(epochs))
        shared.paused = await self._read_paused(list(epochs))
        await self._read_limits()
        shared.permits.gone = True
        # The last read: a worker that is proved dead loses its record, and its jobs would not be in doubt.
        await self._takeover.read_workers()
        # No await from here on: code that finds a shard open also finds its leases. Lanes come into memory if they have
        # rows beyond their marks.
        shared.lost.clear()
        self._pager.forget()
        shared.table.outbox.clear()
        for number, (epoch, clean) in epochs.items():
            shard = Shard(number, epoch, snapshot["xmax"], clean)
            shard.opened_at = snapshot["now"]
            shared.table.open_shard(shard)
        self._takeover.restore(leases)
        for wanted in (shared.page_wanted, shared.settle_wanted, shared.due_wanted, shared.cancels_wanted):
            wanted.set()
        metrics.takeovers.inc(len(epochs))
        awaited = len(set().union(*(shard.unconfirmed for shard in shared.table.shards.values())))
        log.info("took over", shards=len(epochs), epoch=max(e for e, _ in epochs.values()), workers=awaited)

    async def _join_queue(self, incarnation: str) -> None:
        """Writes the queue service's row in `members`, which it cannot write itself, for the topology."""
        settings = self._shared.settings
        await self._shared.db.run(
            "join_members",
            name=settings.queue_name,
            kind="queue",
            incarnation=UUID(incarnation),
            addresses=settings.queue_addresses,
        )

    async def _read_paused(self, shards: list[int]) -> frozenset[str]:
        return frozenset(row["name"] for row in await self._shared.db.rows("paused_queues", shards=Shards(shards)))

    async def _read_limits(self) -> None:
        """Reads the limits, one read at a time: an older read must not undo a newer one."""
        shared = self._shared
        async with self._reading_limits:
            asked = set(shared.table.limits.unknown)
            limits = {task_limit(row["id"]): row["concurrency"] for row in await shared.db.rows("task_limits")}
            if limits == shared.table.limits.most:
                return
            shared.permits.change(limits, asked)
            shared.fed.set()
            shared.settle_wanted.set()  # for jobs that have a permit now, and need their lease row first
            back = shared.permits.lowered()
        if back:
            shared.take_back([entry.exec_id for entry in back])
            await self._given_back(back)

    async def _given_back(self, entries: Sequence[Entry]) -> None:
        """Waits until the queue service has answered which entries are removed and which were taken, so that a change
        applies before its call returns."""
        clock = self._shared.clock.real
        deadline = clock.monotonic() + GIVE_BACK
        while any(e.yielding and e.phase is Phase.QUEUED for e in entries) and clock.monotonic() < deadline:
            await clock.sleep(GIVE_BACK_CHECK)

    async def follow_paused(self) -> None:
        """Reads paused queues and limits: after a hint about a change, and every few seconds in case one was lost."""
        shared = self._shared
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSED_EVERY):
                    await shared.paused_wanted.wait()
            shared.paused_wanted.clear()
            try:
                await self.read_paused()
                self._paused_outage.over()
            except FAULTS as error:
                self._paused_outage.failed(error)

    async def read_paused(self) -> None:
        """Reads the paused queues and sends a changed set to the queue service; workers return attempts not started."""
        shared = self._shared
        await self._read_limits()
        before, paused = shared.paused, await self._read_paused(list(shared.table.shards))
        if paused != before:
            shared.paused = paused
            if self.feed is not None:
                self.feed.pause()
            if paused - before:
                self._recall(paused - before)

    def _shut(self) -> None:
        for number in list(self._shared.table.shards):
            self._shared.table.close_shard(number)

    async def write_marks(self) -> None:
        """Writes, every few seconds, the marks of lanes with read, offered or ended jobs. The position of an idle lane
        moves with every other transaction, but its written mark is as good, for no row is beyond it."""
        shared = self._shared
        while True:
            await shared.clock.real.sleep(shared.settings.mark_interval)
            with suppress(Unavailable, NotOwner):
                async with self._outcomes.exclusive:
                    moved = [(lane, lane.passed) for lane in shared.table.lanes.values() if lane.passed != lane.marked]
                    if not (moved or shared.finished) or not shared.healthy:
                        continue
                    shards = {lane.shard for lane, _ in moved}
                    counted, finished = self._counts()
                    shards.update(shard for _, shard, _, _ in finished)
                    marks = [(lane.key, lane.mark()) for lane, _ in moved]
                    try:
                        await self._outcomes.write(Changes(marks=marks, other=counted), shards)
                    except CommitUnknown:
                        # They may be written. A count may miss some, but must not have some twice.
                        shared.finished -= finished
                        raise
                    shared.finished -= finished
                    for lane, passed in moved:
                        lane.marked = passed

    def _counts(self) -> tuple[list[tuple[str, dict[str, Any]]], Counter[tuple[str, int, int, int]]]:
        """The statement that counts the jobs that ended on the owned shards since the last write, and its counts."""
        mine = Counter({key: n for key, n in self._shared.finished.items() if key[1] in self._shared.table.shards})
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
        """On SIGTERM: stops feeding, writes outcomes, marks and counts, and releases the shards (B13)."""
        shared = self._shared
        with suppress(*FAULTS, TimeoutError):
            async with asyncio.timeout(shared.settings.stop_grace):
                await self._outcomes.drained()
                shards = set(shared.table.shards)
                if shards:
                    lanes = [lane for lane in shared.table.lanes.values() if lane.passed != lane.marked]
                    marks = [(lane.key, lane.mark()) for lane in lanes]
                    release = ("release_shards", {"shards": sorted(shards), "owner": shared.settings.name})
                    async with self._outcomes.exclusive:
                        # The fence locks the rows that the release has updated, in the same transaction.
                        counted, _ = self._counts()
                        await self._outcomes.write(Changes(marks=marks, other=[*counted, release]), shards)
                await shared.db.run("leave_members", name=shared.settings.name, incarnation=self.incarnation)
        await self._writer.reset()


def _first_line(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return error.details() or str(error.code())
    return (str(error).splitlines() or [type(error).__name__])[0]
