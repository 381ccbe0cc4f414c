"""Handlers that go on after the end of their attempts, past a timeout or the grace of a drain, and keep their slots.

A thread cannot be ended. Slots of such handlers are counted for heartbeats, logged with the stack of the
oldest, and with `strict` ends the process: whatever starts it again gives it all its slots back.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import traceback
from collections.abc import Callable

from taskflow._messages import ids
from taskflow._transport.clock import SYSTEM
from taskflow._worker.attempt import Attempt
from taskflow._worker.options import RunOptions

log = logging.getLogger("taskflow")

EXIT_STATUS = 70
_PATIENCE = 1.0  # seconds; a handler that looks at `job.cancelled` has ended by then
_AGAIN = 60.0  # seconds between two warnings
_MAX_FRAMES = 12


class Overdue:
    """On the I/O loop. Times are of the real clock. `tell_soon` sends a heartbeat in a moment, `stop` drains."""

    def __init__(
        self,
        options: RunOptions,
        later: Callable[[float, Callable[[], None]], asyncio.TimerHandle],
        tell_soon: Callable[[], None],
        is_draining: Callable[[], bool],
        stop: Callable[[], None],
    ) -> None:
        self._options = options
        self._later = later
        self._tell_soon = tell_soon
        self._is_draining = is_draining
        self._stop = stop
        self._since: dict[Attempt, float] = {}  # the oldest first
        self._timer: asyncio.TimerHandle | None = None
        self._warned_at = float("-inf")
        self._warned_of = 0
        self.replacing = False  # it drains, to be started again
        self._told = 0

    def __len__(self) -> int:
        return len(self._since)

    @property
    def changed(self) -> bool:
        """Since this was asked last."""
        told, self._told = self._told, len(self._since)
        return told != self._told

    def add(self, attempt: Attempt) -> None:
        """Its outcome is settled, and its handler goes on."""
        self._since[attempt] = SYSTEM.monotonic()
        attempt.pool.overdue_handlers += 1
        if self._timer is None:
            self._timer = self._later(_PATIENCE, self._look)

    def discard(self, attempt: Attempt) -> None:
        """Its handler has ended, perhaps."""
        if self._since.pop(attempt, None) is not None:
            attempt.pool.overdue_handlers -= 1
            self._tell_soon()

    def _look(self) -> None:
        self._timer = None
        if not self._since or self._is_draining():
            return
        attempt, since = next(iter(self._since.items()))
        now = SYSTEM.monotonic()
        age = now - since
        if age >= _PATIENCE:
            self._tell_soon()
            count, many = len(self._since), len(self._since) >= 2 * self._warned_of or self._is_full(attempt)
            if now - self._warned_at >= _AGAIN or (many and count != self._warned_of):
                self._warn(attempt, age, now)
            if self._options.strict and (age >= self._options.strict_after or self._is_full(attempt)):
                self._replace(age)
                return
        self._timer = self._later(_PATIENCE, self._look)

    def _is_full(self, attempt: Attempt) -> bool:
        """Whether nothing else can run beside handlers like it."""
        return attempt.pool.overdue_handlers >= attempt.pool.capacity

    def _warn(self, attempt: Attempt, age: float, now: float) -> None:
        self._warned_at, self._warned_of = now, len(self._since)
        pool = attempt.pool
        log.warning(
            "%d of %d slots are taken by handlers that go on after the end of their attempts%s. The oldest: job %s,"
            " attempt %d, handler %s, for %.0f s%s",
            pool.overdue_handlers,
            pool.capacity,
            "; nothing else runs here, and no job is polled for" if self._is_full(attempt) else "",
            ids.show(attempt.job_id),
            attempt.number,
            attempt.handler.binding.name,
            age,
            _stack(attempt),
        )

    def _replace(self, age: float) -> None:
        log.critical(
            "a handler goes on %.0f s after the end of its attempt, and strict is set: this process drains and ends"
            " with status %d, to be started again",
            age,
            EXIT_STATUS,
        )
        self.replacing = True
        self._stop()


def _stack(attempt: Attempt) -> str:
    """Where it is, for the log."""
    runner = attempt.runner
    if isinstance(runner, asyncio.Task):
        frames = runner.get_stack(limit=_MAX_FRAMES)
        lines = traceback.format_list([traceback.extract_stack(frame, limit=1)[0] for frame in frames])
    else:
        frame = sys._current_frames().get(runner) if isinstance(runner, int) else None
        lines = traceback.format_stack(frame, limit=-_MAX_FRAMES) if frame is not None else []
    return ", at\n" + "".join(lines).rstrip() if lines else ""
