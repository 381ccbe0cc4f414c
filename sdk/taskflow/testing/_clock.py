"""Time for `taskflow.testing`: a clock that only the test moves, and an event loop that lives by it.

The loop never sleeps: once nothing can go on before the clock moves, it stops.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import selectors
from asyncio import TimerHandle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any


class MovedClock:
    """A `Clock` that stands still until `move`. `start`: the instant that it shows first, by default the present."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start = datetime.now(UTC) if start is None else start
        self._first = self._moved = 1_000.0  # not 0, which says «not yet» of an attempt's start

    def monotonic(self) -> float:
        return self._moved

    def now(self) -> datetime:
        return self.instant(self._moved)

    async def sleep(self, seconds: float) -> None:
        until = self._moved + seconds
        await asyncio.sleep(seconds)  # of the loop below: this clock's seconds
        self.move(until)  # the loop calls a timer up to a microsecond early

    def instant(self, moment: float) -> datetime:
        """The value of `now` when `monotonic` is `moment`."""
        return self._start + timedelta(seconds=moment - self._first)

    def moment(self, instant: datetime) -> float:
        """The value of `monotonic` when `now` shows `instant`."""
        return (instant - self._start).total_seconds() + self._first

    def move(self, moment: float) -> None:
        """Forward only."""
        self._moved = max(self._moved, moment)


class _Selector(selectors.DefaultSelector):
    """Instead of waiting for a timer it says that the loop is idle.

    Where handlers wait for a socket, or for a thread of the loop's executor, it gives those `patience` seconds of real
    time first: nothing else can tell a handler that waits for an answer from one that waits for the clock.
    """

    def __init__(self, idle: Callable[[], None], outside: Callable[[], bool], patience: float) -> None:
        super().__init__()
        self._idle = idle
        self._outside = outside
        self._patience = patience
        self.real = False  # for the loop's end: wait as any selector does

    def select(self, timeout: float | None = None) -> list[Any]:
        if self.real or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        events = super().select(self._patience if self._outside() else 0)
        if not events:
            self._idle()
        return events


class MovedLoop(asyncio.SelectorEventLoop):
    """`asyncio.sleep`, `asyncio.timeout` and every other timer on it obey the moved clock."""

    def __init__(self, clock: MovedClock, busy: Callable[[], bool], patience: float) -> None:
        self._clock = clock
        self._busy = busy
        self._calls = 0  # under way in the executor's threads
        self._timers: list[tuple[float, int, TimerHandle]] = []
        self._numbers = itertools.count()
        self._idle_selector = _Selector(self.stop, self._waits_for_others, patience)
        super().__init__(self._idle_selector)
        # A timer is due when it is less than this ahead. The real clock's nanosecond is lost in the sum after a year.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._clock.monotonic()

    def run_until_idle(self) -> None:
        """Until nothing can go on before the clock moves."""
        self.run_forever()

    def next_timer(self) -> float | None:
        """The moment of the timer that is due next."""
        timers = self._timers
        while timers and (timers[0][2].cancelled() or timers[0][0] <= self.time()):
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Any = None
    ) -> TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        heapq.heappush(self._timers, (when, next(self._numbers), handle))
        return handle

    def end(self) -> None:
        """Joins the executor's threads and closes."""
        self._idle_selector.real = True
        self.run_until_complete(self.shutdown_asyncgens())
        self.run_until_complete(self.shutdown_default_executor())
        self.close()

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        self._calls += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._call_ended)
        return future

    def _call_ended(self, future: object) -> None:
        self._calls -= 1

    def _waits_for_others(self) -> bool:
        sockets = len(self._idle_selector.get_map()) - 1  # one is the loop's own
        return self._busy() and (self._calls > 0 or sockets > 0)
