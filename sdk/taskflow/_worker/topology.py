"""Keeps a worker's topology up to date. On the I/O loop."""

from __future__ import annotations

import logging
from collections.abc import Callable

import grpc.aio

from taskflow._jobs.core import Core
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import complain
from taskflow._transport.topology import Topology
from taskflow._worker.timers import Timers, Wakeup
from taskflow.errors import TaskFlowError

log = logging.getLogger("taskflow")

_PINNED = "pinned"
_EVERY = 30.0
_WHEN_INCOMPLETE = 0.5
_AT_MOST_EVERY = 0.3


class TopologyWatch:
    """The topology, asked for in intervals and whenever something failed; a pinned queue service goes before it."""

    def __init__(
        self, core: Core, timers: Timers, changed: Callable[[], None], clock_moved: Callable[..., None]
    ) -> None:
        self._core = core
        self._timers = timers
        self._changed = changed
        self._clock_moved = clock_moved
        self._wanted = Wakeup()
        self._topology = Topology(core.transport.topology, core.transport.channel)
        self.coordinators: set[str] = set()
        self.queues: set[str] = set()
        self._said_away = False

    def refresh(self) -> None:
        """Asks again soon."""
        self._wanted.wake()

    async def watch(self) -> None:
        """Keeps the picture up to date, for ever."""
        while True:
            try:
                complete = await self._ask()
            except Exception as error:  # whatever is wrong with this answer, the next may be better
                complain("the topology could not be applied", error)
                complete = False
            timer = self._timers.after(_EVERY if complete else _WHEN_INCOMPLETE, self._wanted.wake)
            await SYSTEM.sleep(_AT_MOST_EVERY)
            await self._wanted.wait()
            timer.cancel()

    async def _ask(self) -> bool:
        try:
            answer = await self._topology.refresh()
        except TaskFlowError as error:
            if not self._said_away:
                log.warning("%s; retrying", error)
            self._said_away = True
            return False
        self._said_away = False
        if not self.coordinators:  # of those that we stand with, each says it itself, and what becomes of leases
            self._clock_moved(answer.clock_moved_us, keep_leases=True)
        self.coordinators = set(self._topology.coordinators)
        self.queues = {_PINNED} if self._core.pinned_queue else set(self._topology.queues)
        self._changed()
        return bool(self.coordinators and self.queues)

    async def coordinator(self, name: str) -> grpc.aio.Channel:
        return self._core.transport.channel(await self._topology.coordinator(name))

    async def queue(self, name: str) -> grpc.aio.Channel:
        address = self._core.pinned_queue or await self._topology.queue(name)
        return self._core.transport.channel(address)
