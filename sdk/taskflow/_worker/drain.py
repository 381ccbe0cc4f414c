"""How a worker leaves: polls stop at once, what runs gets its grace, the rest is given back, outcomes are delivered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping

from taskflow._worker.attempt import Attempt
from taskflow._worker.poller import Poller
from taskflow._worker.session import Session
from taskflow._worker.timers import Timers, Wakeup

log = logging.getLogger("taskflow")

_LAST_ANSWERS = 0.2  # for polls under way: what one is just bringing is given back at once, instead of missed
_END = 1.5  # from the end of the grace to that of handlers that were cancelled
_DELIVERY = 10.0
_GOODBYE = 1.0


class Drain:
    """For a worker that receives nothing more. `idle` wakes whenever an attempt or a poll has ended."""

    def __init__(
        self,
        held: Mapping[bytes, Attempt],
        sessions: Callable[[], Iterable[Session]],
        give_back: Callable[[Attempt], None],
        timers: Timers,
        idle: Wakeup,
    ) -> None:
        self._held = held
        self._sessions = sessions
        self._give_back_one = give_back
        self._timers = timers
        self._idle = idle

    async def run(self, pollers: list[Poller], grace: float) -> None:
        """Returns when nothing is left, or nothing more can be done."""
        for poller in pollers:
            poller.close()
        for session in self._sessions():
            session.beat()
        self._give_back(lambda started: not started)
        await self._until(lambda: not any(p.under_way for p in pollers), _LAST_ANSWERS)
        for poller in pollers:
            poller.stop()
        await self._until(lambda: not self._running(), grace)
        if left := self._running():
            log.warning("%d jobs did not end within the grace of %g s; they are given back", left, grace)
            self._give_back(lambda started: True)
            await self._until(lambda: not self._running(), _END)
        await self._until(lambda: not self._held, _DELIVERY)
        if self._held:
            log.error("%d outcomes could not be delivered; these jobs may run again", len(self._held))
        closed = [session.close(goodbye=True) for session in self._sessions()]
        await asyncio.wait([asyncio.ensure_future(c.wait()) for c in closed] or [_nothing()], timeout=_GOODBYE)

    def _running(self) -> int:
        return sum(1 for a in self._held.values() if a.verdict is None)

    def _give_back(self, which: Callable[[bool], bool]) -> None:
        for attempt in list(self._held.values()):
            if attempt.verdict is None and which(attempt.started > 0):
                self._give_back_one(attempt)

    async def _until(self, done: Callable[[], bool], limit: float) -> None:
        """Waits for a condition, at most `limit` seconds."""
        clock = self._timers.clock
        end = clock.monotonic() + limit
        timer = self._timers.after(limit, self._idle.wake)
        while not done() and clock.monotonic() < end:
            await self._idle.wait()
        timer.cancel()


def _nothing() -> asyncio.Future[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(True)
    return future
