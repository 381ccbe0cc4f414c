"""Plain `def` handlers, in threads.

Threads are made as they are needed: a few at once, and more while the queue does not move. Handlers that end
within microseconds so keep to a few threads, where more would only fight for the interpreter's lock, and
handlers that block get one each, up to the limit, within milliseconds.
"""

from __future__ import annotations

import contextvars
import logging
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from taskflow._handlers import outcomes
from taskflow._handlers.outcomes import Failure
from taskflow._jobs import calling_handler
from taskflow._messages.texts import named
from taskflow._process import forks
from taskflow._transport.clock import SYSTEM
from taskflow._worker.attempt import Attempt

log = logging.getLogger("taskflow")

_EAGER = 4  # threads made without waiting to see
_TICK = 0.002
_MOST_PER_TICK = 16
_PATIENCE_TICKS = 5  # the queue should be empty after so many
_REFUSED_PAUSE = 0.5  # seconds, after the system refused a thread
_REFUSED_LIMIT = 5.0  # seconds without any thread after which attempts are given back


class ThreadExecutor:
    """At most `limit` threads. `later` calls back on the I/O loop after so many seconds of the real clock."""

    stoppable = False

    def __init__(self, limit: int, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._limit = limit
        self._later = later
        self._queue: SimpleQueue[Attempt | None] = SimpleQueue()
        self._idle: set[int] = set()
        self._count = 0
        self._taken = 0  # rough: threads add to it without a lock, and only its movement matters
        self._seen = 0
        self._watching = False
        self._closed = False
        self._refused_at = 0.0  # since when the system has refused threads

    def submit(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._queue.put(attempt)
        if self._queue.qsize() > len(self._idle):
            while self._count < min(self._limit, _EAGER) and self._queue.qsize() > len(self._idle):
                if not self._add():
                    break
        # A thread counts as idle for a moment after it has taken an attempt: what is queued then is looked at again.
        if not self._watching and self._count < self._limit and self._queue.qsize():
            self._watching = True
            self._seen = self._taken
            self._later(_TICK, self._watch)

    def _watch(self) -> None:
        queued = self._queue.qsize()
        if not queued or self._count >= self._limit or self._closed:
            self._watching = False
            return
        waiting = queued - len(self._idle)
        moved, self._seen = self._taken - self._seen, self._taken
        if waiting > 0 and moved * _PATIENCE_TICKS < waiting:
            for _ in range(min(waiting, _MOST_PER_TICK, self._limit - self._count)):
                if not self._add():
                    self._later(_REFUSED_PAUSE, self._watch)
                    return
        self._later(_TICK, self._watch)

    def _add(self) -> bool:
        """Whether there is one more thread: the system refuses them at a limit of processes or of memory."""
        try:
            threading.Thread(target=self._work, name=f"taskflow-handler-{self._count + 1}", daemon=True).start()
        except (RuntimeError, MemoryError) as error:
            self._refused(named(error, 200))
            return False
        self._count += 1
        self._refused_at = 0.0
        return True

    def _refused(self, why: str) -> None:
        now = SYSTEM.monotonic()
        if not self._refused_at:
            self._refused_at = now
            log.error("no further thread for handlers (%s); %d of %d run, retrying", why, self._count, self._limit)
        if self._count or now - self._refused_at < _REFUSED_LIMIT:
            return  # the threads that there are take what waits
        self._refused_at = now
        try:
            while (attempt := self._queue.get_nowait()) is not None:
                attempt.give_back(Failure("HandlerThreadNotStarted", f"the worker cannot start a thread: {why}"))
        except Empty:
            return

    def _work(self) -> None:
        me = threading.get_ident()
        queue = self._queue
        while True:
            try:
                attempt = queue.get_nowait()
            except Empty:
                self._idle.add(me)
                attempt = queue.get()
                self._idle.discard(me)
            if attempt is None:
                return
            self._taken += 1
            try:
                if attempt.start():
                    attempt.runner = me
                    attempt.finish(run_plain(attempt))
            except RuntimeError:
                if not self._closed:
                    raise
                return  # the handler has outlasted its worker, whose loop is closed: nobody takes what it has

    def stop(self, attempt: Attempt, gently: bool) -> None:
        """`attempt.cancelled` is set already; more cannot be done to a thread."""

    async def close(self) -> None:
        self._closed = True
        for _ in range(self._count):
            self._queue.put(None)


def _call(attempt: Attempt) -> object:
    calling_handler.waits.set(attempt.waits)
    return attempt.handler.binding.call(attempt.handler.function, attempt.job())


def run_plain(attempt: Attempt) -> outcomes.Verdict:
    """Calls a plain handler, here and now, in a context of its own: what it sets there is not seen by the next."""
    depth = forks.depth
    try:
        value = contextvars.copy_context().run(_call, attempt)
    except BaseException as error:
        forks.end_if_fork(depth, error)
        return outcomes.of_exception(error)
    forks.end_if_fork(depth, None)
    return outcomes.of_value(value)
