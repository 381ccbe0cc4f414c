"""Progress and log lines of attempts, on their way to coordinators: one call under way for each.

Notes of running attempts go at most twice a second, and wait while their coordinator is away, within bounds. Those of
an attempt that has ended go at once, and before its outcome, after which they would be stale; they hold it up for
some seconds at most.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import grpc.aio

from taskflow._messages import ids
from taskflow._transport.clock import SYSTEM, Clock
from taskflow._transport.io_thread import complain
from taskflow._worker.attempt import Attempt, Notes
from taskflow._worker.calls import REFUSED, CoordinatorCalls, is_cancelled
from taskflow._worker.epochs import Epochs
from taskflow.v1 import jobs_pb2, worker_pb2

log = logging.getLogger("taskflow")

NOTE_SECONDS = 0.5
PATIENCE = 5.0  # an outcome waits so long for the notes that go before it
_SOON = 0.02
_AGAIN = 0.2
_MOST = 500  # attempts in one call

Then = Callable[[Attempt], None]
Later = Callable[[float, Callable[[], None]], object]


class ProgressSender:
    """Lives on the I/O loop. `later` calls back after so many seconds of the real clock."""

    def __init__(self, calls: CoordinatorCalls, clock: Clock, epochs: Epochs, later: Later) -> None:
        self._calls = calls
        self._clock = clock
        self._epochs = epochs
        self._later = later
        self._outboxes: dict[str, _Outbox] = {}

    def noted(self, arrived: deque[Attempt]) -> None:
        """Attempts that have something to say."""
        while arrived:
            attempt = arrived.popleft()
            if attempt.verdict is None:
                self._outbox(attempt).add(attempt)

    def flush_ended(self, attempt: Attempt, then: Then) -> None:
        """Sends the last notes of an attempt at once, then calls `then`, whether they arrived or not."""
        self._outbox(attempt).add_ended(attempt, then)

    def _outbox(self, attempt: Attempt) -> _Outbox:
        owner = self._epochs.owner.get(attempt.shard, "")
        outbox = self._outboxes.get(owner)
        if outbox is None:
            outbox = self._outboxes[owner] = _Outbox(self._calls, self._clock, self._later, owner)
        return outbox


class _Outbox:
    """One coordinator's notes."""

    def __init__(self, calls: CoordinatorCalls, clock: Clock, later: Later, coordinator: str) -> None:
        self._calls = calls
        self._clock = clock
        self._later = later
        self._coordinator = coordinator
        self._dirty: dict[bytes, Attempt] = {}
        self._ended: list[tuple[Attempt, Then]] = []
        self._busy = False
        self._scheduled = False
        self._last = 0.0

    def add(self, attempt: Attempt) -> None:
        self._dirty[attempt.exec_id] = attempt
        self._schedule()

    def add_ended(self, attempt: Attempt, then: Then) -> None:
        self._dirty.pop(attempt.exec_id, None)
        self._ended.append((attempt, then))
        self._start()

    def _schedule(self) -> None:
        if not self._scheduled and not self._busy and self._dirty:
            self._scheduled = True
            self._later(max(_SOON, self._last + NOTE_SECONDS - SYSTEM.monotonic()), self._due)

    def _due(self) -> None:
        self._scheduled = False
        self._start()

    def _start(self) -> None:
        if not self._busy:
            self._busy = True
            self._calls.spawn(self._run())

    async def _run(self) -> None:
        try:
            if SYSTEM.monotonic() - self._last >= NOTE_SECONDS:
                self._last = SYSTEM.monotonic()
                await self._guarded(self._flush_running())
            while self._ended:
                await self._guarded(self._flush_ended())
        finally:
            self._busy = False
            self._schedule()

    async def _guarded(self, flush: Coroutine[Any, Any, None]) -> None:
        """An error of one flush must not end the next: outcomes wait for it."""
        try:
            await flush
        except Exception as error:
            complain("progress and log lines could not be sent", error)

    async def _flush_running(self) -> None:
        dirty, self._dirty = list(self._dirty.values()), {}
        try:
            for first in range(0, len(dirty), _MOST):
                part = [a for a in dirty[first : first + _MOST] if a.verdict is None and a.has_notes]
                if part:
                    await self._send(part)
        finally:
            self._dirty |= {a.exec_id: a for a in dirty if a.verdict is None and a.has_notes}

    async def _flush_ended(self) -> None:
        ended, self._ended = self._ended[:_MOST], self._ended[_MOST:]
        attempts = [attempt for attempt, _ in ended if attempt.has_notes]
        until = SYSTEM.monotonic() + PATIENCE
        try:
            while attempts and not await self._send(attempts):
                if SYSTEM.monotonic() > until:
                    log.warning("the last progress and log lines of %d jobs could not be delivered", len(attempts))
                    break
                await SYSTEM.sleep(_AGAIN)
        finally:
            for attempt, then in ended:  # whatever becomes of the notes, the outcomes are reported
                then(attempt)

    async def _send(self, attempts: list[Attempt]) -> bool:
        """False: they have their notes back, to be sent again."""
        if not self._coordinator:
            return False
        now = self._clock.monotonic()
        taken = [(attempt, attempt.take_notes()) for attempt in attempts]
        messages = list(_messages(taken, now))
        try:
            await self._calls.notify(self._coordinator, messages)
        except grpc.aio.AioRpcError as error:
            if error.code() in REFUSED:
                log.warning("progress and log lines of %d jobs were refused: %s", len(attempts), error.details())
                return True
            _give_back(taken)
            return False
        except (Exception, asyncio.CancelledError) as error:
            _give_back(taken)
            if isinstance(error, Exception) or is_cancelled():
                raise
            return False  # a channel closed under the call ends it as cancelled
        return True


def _give_back(taken: list[tuple[Attempt, Notes]]) -> None:
    for attempt, notes in taken:
        attempt.give_back_notes(notes)


def _messages(taken: list[tuple[Attempt, Notes]], now: float) -> Iterator[worker_pb2.Notification]:
    """Without those that cannot be encoded: one attempt's notes must not hold up the others'."""
    for attempt, notes in taken:
        try:
            yield _message(attempt, notes, now)
        except Exception as error:
            complain(f"job {ids.show(attempt.job_id)}: its progress and log lines cannot be encoded", error)


def _message(attempt: Attempt, notes: Notes, now: float) -> worker_pb2.Notification:
    progress, lines = notes
    message = worker_pb2.Notification(exec_id=attempt.exec_id, job_id=attempt.job_id)
    if progress is not None:
        current, total, unit, said = progress
        message.progress.CopyFrom(jobs_pb2.Progress(current=current, total=total, unit=unit, message=said))
    for at, level, line in lines:
        message.logs.append(worker_pb2.LogLine(age_us=max(0, int((now - at) * 1e6)), level=level, message=line))
    return message
