"""The stream to the queue service: jobs go down, notices of taken jobs come up."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable

import grpc

from taskflow.v1 import queue_pb2 as pb
from taskflow.v1 import queue_pb2_grpc
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.executor_timeouts import requested
from taskflow_server.core.dispatch.effects import Effects
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.errors import Unavailable
from taskflow_server.core.lanes import LaneKey
from taskflow_server.rpc.server import channel
from taskflow_server.runtime import logs
from taskflow_server.runtime.failpoints import reach

log = logs.get("feed")

MESSAGE_BYTES = 2 << 20
REMOVED_AT_ONCE = 50_000  # exec_ids in one message that removes tasks
HELLO_TIMEOUT = 3.0


class QueueFeed:
    """One connection of the stream. When it breaks, the owner takes its shards over again: the one recovery."""

    def __init__(self, shared: Shared, perform: Callable[[Effects], None]) -> None:
        self._shared = shared
        self._perform = perform
        self._channel = channel(shared.settings.queue_address)
        self.stub = queue_pb2_grpc.QueueServiceStub(self._channel)
        self._call: grpc.aio.StreamStreamCall[pb.FeedRequest, pb.FeedResponse] | None = None
        self._answers: AsyncIterator[pb.FeedResponse]
        self._remove: list[bytes] = []
        self._recalls: dict[bytes, asyncio.Future[bool]] = {}
        self._validity_due = self._opened = False
        self._paused_due = True
        self._closed = False
        self.queue_incarnation = ""  # of the queue service, known after its hello
        # One per connection: gRPC may leave a broken stream's request iterator waiting, which would consume events.
        self._news = shared.fed = asyncio.Event()
        shared.take_back = self.remove

    async def open(self) -> dict[int, int]:
        """Connects, and returns the highest epochs that the queue service has seen."""
        self._call = self.stub.Feed(self._requests())
        self._answers = aiter(self._call)
        async with asyncio.timeout(HELLO_TIMEOUT):
            first = await anext(self._answers, None)
        if first is None or not first.HasField("hello"):
            raise ConnectionError("the queue service sent no hello")
        self.queue_incarnation = first.hello.incarnation
        if first.hello.memory_bytes:
            self._shared.queue_memory = first.hello.memory_bytes
        return {e.shard: e.epoch for e in first.hello.epochs}

    async def close(self) -> None:
        self._closed = True
        self._news.set()  # ends the request iterator
        for future in self._recalls.values():
            if not future.done():
                future.set_exception(Unavailable("the queue service disconnected; retry", "COMMIT_PENDING"))
        self._recalls.clear()
        if self._call is not None:
            self._call.cancel()
        await self._channel.close()

    def prolong(self) -> None:
        """Sends the validity of the shards. The first call, after the takeover, opens the feed."""
        self._validity_due = self._opened = True
        self._news.set()

    def pause(self) -> None:
        """Call when the set of paused queues has changed."""
        self._paused_due = True
        self._news.set()

    def remove(self, exec_ids: list[bytes]) -> None:
        self._remove.extend(exec_ids)
        self._news.set()

    async def recall(self, exec_id: bytes) -> bool:
        """Removes a task for the caller: True once it is removed, False when it was taken before."""
        future = self._recalls.get(exec_id)
        if future is None:
            future = self._recalls[exec_id] = asyncio.get_running_loop().create_future()
            self.remove([exec_id])
        return await asyncio.shield(future)

    def _answer_recalls(self, exec_ids: Iterable[bytes], *, removed: bool) -> None:
        for exec_id in exec_ids:
            future = self._recalls.pop(exec_id, None)
            if future is not None and not future.done():
                future.set_result(removed)

    async def run(self) -> None:
        """Receives notices of taken and removed tasks, until the stream ends."""
        async for answer in self._answers:
            now = self._shared.clock.monotonic()
            table = self._shared.table
            for took in answer.took:
                if self._recalls:
                    self._answer_recalls(took.exec_ids, removed=False)
                if not took.worker_id:
                    requested(self._shared, took.executor, took.exec_ids)
                    continue
                effects = table.took(took.worker_id, took.exec_ids, now)
                if effects.ends or table.outbox:
                    self._perform(effects)
            if table.cancel_taken:
                # A cancel found it in the queue, but it was taken first: it is not removed, and ends now (A13).
                table.cancel_taken = False
                self._shared.cancels_wanted.set()
            if answer.removed:
                # A recalled task belongs to the caller of `recall`, which also checks for a cancel.
                entries = [table.by_exec[e] for e in answer.removed if e in table.by_exec and e not in self._recalls]
                self._answer_recalls(answer.removed, removed=True)
                self._perform(table.removed([e for e in entries if e.phase is Phase.QUEUED]))
            if answer.took and self._shared.hungry:
                self._shared.page_wanted.set()
            if answer.superseded:
                log.warning("the queue service serves a higher epoch than ours")
                self._shared.lost.set()

    async def _requests(self) -> AsyncIterator[pb.FeedRequest]:
        shared = self._shared
        while True:
            await self._news.wait()
            if self._closed:
                return
            self._news.clear()
            if not self._opened:
                continue  # the queue service drops jobs that arrive before the epochs, so they stay in the outbox
            request = pb.FeedRequest()
            if self._validity_due:
                self._validity_due = False
                left = int(max(0.0, shared.valid_until - shared.clock.real.monotonic()) * 1000)
                for number, shard in shared.table.shards.items():
                    request.shards.add(shard=number, epoch=shard.epoch, valid_ms=left)
            if self._paused_due:
                self._paused_due = False
                request.paused.queues.extend(sorted(shared.paused))
            if self._remove:
                request.remove.extend(self._remove[:REMOVED_AT_ONCE])
                del self._remove[:REMOVED_AT_ONCE]
                if self._remove:
                    self._news.set()
            entries, shared.table.outbox = shared.table.outbox, []
            size = 0
            groups: defaultdict[tuple[LaneKey, int, bool], list[Entry]] = defaultdict(list)
            for entry in entries:
                if entry.phase is not Phase.QUEUED:
                    continue  # ended, cancelled or forgotten before it was fed
                if entry.yielding:  # before it was fed
                    shared.table.yielded(entry)
                    continue
                task = entry.spec
                if task.fault:
                    shared.fail_unreadable([entry])
                    continue
                if entry.fed:  # once, and its payload was not kept
                    shared.without_payload.append(entry)
                    shared.payloads_wanted.set()
                    continue
                task.exec_id, task.attempt, task.tries = entry.exec_id, entry.attempt, entry.tries
                task.due_us = entry.due_us
                groups[entry.key, entry.shard, entry.first].append(entry)
                size += entry.size
                if size > MESSAGE_BYTES:
                    self._fill(request, groups)
                    yield request
                    request, size = pb.FeedRequest(), 0
                    groups.clear()
            self._fill(request, groups)
            await reach("coordinator.feed")
            if request.lanes or request.shards or request.remove or request.HasField("paused"):
                yield request

    def _fill(self, request: pb.FeedRequest, groups: dict[tuple[LaneKey, int, bool], list[Entry]]) -> None:
        """Fills a message. The queue service then has the payloads; one that is fed once more is read again."""
        for (key, number, first), entries in groups.items():
            shard = self._shared.table.shards.get(number)
            if shard is not None:
                tasks = [entry.spec for entry in entries]
                request.lanes.add(
                    queue=key.queue,
                    task=key.task,
                    priority=key.priority,
                    shard=number,
                    epoch=shard.epoch,
                    tasks=tasks,
                    first=first,
                )
                self._shared.table.fed(entries)
