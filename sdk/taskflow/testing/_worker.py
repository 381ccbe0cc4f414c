"""The worker of `taskflow.testing`: the SDK's own attempts, binding, verdicts, timers and stops, fed from memory.

Async handlers run on a `MovedLoop`, by the worker's own executor. Plain ones run there too, one after another, each to
its end: no thread, and no process, is made for a handler. All that happens to a job happens on that loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import secrets
import struct
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from taskflow._handlers.outcomes import Failure, Verdict
from taskflow._handlers.task import Handler
from taskflow._policy import Event, JobState
from taskflow._transport.io_thread import Mailbox
from taskflow._worker.attempt import Attempt, AttemptPorts, HandlerExecutor, HandlerSlot
from taskflow._worker.executors.loop import LoopExecutor
from taskflow._worker.executors.threads import run_plain
from taskflow._worker.options import RunOptions
from taskflow._worker.pool import Pool
from taskflow._worker.stopper import Stopper, merged
from taskflow._worker.timers import Timers
from taskflow.errors import FailedPrecondition
from taskflow.testing._clock import MovedClock, MovedLoop
from taskflow.testing._jobs import MemoryJob
from taskflow.v1 import queue_pb2

EXPIRED = Failure("expired", "it had not started by its start_by")
_CANCELLED = "cancelled before its start"
_EXEC = struct.Struct(">HIxxII")  # as a coordinator makes it: shard, epoch, number, nonce


def _record(attempt: Attempt) -> Future[bool]:
    """There is no cluster: transactions need no fence."""
    answer: Future[bool] = Future()
    answer.set_result(False)
    return answer


class InlineExecutor:
    """Plain handlers, on the loop itself."""

    stoppable = False

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: MovedClock, stopper: Stopper) -> None:
        self._loop = loop
        self._clock = clock
        self._stopper = stopper

    def submit(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._loop.call_soon(self._run, attempt)

    def _run(self, attempt: Attempt) -> None:
        if not attempt.start():
            return
        verdict = run_plain(attempt)
        limit = attempt.timeout
        if limit is not None and self._clock.monotonic() >= attempt.started + limit:
            self._stopper.time_out(attempt)  # the handler itself has moved the clock so far
        attempt.finish(verdict)

    def stop(self, attempt: Attempt, gently: bool) -> None:
        """As in a thread: it can only be asked."""

    async def close(self) -> None:
        pass


class MemoryWorker:
    """Its jobs, from the moment they are ready until they are final."""

    def __init__(
        self,
        handler_of: Callable[[MemoryJob], Handler | None],
        *,
        clock: MovedClock,
        concurrency: int,
        rng: Callable[[], float],
        patience: float,
        limit: int,
    ) -> None:
        self.clock = clock
        self.loop = MovedLoop(clock, lambda: bool(self._held), patience)
        self.timers = Timers(clock)
        self.stopper = Stopper(
            self.timers, RunOptions().cancel_grace, settle=self.settle, release=self.release, drop=self.drop
        )
        self.ended = 0  # attempts, ever
        self.trouble: BaseException | None = None  # for the test to hear of
        self.on_final: Callable[[MemoryJob], None] = lambda job: None
        self._limit = limit
        self._stop_at = limit  # attempts ended
        self._arrived = 0  # since the last run ended
        self._handler_of = handler_of
        self._rng = rng
        self._pool: Pool[Attempt] = Pool(concurrency, [], [])
        self._async = LoopExecutor(self.loop)
        self._inline = InlineExecutor(self.loop, clock, self.stopper)
        self._held: dict[bytes, MemoryJob] = {}  # by exec_id
        self._ready: list[tuple[int, int, int, MemoryJob]] = []
        self._order = itertools.count()
        self._handouts = itertools.count(1)
        self._pumping = self._closed = False
        self._ports = AttemptPorts(
            clock,
            lambda shard, epoch, now: True,
            Mailbox(self.loop, self._finished),
            Mailbox(self.loop, self._noted),
            Mailbox(self.loop, self.stopper.arm),
            _record,
        )

    # -- the test's side -----------------------------------------------------------------------------------------------

    def run_until_idle(self) -> None:
        """On any thread, and on one at a time."""
        self._stop_at = self.ended + self._limit + self._arrived + len(self._ready)
        self._pump_soon()  # a handler may be new
        self.loop.run_until_idle()
        self._arrived = 0
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble

    def arrived(self, job: MemoryJob) -> None:
        """A job is new, or was put back by hand. From any thread."""
        self._arrived += 1
        self.loop.call_soon_threadsafe(self._place, job, job.version)

    def cancel(self, job: MemoryJob, reason: str) -> None:
        """A waiting job is final at once; the handler of a running one is told as soon as the cluster runs (R7)."""
        attempt = job.under_way
        if attempt is not None:
            job.wish_cancel()
            self.loop.call_soon_threadsafe(self.stopper.cancel, attempt, reason)
            return
        job.end_waiting(Failure("cancelled", f"{_CANCELLED}: {reason}" if reason else _CANCELLED))
        self.on_final(job)

    def close(self) -> None:
        """Cancels running attempts and ignores their outcomes. Joins the threads that handlers had the loop make."""
        self._closed = True
        self._held.clear()
        self.timers.close()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_idle()
        self.loop.end()

    # -- waiting jobs: on the loop -------------------------------------------------------------------------------------

    def _place(self, job: MemoryJob, version: int) -> None:
        """Where its state says: ready, or at its time."""
        if job.version != version:
            return
        if job.present_state is not JobState.READY:
            assert job.due is not None
            self.loop.call_at(self.clock.moment(job.due), self._due, job, version)
        else:
            self._queue(job)

    def _due(self, job: MemoryJob, version: int) -> None:
        if job.version == version:
            job.happens(Event.DUE)
            self._queue(job)

    def _queue(self, job: MemoryJob) -> None:
        if (by := job.expires) is not None:
            self.loop.call_at(self.clock.moment(by), self._expire, job, job.version)
        heapq.heappush(self._ready, (-job.priority, next(self._order), job.version, job))
        self._pump_soon()

    def _expire(self, job: MemoryJob, version: int) -> None:
        if job.version == version:
            job.end_waiting(EXPIRED)
            self.on_final(job)

    def _pump_soon(self) -> None:
        """After what else is at hand, so that jobs that come together are seen together."""
        if not self._pumping:
            self._pumping = True
            self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Hands out what is ready, by priority and order, as far as there are slots."""
        self._pumping = False
        if self._closed:
            return
        if self.ended >= self._stop_at and self._ready:
            self.trouble = self.trouble or FailedPrecondition(
                f"{self._limit:,} attempts more than there were jobs have ended, and jobs are still ready: do they make"
                " each other without end? Give cluster(…, limit=…) more, if it is right",
                reason="NOT_IDLE",
            )
            self.loop.stop()
            return
        without = []
        while self._ready and self._pool.free > 0:
            entry = heapq.heappop(self._ready)
            job = entry[3]
            if job.version != entry[2]:
                continue
            by = job.expires
            if by is not None and by <= self.clock.now():
                self._expire(job, job.version)
            elif (handler := self._handler_of(job)) is None:
                without.append(entry)  # it waits for one (R12)
            else:
                self._start(job, handler)
        for entry in without:
            heapq.heappush(self._ready, entry)

    def _start(self, job: MemoryJob, handler: Handler) -> None:
        executor: HandlerExecutor = self._async if handler.is_async else self._inline
        exec_id = _EXEC.pack(0, 1, next(self._handouts), secrets.randbits(32))
        number, tries = job.hand_out(exec_id)
        spec = job.spec
        wire = queue_pb2.Assignment(
            exec_id=exec_id,
            job_id=spec.id,
            attempt=number,
            payload=spec.payload,
            encoding=spec.encoding,
            retries=spec.retries,
            tries=tries,
        )
        if spec.HasField("options"):
            wire.options.CopyFrom(spec.options)
        lane = queue_pb2.LaneTasks(queue=spec.queue, task=spec.task, priority=job.priority)
        slot = HandlerSlot(handler, executor, self._pool)
        attempt = Attempt(self._ports, slot, b"", lane, wire)
        job.holds(attempt)
        self._held[exec_id] = job
        self._pool.used += 1
        executor.submit([attempt])

    # -- attempts, as the worker has them: on the loop -----------------------------------------------------------------

    def _noted(self, arrived: deque[Attempt]) -> None:
        while arrived:
            self._take_notes(arrived.popleft())

    def _take_notes(self, attempt: Attempt) -> None:
        job = self._held.get(attempt.exec_id)
        if job is not None and attempt.has_notes:
            job.note(attempt.take_notes())

    def _finished(self, ended: deque[tuple[Attempt, Verdict | None, float]]) -> None:
        while ended:
            attempt, verdict, at = ended.popleft()
            self.release(attempt)
            if attempt.verdict is None and verdict is not None:
                self.settle(attempt, merged(attempt.forced, verdict), at)

    def settle(self, attempt: Attempt, verdict: Verdict, at: float) -> None:
        """Its outcome is known."""
        attempt.verdict, attempt.ended = verdict, at
        for timer in attempt.timers:
            timer.cancel()
        attempt.timers.clear()
        self._take_notes(attempt)
        job = self._held.pop(attempt.exec_id, None)
        if job is None:
            return  # the cluster is closed
        if verdict.failure is not None and verdict.failure.type == "KeyboardInterrupt":
            self.trouble = KeyboardInterrupt()
            self.loop.stop()
        change = job.end(attempt, verdict, self._rng)
        self.ended += 1
        if change.then is None:
            self.on_final(job)
        else:
            job.wait_until(self.clock.instant(self.clock.monotonic() + change.then.delay))
            self._place(job, job.version)

    def release(self, attempt: Attempt) -> None:
        """Its slot is free."""
        if not attempt.released:
            attempt.released = True
            self._pool.release(attempt)
            self._pump_soon()

    def drop(self, attempt: Attempt) -> None:
        """Never comes to pass: nothing is lost here, and only what is lost is dropped."""
        self.release(attempt)
