"""The stream to the queue service: hand-outs down, who took what up."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

import grpc

from services.coordinator.holding import requested
from services.coordinator.state import State
from services.core.book import Entry, Phase
from services.core.lanes import LaneKey
from services.rpc.server import channel
from services.runtime import logs
from services.runtime.failpoints import reach
from taskflow.v1 import queue_pb2 as pb
from taskflow.v1 import queue_pb2_grpc

log = logs.get("feed")

MESSAGE_BYTES = 2 << 20
HELLO_TIMEOUT = 3.0

Orphaned = Callable[[list[Entry]], None]
Removed = Callable[[list[Entry]], None]


class Feed:
    """One life of the stream. When it breaks, the owner takes its shards over anew: the one recovery."""

    def __init__(self, state: State, orphaned: Orphaned, removed: Removed) -> None:
        self._state = state
        self._orphaned = orphaned
        self._on_removed = removed
        self._channel = channel(state.settings.queue_address)
        self.stub = queue_pb2_grpc.QueueServiceStub(self._channel)
        self._call: grpc.aio.StreamStreamCall[pb.FeedRequest, pb.FeedResponse] | None = None
        self._answers: AsyncIterator[pb.FeedResponse]
        self._remove: list[bytes] = []
        self._validity_due = self._opened = False
        self._paused_due = True
        self._closed = False
        self.queue_incarnation = ""  # of the queue service, from its hello on
        # Of this life alone: gRPC may leave a broken stream's request iterator waiting, and it must not eat our news.
        self._news = state.fed = asyncio.Event()

    async def open(self) -> dict[int, int]:
        """Connects; the highest epochs that the queue service has seen."""
        self._call = self.stub.Feed(self._requests())
        self._answers = aiter(self._call)
        async with asyncio.timeout(HELLO_TIMEOUT):
            first = await anext(self._answers, None)
        if first is None or not first.HasField("hello"):
            raise ConnectionError("the queue service said no hello")
        self.queue_incarnation = first.hello.incarnation
        return {e.shard: e.epoch for e in first.hello.epochs}

    async def close(self) -> None:
        self._closed = True
        self._news.set()  # ends the request iterator
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()

    def prolong(self) -> None:
        """Tells how long our shards are ours. The first time, once they are taken over, opens the feed."""
        self._validity_due = self._opened = True
        self._news.set()

    def pause(self) -> None:
        """The set of paused queues has changed."""
        self._paused_due = True
        self._news.set()

    def remove(self, exec_ids: list[bytes]) -> None:
        self._remove.extend(exec_ids)
        self._news.set()

    async def run(self) -> None:
        """Hears who took what, until the stream ends."""
        async for answer in self._answers:
            now = self._state.clock.monotonic()
            book = self._state.book
            for took in answer.took:
                if not took.worker_id:
                    requested(self._state, took.executor, took.exec_ids)
                    continue
                orphans = book.took(took.worker_id, took.exec_ids, now)
                if orphans:
                    self._orphaned(orphans)
            if answer.removed:
                entries = [book.by_exec[e] for e in answer.removed if e in book.by_exec]
                self._on_removed([e for e in entries if e.phase is Phase.QUEUED])
            if answer.took and self._state.hungry:
                self._state.page_wanted.set()
            if answer.superseded:
                log.warning("the queue service serves a higher epoch than ours")
                self._state.lost.set()

    async def _requests(self) -> AsyncIterator[pb.FeedRequest]:
        state = self._state
        while True:
            await self._news.wait()
            if self._closed:
                return
            self._news.clear()
            if not self._opened:
                continue  # what comes before our epochs would be dropped there: it stays in the outbox
            request = pb.FeedRequest()
            if self._validity_due:
                self._validity_due = False
                left = int(max(0.0, state.valid_until - state.clock.real.monotonic()) * 1000)
                for number, shard in state.book.shards.items():
                    request.shards.add(shard=number, epoch=shard.epoch, valid_ms=left)
            if self._paused_due:
                self._paused_due = False
                request.paused.queues.extend(sorted(state.paused))
            if self._remove:
                request.remove.extend(self._remove)
                self._remove = []
            entries, state.book.outbox = state.book.outbox, []
            size = 0
            groups: defaultdict[tuple[LaneKey, int], list[pb.Assignment]] = defaultdict(list)
            for entry in entries:
                if entry.phase is not Phase.QUEUED:
                    continue  # ended, cancelled or forgotten before it was fed
                task = entry.spec
                task.exec_id, task.attempt, task.tries = entry.exec_id, entry.attempt, entry.tries
                groups[entry.key, entry.shard].append(task)
                size += task.ByteSize()
                if size > MESSAGE_BYTES:
                    self._fill(request, groups)
                    yield request
                    request, size = pb.FeedRequest(), 0
                    groups.clear()
            self._fill(request, groups)
            await reach("coordinator.feed")
            if request.lanes or request.shards or request.remove or request.HasField("paused"):
                yield request

    def _fill(self, request: pb.FeedRequest, groups: dict[tuple[LaneKey, int], list[pb.Assignment]]) -> None:
        for (key, number), tasks in groups.items():
            shard = self._state.book.shards.get(number)
            if shard is not None:
                request.lanes.add(
                    queue=key.queue, task=key.task, priority=key.priority, shard=number, epoch=shard.epoch, tasks=tasks
                )


