"""The pending tasks of this queue service, and the polls that wait for them.

Invariants: only the highest epoch of a shard is served, and nothing of it past its owner's validity (A7); a task
leaves once, to one poll, and its owner is notified; it is removed or taken, never both.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from taskflow.v1.queue_pb2 import (
    Assignment,
    LaneStats,
    LaneTasks,
    PollRequest,
    PollResponse,
    ShardValidity,
    StatsResponse,
    Taker,
)
from taskflow_server.core.clock import Clock
from taskflow_server.core.ids import shard_and_epoch
from taskflow_server.core.lanes import LaneKey
from taskflow_server.queue.coordinator_link import CoordinatorLink

MOST_EXECUTORS = 10_000  # different polls of executors that are remembered
ANSWER_BYTES = 4 << 20  # a poll's answer stays well below the message limit
_TASK_OVERHEAD = 250  # bytes of an Assignment message besides its contents, measured


@dataclass(slots=True)
class PendingLane:
    key: LaneKey
    shard: int
    epoch: int
    since: float  # when its first task came, or it was last taken from in its turn
    tasks: deque[Assignment] = field(default_factory=deque)
    size: int = 0  # bytes of them, about
    served: int = 0  # when it was last taken from; equal priorities take turns
    passed: int = 0  # jobs asked for by polls that found a higher priority, since a lane last went before its turn


@dataclass(slots=True)
class OpenShard:
    epoch: int
    valid_until: float
    link: CoordinatorLink


@dataclass(slots=True, eq=False)
class Waiter:
    request: PollRequest
    future: asyncio.Future[PollResponse]


@dataclass(frozen=True, slots=True)
class Aging:
    """When a lane goes before one of a higher priority (R13)."""

    seconds: float  # that it has waited for each step between the two; 0: never
    one_in: int  # at most one job in this number goes first in this way


class Pending:
    def __init__(self, clock: Clock, aging: Aging, executor_seen: float = 60.0) -> None:
        self._clock = clock
        self._aging = aging
        self._executor_seen = executor_seen
        self._executors: dict[bytes, float] = {}  # names that executors polled for, and the time of the last poll
        self.shards: dict[int, OpenShard] = {}
        self._lanes: dict[LaneKey, PendingLane] = {}
        self._of_task: defaultdict[str, dict[LaneKey, PendingLane]] = defaultdict(dict)
        self._of_queue: defaultdict[str, dict[LaneKey, PendingLane]] = defaultdict(dict)  # jobs without a task
        self._task_waiters: defaultdict[str, dict[Waiter, None]] = defaultdict(dict)
        self._queue_waiters: defaultdict[str, dict[Waiter, None]] = defaultdict(dict)
        self._waiting = 0
        self.size = 0  # bytes of all tasks, about
        self._dirty: set[LaneKey] = set()
        self._turn = 0

    # -- from coordinators -------------------------------------------------------------------
    def open(self, validity: ShardValidity, link: CoordinatorLink) -> bool:
        """Opens a shard's epoch, or prolongs it. False: a higher one is open."""
        now = self._clock.monotonic()
        shard = self.shards.get(validity.shard)
        if shard is not None and shard.epoch > validity.epoch:
            return False
        if shard is None or shard.epoch < validity.epoch:
            for key in [k for k, lane in self._lanes.items() if lane.shard == validity.shard]:
                self._drop(key)
        stale = shard is not None and shard.valid_until <= now
        self.shards[validity.shard] = OpenShard(validity.epoch, now + validity.valid_ms / 1000, link)
        if stale:
            self._touch(k for k, lane in self._lanes.items() if lane.shard == validity.shard)
        return True

    def feed(self, group: LaneTasks) -> None:
        """Tasks of an epoch that is not open are dropped: their owner is superseded."""
        shard = self.shards.get(group.shard)
        if shard is None or shard.epoch != group.epoch:
            return
        key = LaneKey(group.queue, group.task, group.priority)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = PendingLane(key, group.shard, group.epoch, self._clock.monotonic())
            (self._of_task[key.task] if key.task else self._of_queue[key.queue])[key] = lane
        if group.first:
            lane.tasks.extendleft(reversed(group.tasks))
        else:
            lane.tasks.extend(group.tasks)
        self._weigh(lane, _bytes_of(group.tasks))
        self._touch((key,))

    def pause(self, link: CoordinatorLink, queues: Iterable[str]) -> None:
        """Dispatches nothing of these queues of the link's shards, until another set comes."""
        before, link.paused = link.paused, frozenset(queues)
        self._touch(key for key in self._lanes if key.queue in before - link.paused)

    def remove(self, exec_ids: Iterable[bytes]) -> list[bytes]:
        """Removes tasks; those that are not here have been taken, which `took` reports or has reported."""
        wanted = set(exec_ids)
        shards = {shard_and_epoch(e)[0] for e in wanted}
        removed = []
        for lane in [lane for lane in self._lanes.values() if lane.shard in shards]:
            found = [t for t in lane.tasks if t.exec_id in wanted]
            if found:
                removed += [t.exec_id for t in found]
                lane.tasks = deque(t for t in lane.tasks if t.exec_id not in wanted)
                self._weigh(lane, -_bytes_of(found))
            if not lane.tasks:
                self._drop(lane.key)
        return removed

    def _drop(self, key: LaneKey) -> None:
        lane = self._lanes.pop(key, None)
        if lane is None:
            return
        self.size -= lane.size
        index, name = (self._of_task, key.task) if key.task else (self._of_queue, key.queue)
        index[name].pop(key, None)
        if not index[name]:
            del index[name]

    def _weigh(self, lane: PendingLane, by: int) -> None:
        lane.size += by
        self.size += by

    # -- executors -----------------------------------------------------------------------------
    def seen(self, request: PollRequest) -> None:
        """Records the poll of an executor."""
        taker = Taker(tasks=request.tasks, queue_handlers=request.queue_handlers, queues=request.queues)
        self._executors[taker.SerializeToString(deterministic=True)] = self._clock.monotonic()
        if len(self._executors) > MOST_EXECUTORS:
            self._forget_executors()

    def _forget_executors(self) -> None:
        """Drops executors that have not polled for a while; beyond the limit, also those that polled longest ago."""
        first = self._clock.monotonic() - self._executor_seen
        latest = sorted(self._executors.items(), key=lambda item: -item[1])[: MOST_EXECUTORS // 2]
        self._executors = {taker: at for taker, at in latest if at >= first}

    # -- from workers ------------------------------------------------------------------------
    def take(self, request: PollRequest, most: int) -> PollResponse | None:
        """Up to `most` tasks for this poll, highest priority first, but for lanes that have waited too long (R13).

        None when there is nothing for it.
        """
        now = self._clock.monotonic()
        only = set(request.queues)
        lanes = []
        for index, names in ((self._of_task, request.tasks), (self._of_queue, request.queue_handlers)):
            for name in names:
                for lane in index.get(name, {}).values():
                    shard = self.shards[lane.shard]
                    queue = lane.key.queue
                    held = shard.valid_until <= now or queue in shard.link.paused
                    if not held and (not only or queue in only):
                        lanes.append(lane)
        if not lanes:
            return None
        answer = PollResponse()
        room, size = most, 0
        if len(lanes) > 1:
            lanes.sort(key=lambda lane: (-lane.key.priority, lane.served))
            aged = self._aged(lanes, most, now)
            if aged is not None:
                size = self._hand_out(aged, max(1, most // self._aging.one_in), size, request, answer)
                room -= len(answer.lanes[0].tasks)
        for lane in lanes:
            if room <= 0 or size >= ANSWER_BYTES:
                break
            if not lane.tasks:
                continue  # all of it went before its turn
            lane.since, lane.passed = now, 0
            size = self._hand_out(lane, room, size, request, answer)
            room -= len(answer.lanes[-1].tasks)
        return answer

    def _aged(self, lanes: list[PendingLane], most: int, now: float) -> PendingLane | None:
        """The lane of a lower priority that goes before its turn now; lanes that have waited too long take turns.

        After one of them, all wait again until `one_in` jobs have passed, which bounds their share.
        """
        highest, aging = lanes[0].key.priority, self._aging
        found: PendingLane | None = None
        for lane in reversed(lanes):
            steps = highest - lane.key.priority
            if not steps:
                break
            lane.passed += most
            overdue = lane.passed >= aging.one_in and now - lane.since >= steps * aging.seconds > 0
            if overdue and (found is None or lane.served < found.served):
                found = lane
        if found is not None:
            for lane in lanes:
                lane.passed = 0
        return found

    def _hand_out(self, lane: PendingLane, room: int, size: int, request: PollRequest, answer: PollResponse) -> int:
        """Adds up to `room` tasks of this lane to an answer of `size` bytes; its size then."""
        taken = []
        before = size
        while lane.tasks and room > 0 and size < ANSWER_BYTES:
            task = lane.tasks.popleft()
            size += task.ByteSize()
            room -= 1
            taken.append(task)
        self._weigh(lane, before - size - len(taken) * _TASK_OVERHEAD)
        self._turn += 1
        lane.served = self._turn
        key = lane.key
        answer.lanes.add(
            queue=key.queue, task=key.task, priority=key.priority, shard=lane.shard, epoch=lane.epoch, tasks=taken
        )
        link, exec_ids = self.shards[lane.shard].link, [t.exec_id for t in taken]
        if request.worker_id:
            link.took(request.worker_id, exec_ids)
        else:
            link.took_without_session(request.executor, exec_ids)
        if not lane.tasks:
            self._drop(key)
        return size

    def wait(self, request: PollRequest) -> Waiter:
        waiter = Waiter(request, asyncio.get_running_loop().create_future())
        self._waiting += 1
        for name in request.tasks:
            self._task_waiters[name][waiter] = None
        for name in request.queue_handlers:
            self._queue_waiters[name][waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        self._waiting -= 1
        for index, names in (
            (self._task_waiters, waiter.request.tasks),
            (self._queue_waiters, waiter.request.queue_handlers),
        ):
            for name in names:
                waiters = index.get(name)
                if waiters is not None:
                    waiters.pop(waiter, None)
                    if not waiters:
                        del index[name]

    def release(self) -> None:
        """Answers every waiting poll with nothing: this process stops."""
        for waiters in (*self._task_waiters.values(), *self._queue_waiters.values()):
            for waiter in waiters:
                if not waiter.future.done():
                    waiter.future.set_result(PollResponse())

    def _touch(self, keys: Iterable[LaneKey]) -> None:
        """Answers waiting polls once this turn of the loop has brought all that it brings."""
        first = not self._dirty
        self._dirty.update(keys)
        if first and self._dirty:
            asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for key in dirty:
            lane = self._lanes.get(key)
            index, name = (self._task_waiters, key.task) if key.task else (self._queue_waiters, key.queue)
            waiters = [w for w in index.get(name, ()) if not w.future.done()]
            while lane is not None and lane.tasks and waiters:
                waiter = waiters.pop(0)
                # Several idle workers share the new jobs, so that the first one does not take all.
                share = -(-len(lane.tasks) // (len(waiters) + 1))
                free = (waiter.request.max or 1) - waiter.request.prefetch
                answer = self.take(waiter.request, min(free, max(share, 1)))
                if answer is not None:
                    waiter.future.set_result(answer)
                lane = self._lanes.get(key)

    # -- for people --------------------------------------------------------------------------
    @property
    def depth(self) -> int:
        """Tasks in all lanes. From any thread: the list is taken in one step."""
        return sum(len(lane.tasks) for lane in list(self._lanes.values()))

    @property
    def lanes(self) -> int:
        return len(self._lanes)

    @property
    def polls(self) -> int:
        return self._waiting

    def stats(self) -> StatsResponse:
        answer = StatsResponse(waiting_polls=self._waiting)
        for key, lane in self._lanes.items():
            answer.lanes.append(
                LaneStats(
                    queue=key.queue, task=key.task, priority=key.priority, pending=len(lane.tasks),
                    memory_bytes=lane.size,
                )
            )  # fmt: skip
            answer.memory_bytes += lane.size
        self._forget_executors()
        answer.executors.extend(map(Taker.FromString, self._executors))
        return answer


def _bytes_of(tasks: Sequence[Assignment]) -> int:
    """The memory that these tasks take."""
    return sum(map(Assignment.ByteSize, tasks)) + len(tasks) * _TASK_OVERHEAD
