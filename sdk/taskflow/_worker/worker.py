"""The worker: polls for attempts, has them run, and sees that each outcome is acknowledged.

Everything here is on the I/O thread. Invariants: `held` is what this worker has, from receipt to acknowledgement,
and what heartbeats list; an attempt is settled once, and its slot released once; nothing starts without a lease,
under an epoch older than one that was heard, or after it was given up.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import partial

from taskflow._handlers.outcomes import Verdict
from taskflow._jobs.core import Core
from taskflow._messages import ids
from taskflow._transport.clock import SYSTEM, ClusterClock
from taskflow._transport.io_thread import Mailbox
from taskflow._worker.attempt import Attempt, AttemptPorts, HandlerExecutor
from taskflow._worker.calls import CoordinatorCalls
from taskflow._worker.drain import Drain
from taskflow._worker.epochs import Epochs
from taskflow._worker.fenced_starts import FencedStarts
from taskflow._worker.leases import Leases
from taskflow._worker.loop_watchdog import LoopWatchdog
from taskflow._worker.options import RunOptions
from taskflow._worker.overdue import Overdue
from taskflow._worker.poller import Poller, PollPorts
from taskflow._worker.pool import Pool
from taskflow._worker.progress import ProgressSender
from taskflow._worker.reporter import Reporter
from taskflow._worker.session import Session
from taskflow._worker.slots import HandlerSlots
from taskflow._worker.stopper import Stopper, merged
from taskflow._worker.timers import Timers, Wakeup
from taskflow._worker.topology import TopologyWatch
from taskflow.v1 import queue_pb2, worker_pb2

log = logging.getLogger("taskflow")

_MAX_GIVEN_UP = 100_000
_MIN_UNACKNOWLEDGED = 1_000
_TELL_SECONDS = 0.25  # between a start and the heartbeat that tells of it, if it still runs


class Worker:
    """One `run`. To be made on the I/O loop; `handler_loop` is where async handlers run."""

    def __init__(self, core: Core, options: RunOptions, handler_loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop = asyncio.get_running_loop()
        clock, io = core.clock, core.io
        self.clock, self._options = clock, options
        self.spawn = io.spawn
        self.held: dict[bytes, Attempt] = {}
        self.draining = False
        self.can_poll = Wakeup()  # perhaps
        self.idle = Wakeup()  # something was settled or acknowledged, or a poll has ended
        self._telling = False
        self._given_up: OrderedDict[bytes, None] = OrderedDict()
        self._stopping = asyncio.Event()
        self._most_unacknowledged = max(_MIN_UNACKNOWLEDGED, 4 * options.concurrency)
        self.timers = timers = Timers(clock)
        self.epochs = epochs = Epochs()
        self.topology = topology = TopologyWatch(core, timers, self.topology_changed, self.clock_moved)
        self.stopper = stopper = Stopper(
            timers, options.cancel_grace, settle=self.settle, release=self.release, drop=self.drop
        )
        self.overdue = Overdue(options, self.later, self.tell_soon, lambda: self.draining, self.stop)
        self.leases = leases = Leases(self, options, self.held, epochs, topology, timers, stopper)
        calls = CoordinatorCalls(io, topology, leases.worker_id)
        self.reporter = Reporter(calls, clock, epochs, self.held, self.forget)
        self.progress = ProgressSender(calls, clock, epochs, self.later)
        starts = FencedStarts(io, epochs.owner.get, topology.coordinator, topology.refresh)
        self._attempt_ports = AttemptPorts(
            clock,
            leases.may_start,
            Mailbox(loop, self._finished),
            Mailbox(loop, self.progress.noted),
            Mailbox(loop, stopper.arm),
            starts.record,
        )
        self._poll_ports = PollPorts(
            io, topology, options.queues, self.may_poll, self.can_poll, leases.worker_id, self.receive
        )
        self.slots = HandlerSlots(options, handler_loop, io, timers, self.later)
        self._pollers: dict[str, list[Poller]] = {}
        self._watchdog = LoopWatchdog(handler_loop, timers, self.slots.busy_loop(self.held))

    async def run(self) -> None:
        """Until `stop`; then drains. FailedPrecondition when a handler's processes cannot import it."""
        watching: asyncio.Task[None] | None = None
        try:
            if not await self._start_slots():
                return
            watching = self.spawn(self.topology.watch())
            if self.slots.has_async:
                self._watchdog.tick()
            await self._stopping.wait()
            self.draining = True
            drain = Drain(self.held, self.sessions, self.stopper.give_back, self.timers, self.idle)
            await drain.run(self.pollers(), self._options.grace)
        finally:
            if watching is not None:
                watching.cancel()
            self._watchdog.closed = True
            for session in self.sessions():
                session.close(goodbye=False)
            for poller in self.pollers():
                poller.stop()
            await self.slots.close()
            self.timers.close()

    async def _start_slots(self) -> bool:
        """False when it was stopped first: a handler's process may take long to import the handler."""
        starting, stopping = asyncio.ensure_future(self.slots.start()), asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
            return starting.done() and starting.result() is None
        finally:
            starting.cancel()
            stopping.cancel()

    def stop(self) -> None:
        """Begins to drain."""
        self._stopping.set()

    def kill(self) -> None:
        """Ends handler processes at once, from any thread: this process is about to end."""
        self.slots.kill()

    # -- the cluster -----------------------------------------------------------------------------------------------

    def topology_changed(self) -> None:
        self.leases.meet_all()
        for name in self.topology.queues - self._pollers.keys():
            self._pollers[name] = [Poller(self._poll_ports, pool, name) for pool in self.slots.pools]
            for poller in self._pollers[name]:
                if self.draining:
                    poller.stop()
                self.spawn(poller.run())
        for name in self._pollers.keys() - self.topology.queues:
            for poller in self._pollers.pop(name):
                poller.stop()

    def later(self, seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        """In so many seconds of the real clock: for pacing, not for what the protocol measures."""
        return self._loop.call_later(seconds, callback)

    def pollers(self) -> list[Poller]:
        return [poller for pollers in self._pollers.values() for poller in pollers]

    # -- sessions --------------------------------------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        return self.leases.sessions()

    @property
    def overdue_handlers(self) -> int:
        return len(self.overdue)

    def sessions_changed(self) -> None:
        self.can_poll.wake()

    def session_broke(self) -> None:
        """Polls under way could still draw jobs that this worker may not start: they are given up."""
        for poller in self.pollers():
            poller.give_up()
        self.sessions_changed()

    def announce(self, coordinator: str, shards: Iterable[worker_pb2.ShardEpoch]) -> bool:
        """A coordinator said what it owns. Whether an epoch was raised, which it waits to hear confirmed."""
        before = dict(self.epochs.owner)
        raised = set(self.epochs.announce(coordinator, shards))
        if raised:
            for attempt in [a for a in self.held.values() if a.shard in raised and not a.started]:
                if self.epochs.is_stale(attempt.shard, attempt.epoch) and attempt.claim():
                    self.drop(attempt)
        if raised or self.epochs.owner != before:
            self.reporter.owners_changed()
        return bool(raised)

    def give_up(self, exec_id: bytes) -> bool:
        """A void: True if this worker does not have it, and then it will never start it (A6)."""
        if exec_id in self.held:
            return False
        self._given_up[exec_id] = None
        while len(self._given_up) > _MAX_GIVEN_UP:
            self._given_up.popitem(last=False)
        return True

    @property
    def moved_us(self) -> int:
        """How far the clock is ahead of the real one."""
        return self.clock.moved_us if isinstance(self.clock, ClusterClock) else 0

    def clock_moved(self, moved_us: int, *, keep_leases: bool) -> None:
        """The cluster's clock was moved by hand. Heartbeats say that this worker has followed."""
        by = self.clock.move(moved_us) if isinstance(self.clock, ClusterClock) else 0.0
        if by:
            for session in self.sessions():
                if keep_leases:
                    session.prolong(by)
                session.beat()

    # -- attempts --------------------------------------------------------------------------------------------------

    def may_poll(self) -> bool:
        if self.draining or self.reporter.unacknowledged > self._most_unacknowledged:
            return False
        return self.leases.may_poll(self.clock.monotonic())

    def receive(self, lanes: Iterable[queue_pb2.LaneTasks], worker_id: bytes) -> None:
        """A poll's answer, and the worker_id that it was asked for under."""
        now, arrived = self.clock.monotonic(), SYSTEM.monotonic()
        received = []
        for lane in lanes:
            self.epochs.see(lane.shard, lane.epoch)
            slot = self.slots.find(lane.queue, lane.task)
            if worker_id != self.leases.worker_id() or not self.leases.may_start(lane.shard, lane.epoch, now):
                continue  # dropped: the coordinator asks for it back, or counts it as lost with the lease
            if slot is None:
                log.error("queue %s, task %r: handed out to this worker, without a handler", lane.queue, lane.task)
                continue
            for task in lane.tasks:
                if task.exec_id in self._given_up or task.exec_id in self.held:
                    continue
                attempt = Attempt(self._attempt_ports, slot, worker_id, lane, task)
                self.held[attempt.exec_id] = attempt
                slot.pool.receive(attempt, arrived)
                received.append(attempt)
        self.idle.wake()
        if self.draining:
            for attempt in received:
                self.stopper.give_back(attempt)
            return
        for pool in {attempt.pool for attempt in received}:
            self._start(pool)
            if pool.prefetched and not pool.watched:
                pool.watched = True
                self.later(pool.prefetch.patience, partial(self._return_overdue, pool))
        if received:
            self.tell_soon()

    def _start(self, pool: Pool[Attempt]) -> None:
        """Starts prefetched attempts in the free slots, unless the worker drains."""
        if self.draining:
            return
        by_executor: dict[HandlerExecutor, list[Attempt]] = {}
        for attempt in pool.startable():
            by_executor.setdefault(attempt.executor, []).append(attempt)
        for executor, attempts in by_executor.items():
            executor.submit(attempts)

    def _return_overdue(self, pool: Pool[Attempt]) -> None:
        """The present handlers run for longer than the recent ones did: another worker may be free."""
        now = SYSTEM.monotonic()
        overdue = pool.overdue(now)
        if overdue:
            pool.prefetch.stalled()
        for attempt in overdue:
            self.stopper.give_back(attempt)
        pool.watched = pool.prefetched > 0
        if pool.watched:
            self.later(pool.patience_left(now), partial(self._return_overdue, pool))

    def recall(self, queues: Iterable[str]) -> None:
        """These queues are paused: attempts of theirs that have not started are returned."""
        paused = set(queues)
        waiting = [a for a in self.held.values() if a.queue in paused and a.verdict is None and not a.started]
        for attempt in reversed(waiting):  # a slot that is freed first would start one of the later ones
            self.stopper.give_back(attempt)

    def tell_soon(self) -> None:
        """A heartbeat in a moment: jobs that are still here then show as running."""
        if not self._telling:
            self._telling = True
            self.timers.after(_TELL_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = False
        if self.held or self.overdue.changed:
            for session in self.sessions():
                session.beat()

    def _finished(self, ended: deque[tuple[Attempt, Verdict | None, float]]) -> None:
        """From executors: handlers that have ended, and starts that were refused (no verdict)."""
        runs: dict[Pool[Attempt], list[float]] = {}
        try:
            while ended:
                attempt, verdict, at = ended.popleft()
                seconds = runs.setdefault(attempt.pool, [])
                if attempt.started:
                    seconds.append(at - attempt.started)
                if not attempt.released:
                    self._free_slot(attempt)
                if attempt.verdict is not None:
                    continue
                if verdict is None:
                    self.drop(attempt)
                else:
                    self.settle(attempt, merged(attempt.forced, verdict), at)
        finally:  # the slots that have come free together are filled together
            for pool in runs:
                self._start(pool)
        for pool, seconds in runs.items():
            if seconds:
                pool.prefetch.ended(seconds, SYSTEM.monotonic())

    def settle(self, attempt: Attempt, verdict: Verdict, at: float) -> None:
        """Its outcome is known, and is kept until it is acknowledged."""
        attempt.verdict, attempt.ended = verdict, at
        if attempt.released:
            attempt.wire = None
        for timer in attempt.timers:
            timer.cancel()
        attempt.timers.clear()
        if attempt.started and not attempt.released:
            self.overdue.add(attempt)
        if attempt.has_notes:
            self.progress.flush_ended(attempt, self.reporter.add)
        else:
            self.reporter.add(attempt)
        self.idle.wake()

    def release(self, attempt: Attempt) -> None:
        """Its slot is free for the next prefetched attempt."""
        if not attempt.released:
            self._free_slot(attempt)
            self._start(attempt.pool)

    def _free_slot(self, attempt: Attempt) -> None:
        attempt.released = True
        if attempt.verdict is not None:  # only a settled one can be overdue
            self.overdue.discard(attempt)
        attempt.pool.release(attempt)
        self.idle.wake()

    def drop(self, attempt: Attempt) -> None:
        """It never started here and is no longer this worker's."""
        self.release(attempt)
        self.forget(attempt)

    def forget(self, attempt: Attempt) -> None:
        """Acknowledged, or dropped: no heartbeat lists it any more."""
        self.held.pop(attempt.exec_id, None)
        self.leases.forgotten(attempt)
        if self.reporter.unacknowledged == self._most_unacknowledged:
            self.can_poll.wake()
        self.idle.wake()

    def cancel(self, exec_id: bytes, reason: str) -> None:
        """The coordinator asks for an attempt's end."""
        attempt = self.held.get(exec_id)
        if attempt is not None and attempt.verdict is None and attempt.forced is None:
            log.info("job %s is cancelled: %s", ids.show(attempt.job_id), reason)
            self.stopper.cancel(attempt, reason)


