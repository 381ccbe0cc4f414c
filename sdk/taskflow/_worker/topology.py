"""Where coordinators and queue services answer, as far as the scheduler has said. On the I/O loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import grpc.aio

from taskflow._jobs.core import Core
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import complain
from taskflow._worker.timers import Timers, Wakeup
from taskflow.errors import TaskFlowError
from taskflow.v1 import cluster_pb2

log = logging.getLogger("taskflow")

_PINNED = "pinned"
_EVERY = 30.0
_WHEN_INCOMPLETE = 0.5
_AT_MOST_EVERY = 0.3


class Cluster:
    """Addresses are never forgotten: what the scheduler no longer names may still be needed for an outcome."""

    def __init__(
        self, core: Core, timers: Timers, changed: Callable[[], None], clock_moved: Callable[..., None]
    ) -> None:
        self._core = core
        self._timers = timers
        self._changed = changed
        self._clock_moved = clock_moved
        self._wanted = Wakeup()
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._incarnations: dict[str, str] = {}
        self._resolved: dict[str, str] = {}
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
            topology = await self._core.transport.topology()
        except TaskFlowError as error:
            if not self._said_away:
                log.warning("%s; retrying", error)
            self._said_away = True
            return False
        self._said_away = False
        if not self.coordinators:  # of those that we stand with, each says it itself, and what becomes of leases
            self._clock_moved(topology.clock_moved_us, keep_leases=True)
        self.coordinators = self._take("coordinator", topology.coordinators)
        if self._core.pinned_queue:
            self._addresses[f"queue/{_PINNED}"] = (self._core.pinned_queue,)
            self.queues = {_PINNED}
        else:
            self.queues = self._take("queue", topology.queues)
        self._changed()
        return bool(self.coordinators and self.queues)

    def _take(self, kind: str, instances: Iterable[cluster_pb2.Instance]) -> set[str]:
        names = set()
        for instance in instances:
            if not instance.addresses:
                continue
            key, addresses = f"{kind}/{instance.name}", tuple(instance.addresses)
            if (self._addresses.get(key), self._incarnations.get(key)) != (addresses, instance.incarnation):
                self._addresses[key] = addresses
                self._incarnations[key] = instance.incarnation
                self._resolved.pop(key, None)
            names.add(instance.name)
        return names

    async def coordinator(self, name: str) -> grpc.aio.Channel:
        return await self._channel(f"coordinator/{name}")

    async def queue(self, name: str) -> grpc.aio.Channel:
        return await self._channel(f"queue/{name}")

    async def _channel(self, key: str) -> grpc.aio.Channel:
        transport = self._core.transport
        address = self._resolved.get(key)
        if address is None:
            address = await transport.first_of(self._addresses[key], self._incarnations.get(key, ""))
            self._resolved[key] = address
        return transport.channel(address)
