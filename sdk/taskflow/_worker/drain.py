"""How a worker leaves: polls stop at once, what runs gets its grace, the rest is given back, outcomes are delivered."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taskflow._worker.worker import Worker

log = logging.getLogger("taskflow")

_LAST_ANSWERS = 0.2  # for polls under way: what one is just bringing is given back at once, instead of missed
_END = 1.5  # from the end of the grace to that of handlers that were cancelled
_DELIVERY = 10.0
_GOODBYE = 1.0


async def drain(worker: Worker) -> None:
    """Returns when nothing is left, or nothing more can be done."""
    worker.draining = True
    pollers = worker.pollers()
    for poller in pollers:
        poller.close()
    for session in worker.sessions():
        session.beat()
    _give_back(worker, lambda started: not started)
    await _until(worker, lambda: not any(p.under_way for p in pollers), _LAST_ANSWERS)
    for poller in pollers:
        poller.stop()
    await _until(worker, lambda: not _running(worker), worker.options.grace)
    if left := _running(worker):
        log.warning("%d jobs did not end within the grace of %g s; they are given back", left, worker.options.grace)
        _give_back(worker, lambda started: True)
        await _until(worker, lambda: not _running(worker), _END)
    await _until(worker, lambda: not worker.held, _DELIVERY)
    if worker.held:
        log.error("%d outcomes could not be delivered; these jobs may run again", len(worker.held))
    closed = [session.close(goodbye=True) for session in worker.sessions()]
    await asyncio.wait([asyncio.ensure_future(c.wait()) for c in closed] or [_nothing()], timeout=_GOODBYE)


def _running(worker: Worker) -> int:
    return sum(1 for a in worker.held.values() if a.verdict is None)


def _give_back(worker: Worker, which: Callable[[bool], bool]) -> None:
    for attempt in list(worker.held.values()):
        if attempt.verdict is None and which(attempt.started > 0):
            worker.stops.give_back(attempt)


async def _until(worker: Worker, done: Callable[[], bool], limit: float) -> None:
    """Waits for a condition, at most `limit` seconds."""
    end = worker.clock.monotonic() + limit
    timer = worker.timers.after(limit, worker.quiet.wake)
    while not done() and worker.clock.monotonic() < end:
        await worker.quiet.wait()
    timer.cancel()


def _nothing() -> asyncio.Future[bool]:
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    future.set_result(True)
    return future
