"""Callbacks at moments of the injected clock, and a wake-up for coroutines. On the I/O loop."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections.abc import Callable

from taskflow._transport.clock import Clock

log = logging.getLogger("taskflow")


class Timer:
    """A callback to come. `cancel` forgets it."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: Timers, when: float, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        if self.callback is not None:
            self.callback = None
            self._timers._forgotten()


class Timers:
    """One sleeping task for all of them."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._dead = 0
        self._sleeper: asyncio.Task[None] | None = None
        self._sleeps_until = 0.0
        self._closed = False

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Calls back when the clock has advanced by `seconds`."""
        timer = Timer(self, self.clock.monotonic() + seconds, callback)
        heapq.heappush(self._heap, (timer.when, next(self._numbers), timer))
        if not self._closed and (self._sleeper is None or timer.when < self._sleeps_until):
            self._sleep()
        return timer

    def _sleep(self) -> None:
        if self._sleeper is not None:
            self._sleeper.cancel()
        self._sleeps_until = self._heap[0][0]
        self._sleeper = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            while self._heap:
                self._sleeps_until = self._heap[0][0]
                await self.clock.sleep(max(0.0, self._sleeps_until - self.clock.monotonic()))
                self._fire()
            self._sleeper = None

    def _fire(self) -> None:
        now = self.clock.monotonic()
        self._sleeps_until = 0.0  # a callback that adds a timer must not cancel this task
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._dead -= 1
                continue
            try:
                callback()
            except Exception:
                log.exception("a timer's callback failed")

    def _forgotten(self) -> None:
        self._dead += 1
        if self._dead > 1_000 and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].callback is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def close(self) -> None:
        self._closed = True
        if self._sleeper is not None:
            self._sleeper.cancel()


class Wakeup:
    """Lets coroutines wait for the next `wake`. One that comes while nobody waits is not lost."""

    __slots__ = ("_futures", "_set")

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []
        self._set = False

    def wake(self) -> None:
        self._set = True
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Returns at once if `wake` was called since the last return."""
        if not self._set:
            future = asyncio.get_running_loop().create_future()
            self._futures.append(future)
            await future
        self._set = False
