"""The cluster of `taskflow.testing`: the apps, their jobs, and the moved clock, as a test sees them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self

from taskflow import errors
from taskflow._client.async_client import AsyncTaskFlow
from taskflow._client.client import TaskFlow
from taskflow._handlers.task import make_handler
from taskflow._jobs.handles import Handle
from taskflow._messages import ids
from taskflow._messages.options import check_name, seconds
from taskflow._worker.options import DEFAULT_CONCURRENCY
from taskflow.testing._apps import REPLACED, install, off_loop
from taskflow.testing._clock import MovedClock
from taskflow.testing._core import MemoryCore
from taskflow.testing._handlers import AppHandlers
from taskflow.testing._jobs import MemoryJob
from taskflow.testing._specs import qualified
from taskflow.testing._store import MemoryJobs
from taskflow.testing._worker import MemoryWorker

_ROUNDING = 1e-6  # seconds: sums of times differ in their last bits


class MemoryCluster:
    """The result of `cluster`. `with` gives the apps back as they were; so does `close`."""

    def __init__(
        self,
        *apps: TaskFlow | AsyncTaskFlow,
        start: datetime | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        rng: Callable[[], float] = lambda: 0.5,
        patience: float = 1.0,
        limit: int = 10_000,
    ) -> None:
        if start is not None and start.tzinfo is None:
            raise errors.InvalidArgument(f"start: {start!r} has no time zone", field="start")
        self.clock = clock = MovedClock(start)
        self._apps = apps
        self._handlers = handlers = AppHandlers(apps)
        self._awaited: dict[str, list[asyncio.Future[None]]] = {}
        self._running: threading.Thread | None = None
        self._closed = False
        self._worker = worker = MemoryWorker(
            handlers.of, clock=clock, concurrency=concurrency, rng=rng, patience=patience, limit=limit
        )
        worker.on_final = self._tell_final
        self._jobs = jobs = MemoryJobs(handlers, worker, clock)
        self._before = [
            install(app, MemoryCore(app._core, jobs, handlers, concurrency, self._await_final)) for app in apps
        ]

    # -- what a test does ----------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """The present instant by the moved clock; at first the real one, or `start`."""
        return self.clock.now().astimezone(UTC)

    def run_until_idle(self) -> int:
        """Runs jobs until nothing can go on before the clock moves. How many attempts have ended meanwhile."""
        before = self._worker.ended
        self._drive()
        return self._worker.ended - before

    def advance(self, by: float | timedelta) -> int:
        """Moves the clock by so many seconds, and runs what becomes due on the way, each at its moment.

        How many attempts have ended meanwhile. Called by a handler it only moves the clock: the handler took that long.
        """
        target = self.clock.monotonic() + seconds(by, "seconds", zero=True)
        if self._is_inside():
            self.clock.move(target)
            return 0
        before = self._worker.ended
        self._drive()
        while (at := self._worker.loop.next_timer()) is not None and at <= target + _ROUNDING:
            self.clock.move(at)
            self._drive()
        self.clock.move(target)
        self._drive()
        return self._worker.ended - before

    def handle(self, queue: str, handler: Callable[..., Any]) -> None:
        """Runs the jobs of `queue` that have no task by `handler`, as `run(queue, handler=…)` does."""
        name = qualified(check_name(queue, "queue"))
        made = make_handler(name, handler, None)
        made.binding.check_queue_handler()
        self._handlers.of_queue[name] = made

    @property
    def jobs(self) -> list[MemoryJob]:
        """Every job, in the order in which they were made."""
        return self._jobs.all()

    def job(self, job: Handle | str) -> MemoryJob:
        """The job of a handle, or of an id. NotFound when it was not made here."""
        return self._jobs.find(ids.parse(job) if isinstance(job, str) else job.id)

    def close(self) -> None:
        """Cancels what runs, and gives the apps back. Safe to repeat; `jobs` can still be looked at."""
        if self._closed:
            return
        for app, kept in zip(self._apps, self._before, strict=True):
            for name in REPLACED:
                vars(app).pop(name, None)
            vars(app).update(kept)
        self._closed = self._jobs.closed = True
        off_loop(self._worker.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    # -- running: a handler and a test wait in different ways ---------------------------------------------------------

    async def _await_final(self, job: MemoryJob, timeout: float | None) -> None:
        """A test runs what is ready; a handler waits, by the moved clock."""
        if not self._is_inside():
            self._drive()
            return
        if asyncio.current_task() is None:
            raise errors.FailedPrecondition(
                "a plain handler that waits for another job would hold up every other one; await it, from an async"
                " handler",
                reason="IN_HANDLER",
            )
        final = self._worker.loop.create_future()
        self._awaited.setdefault(job.id, []).append(final)
        try:
            async with asyncio.timeout(timeout):
                await final
        except TimeoutError:
            pass

    def _tell_final(self, job: MemoryJob) -> None:
        for future in self._awaited.pop(job.id, ()):
            if not future.done():
                future.set_result(None)

    def _is_inside(self) -> bool:
        """Whether a handler asks."""
        return self._running is threading.current_thread()

    def _drive(self) -> None:
        if self._closed:
            raise errors.FailedPrecondition("this cluster of taskflow.testing is closed", reason="CLOSED")
        if self._running is not None:
            raise errors.FailedPrecondition(
                "the cluster runs already: a handler cannot make it run, nor can another thread meanwhile",
                reason="RUNNING",
            )
        off_loop(self._drive_here)

    def _drive_here(self) -> None:
        self._running = threading.current_thread()
        try:
            self._worker.run_until_idle()
        finally:
            self._running = None


def cluster(
    *apps: TaskFlow | AsyncTaskFlow,
    start: datetime | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    rng: Callable[[], float] = lambda: 0.5,
    patience: float = 1.0,
    limit: int = 10_000,
) -> MemoryCluster:
    """Puts these apps on a cluster in memory, from now to the end of the `with`; together, if there are several.

    `start`: what the clock shows first, by default the present. `concurrency`: as of `run`. `rng`: numbers in [0, 1)
    for the spread of backoff; 0.5 is none. `patience`: real seconds that a handler may wait for a socket or a thread
    before it counts as waiting for the clock. `limit`: attempts that may end without the clock moving,
    beyond one for each job that is ready; at more, FailedPrecondition.
    """
    return MemoryCluster(*apps, start=start, concurrency=concurrency, rng=rng, patience=patience, limit=limit)
