"""Calls to a destination: in threads, a few at once, each with a timeout; and a pause after a failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from taskflow_server.runtime import logs
from taskflow_server.runtime.clock import RealClock
from taskflow_server.worker.push.destination import MOST_AFTER, Away, Destination, Refused

log = logs.get("push")

T = TypeVar("T")
THREADS = 4  # calls to one destination at once
FIRST_PAUSE = 1.0  # seconds after the first failure; doubled at each further one


class DestinationCalls:
    """`usable`: the destination has answered, and nothing has failed since."""

    def __init__(self, destination: Destination, timeout: float, longest_pause: float, clock: RealClock) -> None:
        self._name = destination.name
        self._timeout = timeout
        self._longest_pause = longest_pause
        self._clock = clock
        self._threads = ThreadPoolExecutor(THREADS, f"push-{destination.name}")
        self._slots = asyncio.Semaphore(THREADS)
        self._outage = logs.Outage(log, f"destination {destination.name} cannot be used")
        self._failures, self._not_before = 0, 0.0
        self.usable = False

    async def __call__(self, what: Callable[..., T], *arguments: Any) -> T:
        """One that takes longer is left alone, and may still have its effect: a thread cannot be stopped.

        An unexpected error of a destination counts as no answer; other destinations must not stop for it.
        """
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout) as limit:
                    return await asyncio.get_running_loop().run_in_executor(self._threads, what, *arguments)
            except (Away, Refused):
                raise
            except Exception as error:
                if limit.expired():
                    raise Away(f"no answer within {self._timeout:g} s") from None
                log.error("a fault of a destination", destination=self._name, exc_info=error)
                raise Away(f"{type(error).__name__}: {error}") from None

    @property
    def resting(self) -> bool:
        """Whether the pause after a failure lasts."""
        return self._clock.monotonic() < self._not_before

    def failed(self, error: Away) -> None:
        self.usable = False
        self._outage.failed(error)
        pause = FIRST_PAUSE * 2.0 ** min(self._failures, 20)
        self._failures += 1
        pause = max(min(self._longest_pause, pause) * random.uniform(0.8, 1.0), min(error.after, MOST_AFTER))
        self._not_before = self._clock.monotonic() + pause

    def worked(self) -> None:
        self.usable, self._failures = True, 0
        self._outage.over()

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
