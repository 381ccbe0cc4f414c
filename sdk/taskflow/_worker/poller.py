"""Polls at the queue services: always one under way for the free slots, a second when many more come free.

While handlers end quickly, a poll also prefetches: it asks for more than the free slots. It waits at the queue service
for the free slots only, so that a job that is submitted while every slot is busy goes to another worker.

Ordering keys do not exist yet. The queue service must then count a job as handed out from the poll's answer on: two
jobs of one key must not be in one worker at once, one running and one prefetched.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from taskflow._transport.channels import ask
from taskflow._transport.clock import SYSTEM
from taskflow._worker.prefetch import Prefetch
from taskflow._worker.session import is_cancelled
from taskflow._worker.timers import Wakeup
from taskflow.v1 import queue_pb2, queue_pb2_grpc

if TYPE_CHECKING:
    from taskflow._worker.attempt import Attempt
    from taskflow._worker.worker import Worker

log = logging.getLogger("taskflow")

POLL_SECONDS = 30.0
MAX_PER_POLL = 1_000
_SLACK_SECONDS = 10.0
_GATHER_SECONDS = 0.001  # slots that come free together are asked for together
_TICK = 0.001  # seconds
_FIRST_BACKOFF, _LONGEST_BACKOFF = 0.1, 1.0


class Pool:
    """Slots that one kind of poll fills: those of async and thread handlers together, or of one handler's processes.

    Received attempts start in order, as far as there are slots; the others are prefetched: `prefetch` seconds of work.
    """

    def __init__(self, capacity: int, tasks: list[str], queue_handlers: list[str], prefetch: float = 0.0) -> None:
        self.capacity = capacity
        self.tasks = tasks
        self.queue_handlers = queue_handlers
        self.used = 0  # received and not released: in a slot, or prefetched
        self.promised = 0  # slots that polls under way ask for
        self.prefetching = 0  # attempts that they ask for besides
        self.freed = Wakeup()
        self.ended = 0  # slots freed, ever
        self.prefetch = Prefetch(capacity, prefetch)
        self.overdue_handlers = 0  # in slots, whose attempts have ended
        self.watched = False  # a timer will look at the prefetched attempts
        self._prefetched: OrderedDict[bytes, tuple[Attempt, float]] = OrderedDict()  # by exec_id, and since when

    @property
    def free(self) -> int:
        """Slots with no attempt, received or asked for; below 0 by the number of prefetched attempts."""
        return self.capacity - self.used - self.promised

    def prefetchable(self, now: float) -> int:
        """How many more attempts may be prefetched."""
        if self.overdue_handlers >= self.capacity:
            return 0
        return max(0, self.prefetch.allowed(now) + min(0, self.free) - self.prefetching)

    @property
    def prefetched(self) -> int:
        return len(self._prefetched)

    def receive(self, attempt: Attempt, now: float) -> None:
        self.used += 1
        self._prefetched[attempt.exec_id] = attempt, now

    def startable(self) -> list[Attempt]:
        """Takes prefetched attempts for the free slots."""
        slots = self.capacity - (self.used - len(self._prefetched))
        return [self._prefetched.popitem(last=False)[1][0] for _ in range(min(slots, len(self._prefetched)))]

    def release(self, attempt: Attempt) -> None:
        self.used -= 1
        if self._prefetched.pop(attempt.exec_id, None) is None:
            self.ended += 1
        else:
            attempt.prefetched = True
        self.freed.wake()

    def occupy(self) -> None:
        """One slot cannot be used for now."""
        self.used += 1

    def vacate(self) -> None:
        self.used -= 1
        self.freed.wake()

    def overdue(self, now: float) -> list[Attempt]:
        """Prefetched attempts that have waited for too long."""
        before = now - self.prefetch.patience
        return [attempt for attempt, since in self._prefetched.values() if since <= before]

    def patience_left(self, now: float) -> float:
        """Seconds until the first of them is overdue; not less than what a timer can tell apart."""
        _, since = next(iter(self._prefetched.values()))
        return max(_TICK, since + self.prefetch.patience - now)


class Poller:
    """Fills one pool from one queue service."""

    def __init__(self, worker: Worker, pool: Pool, queue_name: str) -> None:
        self._worker = worker
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
            if not self._worker.may_poll():
                await self._worker.standing.wait()
                continue
            if self._backoff:
                await SYSTEM.sleep(self._backoff)
            slots, prefetch = await self._wanted()
            if not self._worker.may_poll():
                continue  # a coordinator went meanwhile: `standing` says when one is back, `changed` would not
            if slots + prefetch and not self.stopped:
                self._pool.promised += slots
                self._pool.prefetching += prefetch
                task = self._worker.io.spawn(self._poll(slots, prefetch))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            elif not self.stopped:
                await self._changed.wait()

    async def _wanted(self) -> tuple[int, int]:
        """How many attempts to ask for now: for free slots, and to prefetch. 0, 0: wait for a change."""
        pool, polls = self._pool, len(self._under_way)
        good_share = max(1, pool.capacity // 4)
        services = max(1, self._worker.queue_services)
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
        pool, worker = self._pool, self._worker
        registration = worker.registration
        request = queue_pb2.PollRequest(
            worker_id=registration.worker_id,
            tasks=pool.tasks,
            queue_handlers=pool.queue_handlers,
            queues=worker.options.queues,
            max=slots + prefetch,
            prefetch=prefetch,
            timeout_ms=int(POLL_SECONDS * 1000) if slots else 0,
        )
        answer = None
        try:
            stub: Any = queue_pb2_grpc.QueueServiceStub(await worker.queue_channel(self._queue_name))
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
            log.warning("cannot poll queue service %s (%s); retrying", self._queue_name, str(error.details())[:160])

    @property
    def under_way(self) -> int:
        return len(self._under_way)

    def close(self) -> None:
        """Begins no further poll."""
        self.stopped = True
        self._changed.wake()
        self._worker.standing.wake()

    def give_up(self) -> None:
        """Ends the polls under way: what one was just bringing is taken back by the coordinator."""
        for task in list(self._under_way):
            task.cancel()

    def stop(self) -> None:
        """Ends the polls under way and begins no further one."""
        self.close()
        self.give_up()
