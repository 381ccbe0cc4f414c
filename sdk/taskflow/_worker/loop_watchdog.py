"""Says when the handlers' event loop is blocked: all async handlers of the worker stand still then."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Callable

from taskflow._transport.clock import SYSTEM
from taskflow._worker.timers import Timers

log = logging.getLogger("taskflow")

_EVERY = 1.0
_BLOCKED_AFTER = 3.0


class LoopWatchdog:
    """Sends a ping each second while `busy()`; warns once for every time that none comes back for 3 s."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timers: Timers, busy: Callable[[], bool]) -> None:
        self._loop = loop
        self._timers = timers
        self._busy = busy
        self._thread = 0
        self._sent_at: float | None = None
        self._warned = False
        self.closed = False

    def tick(self) -> None:
        if self.closed or self._loop.is_closed():
            return
        self._timers.after(_EVERY, self.tick)
        if self._sent_at is None:
            if self._busy() or not self._thread:
                self._sent_at = SYSTEM.monotonic()
                self._loop.call_soon_threadsafe(self._pong)
        elif not self._warned and SYSTEM.monotonic() - self._sent_at > _BLOCKED_AFTER:
            self._warned = True
            log.warning(
                "the event loop has been blocked for %.0f s%s; all async handlers wait. Use a plain `def` handler, or"
                " asyncio.to_thread, for what blocks",
                SYSTEM.monotonic() - self._sent_at,
                self._where(),
            )

    def _pong(self) -> None:
        self._thread = threading.get_ident()
        if self._warned and self._sent_at is not None:
            log.warning("the event loop continues after %.0f s", SYSTEM.monotonic() - self._sent_at)
        self._sent_at, self._warned = None, False

    def _where(self) -> str:
        frame = sys._current_frames().get(self._thread)
        if frame is None:
            return ""
        at = traceback.extract_stack(frame)[-1]
        return f", at {at.filename}:{at.lineno} in {at.name}"
