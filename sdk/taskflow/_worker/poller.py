"""Polls at the queue services: always one under way for the free slots, a second when many more come free.

While handlers end quickly, a poll also prefetches: it asks for more than the free slots. It waits at the queue service
for the free slots only, so that a job that is submitted while every slot is busy goes to another worker.

Ordering keys do not exist yet. The queue service must then count a job as handed out from the poll's answer on: two
jobs of one key must not be in one worker at once, one running and one prefetched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from taskflow._transport.channels import ask
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import IoThread
from taskflow._worker.attempt import Attempt
from taskflow._worker.calls import is_cancelled
from taskflow._worker.pool import Pool
from taskflow._worker.timers import Wakeup
from taskflow._worker.topology import TopologyWatch
from taskflow.v1 import queue_pb2, queue_pb2_grpc

log = logging.getLogger("taskflow")

POLL_SECONDS = 30.0
MAX_PER_POLL = 1_000
_SLACK_SECONDS = 10.0
_GATHER_SECONDS = 0.001  # slots that come free together are asked for together
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class PollPorts:
    """The interface that polls need of their worker."""

    io: IoThread
    topology: TopologyWatch
    queues: list[str]
    """The only ones to poll for; none: all."""
    may_poll: Callable[[], bool]
    can_poll: Wakeup
    """Whenever `may_poll` may have become true."""
    worker_id: Callable[[], bytes]
    receive: Callable[[Iterable[queue_pb2.LaneTasks], bytes], None]
    """A poll's answer, and the worker_id that it was asked for under."""


class Poller:
    """Fills one pool from one queue service."""

    def __init__(self, ports: PollPorts, pool: Pool[Attempt], queue_name: str) -> None:
        self._ports = ports
        self._topology = ports.topology
        self._pool = pool
        self._queue_name = queue_name
        self._under_way: set[asyncio.Task[None]] = set()
        self._changed = pool.freed
        self._backoff = 0.0
        self._empty_at = -1  # `ended` of the pool when a poll to prefetch found no job
        self._said_away = False
        self.stopped = False

    async def run(self) -> None:
        while not self.stopped:
            if not self._ports.may_poll():
                await self._ports.can_poll.wait()
                continue
            if self._backoff:
                await SYSTEM.sleep(self._backoff)
            slots, prefetch = await self._wanted()
            if not self._ports.may_poll():
                continue  # a coordinator went meanwhile: `can_poll` says when one is back, `changed` would not
            if slots + prefetch and not self.stopped:
                self._pool.promised += slots
                self._pool.prefetching += prefetch
                task = self._ports.io.spawn(self._poll(slots, prefetch))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            elif not self.stopped:
                await self._changed.wait()

    async def _wanted(self) -> tuple[int, int]:
        """How many attempts to ask for now: for free slots, and to prefetch. 0, 0: wait for a change."""
        pool, polls = self._pool, len(self._under_way)
        good_share = max(1, pool.capacity // 4)
        services = max(1, len(self._topology.queues))
        if polls >= 2:
            return 0, 0
        if pool.free >= (good_share if polls else 1):
            if pool.free < good_share:
                await SYSTEM.sleep(_GATHER_SECONDS)
            slots = min(MAX_PER_POLL, max(1, pool.free // services)) if pool.free > 0 else 0
            return slots, min(MAX_PER_POLL - slots, pool.prefetchable(SYSTEM.monotonic()) // services)
        now = SYSTEM.monotonic()
        room = pool.prefetchable(now)
        # Every slot is busy, so a poll is not urgent, and one for many jobs is cheaper than many for one. After a poll
        # that found none, the next one waits until a handler has ended: it does not wait at the queue service.
        if room < max(1, pool.prefetch.allowed(now) // 4) or self._empty_at == pool.ended:
            return 0, 0
        return 0, min(MAX_PER_POLL, room // services)

    async def _poll(self, slots: int, prefetch: int) -> None:
        pool = self._pool
        worker_id = self._ports.worker_id()
        request = queue_pb2.PollRequest(
            worker_id=worker_id,
            tasks=pool.tasks,
            queue_handlers=pool.queue_handlers,
            queues=self._ports.queues,
            max=slots + prefetch,
            prefetch=prefetch,
            timeout_ms=int(POLL_SECONDS * 1000) if slots else 0,
        )
        answer = None
        try:
            stub: Any = queue_pb2_grpc.QueueServiceStub(await self._topology.queue(self._queue_name))
            answer = await ask(stub.Poll, request, POLL_SECONDS + _SLACK_SECONDS)
            if self._said_away:
                log.warning("queue service %s answers again", self._queue_name)
            self._backoff, self._said_away = 0.0, False
        except grpc.aio.AioRpcError as error:
            self._failed(error)
        except asyncio.CancelledError:
            if is_cancelled():
                raise
        finally:
            pool.promised -= slots
            pool.prefetching -= prefetch
            self._empty_at = pool.ended if answer is not None and not answer.lanes and not slots else -1
            self._done(asyncio.current_task())
        if answer is not None:
            self._ports.receive(answer.lanes, worker_id)

    def _done(self, poll: asyncio.Task[None] | None) -> None:
        """Counts it out before the wake: `_wanted` would find it under way still, and wait for no other."""
        if poll is not None:
            self._under_way.discard(poll)
        self._changed.wake()

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF), _LONGEST_BACKOFF)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return
        self._topology.refresh()
        if not self._said_away:
            self._said_away = True
            log.warning("cannot poll queue service %s (%s); retrying", self._queue_name, str(error.details())[:160])

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def close(self) -> None:
        """Begins no further poll."""
        self.stopped = True
        self._changed.wake()
        self._ports.can_poll.wake()

    def give_up(self) -> None:
        """Ends the polls under way: what one was just bringing is taken back by the coordinator."""
        for task in list(self._under_way):
            task.cancel()

    def stop(self) -> None:
        """Ends the polls under way and begins no further one."""
        self.close()
        self.give_up()
