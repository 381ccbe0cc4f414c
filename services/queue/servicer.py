"""QueueService: polls, feeds, numbers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from taskflow.v1 import queue_pb2 as pb
from taskflow.v1 import queue_pb2_grpc
from taskflow.v1.worker_pb2 import ShardEpoch
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.queue.coordinator_link import CoordinatorLink
from taskflow_server.queue.pending import Pending
from taskflow_server.runtime.failpoints import reach

MAX_TASKS = 1000
MAX_WAIT_MS = 60_000


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    def __init__(self, pending: Pending, closing: asyncio.Event, incarnation: UUID, memory_bytes: int) -> None:
        self._pending = pending
        self._memory_bytes = memory_bytes
        self._closing = closing
        self._incarnation = str(incarnation)

    async def Poll(self, request: pb.PollRequest, context: Any) -> pb.PollResponse:
        _check(request)
        if request.HasField("executor"):
            self._pending.seen(request)
        answer = self._pending.take(request, request.max or 1)
        waits = request.timeout_ms and request.prefetch < (request.max or 1)
        if answer is None and waits and not self._closing.is_set():
            answer = await self._wait(request)
        if answer is None:
            return pb.PollResponse()
        await reach("queue.answer")
        return answer

    async def _wait(self, request: pb.PollRequest) -> pb.PollResponse | None:
        waiter = self._pending.wait(request)
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                return await waiter.future
        except TimeoutError:
            return None
        finally:
            self._pending.leave(waiter)

    async def release_at_stop(self) -> None:
        """Polls must not hold up a stop."""
        await self._closing.wait()
        self._pending.release()

    async def Stats(self, request: pb.StatsRequest, context: Any) -> pb.StatsResponse:
        return self._pending.stats()

    async def Feed(self, requests: AsyncIterator[pb.FeedRequest], context: Any) -> AsyncIterator[pb.FeedResponse]:
        link = CoordinatorLink()
        epochs = [ShardEpoch(shard=n, epoch=s.epoch) for n, s in self._pending.shards.items()]
        hello = pb.Hello(incarnation=self._incarnation, epochs=epochs, memory_bytes=self._memory_bytes)
        yield pb.FeedResponse(hello=hello)
        reader = asyncio.create_task(self._read(requests, link))
        closer = asyncio.create_task(self._close(link))
        try:
            while (answer := await link.next()) is not None:
                yield answer
        finally:
            reader.cancel()
            closer.cancel()

    async def _read(self, requests: AsyncIterator[pb.FeedRequest], link: CoordinatorLink) -> None:
        try:
            async for request in requests:
                if request.HasField("paused"):
                    self._pending.pause(link, request.paused.queues)
                for validity in request.shards:
                    if not self._pending.open(validity, link):
                        link.superseded(validity.shard, self._pending.shards[validity.shard].epoch)
                for group in request.lanes:
                    self._pending.feed(group)
                if request.remove:
                    link.removed(self._pending.remove(request.remove))
        finally:
            link.close()

    async def _close(self, link: CoordinatorLink) -> None:
        await self._closing.wait()
        link.close()


def _check(request: pb.PollRequest) -> None:
    if request.HasField("executor"):
        if request.worker_id:
            raise InvalidArgument("worker_id: an executor has none; leave it empty", "worker_id")
    elif len(request.worker_id) != 16:
        raise InvalidArgument("worker_id: must be the 16 bytes that the worker registered with", "worker_id")
    if not request.tasks and not request.queue_handlers:
        raise InvalidArgument("tasks, queue_handlers: name at least one of either", "tasks")
    if not 0 <= request.max <= MAX_TASKS:
        raise InvalidArgument(f"max: {request.max} is not between 1 and {MAX_TASKS}", "max")
    if not 0 <= request.prefetch <= (request.max or 1):
        raise InvalidArgument(f"prefetch: {request.prefetch} is not between 0 and max, {request.max or 1}", "prefetch")
    if not 0 <= request.timeout_ms <= MAX_WAIT_MS:
        raise InvalidArgument(f"timeout_ms: {request.timeout_ms} is not between 0 and {MAX_WAIT_MS}", "timeout_ms")
