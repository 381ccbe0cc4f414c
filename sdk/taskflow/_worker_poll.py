"""Long polls at the queue services: always one under way for the free slots, a second when many more come free."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from taskflow._clock import SYSTEM
from taskflow._worker_session import is_cancelled
from taskflow._worker_timers import Wakeup
from taskflow.v1 import queue_pb2, queue_pb2_grpc

if TYPE_CHECKING:
    from taskflow._worker import Worker

log = logging.getLogger("taskflow")

POLL_SECONDS = 30.0
MAX_PER_POLL = 1_000
_SLACK_SECONDS = 10.0
_GATHER_SECONDS = 0.001  # slots that come free together are asked for together
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 1.0


class Pool:
    """Slots that one kind of poll fills: those of async and thread handlers together, or of one handler's processes."""

    def __init__(self, capacity: int, tasks: list[str], queue_handlers: list[str]) -> None:
        self.capacity = capacity
        self.tasks = tasks
        self.queue_handlers = queue_handlers
        self.used = 0
        self.promised = 0  # asked for by polls under way
        self.freed = Wakeup()

    @property
    def free(self) -> int:
        return self.capacity - self.used - self.promised

    def release(self) -> None:
        self.used -= 1
        self.freed.wake()


class Poller:
    """Fills one pool from one queue service."""

    def __init__(self, worker: Worker, pool: Pool, queue_name: str) -> None:
        self._worker = worker
        self._pool = pool
        self._queue_name = queue_name
        self._under_way: set[asyncio.Task[None]] = set()
        self._changed = pool.freed
        self._backoff = 0.0
        self._said_away = False
        self.stopped = False

    async def run(self) -> None:
        while not self.stopped:
            if not self._worker.may_poll():
                await self._worker.standing.wait()
                continue
            if self._backoff:
                await SYSTEM.sleep(self._backoff)
            want = await self._wanted()
            if not self._worker.may_poll():
                continue  # a coordinator went meanwhile: `standing` says when one is back, `changed` would not
            if want and not self.stopped:
                self._pool.promised += want
                task = self._worker.io.spawn(self._poll(want))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            elif not self.stopped:
                await self._changed.wait()

    async def _wanted(self) -> int:
        """How many to ask for now; 0: wait for a change."""
        pool, polls = self._pool, len(self._under_way)
        good_share = max(1, pool.capacity // 4)
        if polls >= 2 or pool.free < (good_share if polls else 1):
            return 0
        if pool.free < good_share:
            await SYSTEM.sleep(_GATHER_SECONDS)
        services = max(1, self._worker.queue_services)
        return min(MAX_PER_POLL, max(1, pool.free // services)) if pool.free > 0 else 0

    async def _poll(self, want: int) -> None:
        pool, worker = self._pool, self._worker
        registration = worker.registration
        request = queue_pb2.PollRequest(
            worker_id=registration.worker_id,
            tasks=pool.tasks,
            queue_handlers=pool.queue_handlers,
            queues=worker.options.queues,
            max=want,
            timeout_ms=int(POLL_SECONDS * 1000),
        )
        try:
            stub: Any = queue_pb2_grpc.QueueServiceStub(await worker.queue_channel(self._queue_name))
            answer = await stub.Poll(request, timeout=POLL_SECONDS + _SLACK_SECONDS)
            self._backoff, self._said_away = 0.0, False
        except grpc.aio.AioRpcError as error:
            answer = None
            self._failed(error)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            answer = None
        finally:
            pool.promised -= want
            self._done(asyncio.current_task())
        if answer is not None:
            worker.receive(answer.lanes, registration)
            worker.quiet.wake()

    def _done(self, poll: asyncio.Task[None] | None) -> None:
        """Counts it out before the wake: `_wanted` would find it under way still, and wait for no other."""
        if poll is not None:
            self._under_way.discard(poll)
        self._changed.wake()

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        self._worker.refresh_topology()
        if not self._said_away:
            self._said_away = True
            log.warning("cannot poll queue service %s (%s); trying on", self._queue_name, str(error.details())[:160])

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def close(self) -> None:
        """Begins no further poll."""
        self.stopped = True
        self._changed.wake()
        self._worker.standing.wake()

    def stop(self) -> None:
        """Polls under way are given up: what one was just bringing is taken back by the coordinator."""
        self.close()
        for task in list(self._under_way):
            task.cancel()
