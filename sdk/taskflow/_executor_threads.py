"""Plain `def` handlers, in threads.

Threads are made as they are needed: a few at once, and more while the queue does not move. Handlers that end
within microseconds so keep to a few threads, where more would only fight for the interpreter's lock, and
handlers that block get one each, up to the limit, within milliseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

from taskflow import _verdict
from taskflow._worker_attempts import Attempt

_EAGER = 4  # threads made without waiting to see
_TICK = 0.002
_MOST_PER_TICK = 16
_PATIENCE_TICKS = 5  # the queue should be empty after so many


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

    def submit(self, attempts: list[Attempt]) -> None:
        for attempt in attempts:
            self._queue.put(attempt)
        if self._queue.qsize() > len(self._idle):
            while self._count < min(self._limit, _EAGER) and self._queue.qsize() > len(self._idle):
                self._add()
            if not self._watching:
                self._watching = True
                self._seen = self._taken
                self._later(_TICK, self._watch)

    def _watch(self) -> None:
        waiting = self._queue.qsize() - len(self._idle)
        if waiting <= 0 or self._count >= self._limit or self._closed:
            self._watching = False
            return
        moved, self._seen = self._taken - self._seen, self._taken
        if moved * _PATIENCE_TICKS < waiting:
            for _ in range(min(waiting, _MOST_PER_TICK, self._limit - self._count)):
                self._add()
        self._later(_TICK, self._watch)

    def _add(self) -> None:
        self._count += 1
        threading.Thread(target=self._work, name=f"taskflow-handler-{self._count}", daemon=True).start()

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
            if attempt.start():
                attempt.finish(run_plain(attempt))

    def stop(self, attempt: Attempt, gently: bool) -> None:
        """`attempt.cancelled` is set already; more cannot be done to a thread."""

    async def close(self) -> None:
        self._closed = True
        for _ in range(self._count):
            self._queue.put(None)


def run_plain(attempt: Attempt) -> _verdict.Verdict:
    """Calls a plain handler, here and now."""
    handler = attempt.handler
    try:
        value = handler.binding.call(handler.function, attempt.job())
    except BaseException as error:
        return _verdict.of_exception(error)
    return _verdict.of_value(value)
