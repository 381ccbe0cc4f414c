"""Which lanes have a live worker, read from Postgres, or an executor, read from the queue services that it polls."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

import grpc
import grpc.aio

from taskflow._policy import STATES, JobState
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import queue_pb2, queue_pb2_grpc
from taskflow_server.core.errors import Unavailable
from taskflow_server.core.names import qualify
from taskflow_server.core.serving import Taker, unserved
from taskflow_server.rpc.server import channel
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.handlers import Handlers
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.store.database import Database
from taskflow_server.store.errors import FAULTS

STALE = 1.0  # seconds after which a read is repeated even when all requested lanes were served
MOST_LANES = 100_000  # limit of the lanes remembered as served
PATIENCE = 1.0  # seconds for a read: a warning is not worth a longer wait
_WAITING = {JobState.SCHEDULED, JobState.READY, JobState.RETRYING}
Lane = tuple[str, str]  # queue and task, by their stored names


class Serving:
    """`interval`: minimum seconds between two reads, which all callers share."""

    def __init__(
        self, db: Database, clock: SystemClock, topology: TopologyCache, handlers: Handlers, interval: float
    ) -> None:
        self._db = db
        self._clock = clock
        self._topology = topology
        self._handlers = handlers
        self._interval = interval
        self._takers: list[Taker] = []
        self._served: set[Lane] = set()  # as last read
        self._unserved: dict[Lane, pb.Warning] = {}  # as last read
        self._read_at = float("-inf")
        self._readings: Batcher[None, None] = Batcher(self._read, limit=100_000)
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in self._channels.values()))

    async def warnings(self, lanes: Iterable[Lane]) -> dict[Lane, pb.Warning]:
        """The lanes that no worker or executor serves, with their warnings; empty when that is unknown."""
        return await self.unserved(lanes) or {}

    async def unserved(self, lanes: Iterable[Lane]) -> dict[Lane, pb.Warning] | None:
        """As `warnings`, but None when that is unknown."""
        wanted = set(lanes) - self._served
        if not wanted:
            self._keep_up()
            return {}
        if self._clock.real.monotonic() - self._read_at > self._interval:  # else the last read is recent enough
            try:
                async with asyncio.timeout(PATIENCE):
                    await asyncio.shield(self._readings.submit([None]))
            except (TimeoutError, *FAULTS):
                return None
        return {lane: warning for lane in wanted if (warning := self._warning(lane)) is not None}

    def _warning(self, lane: Lane) -> pb.Warning | None:
        """The warning for a lane by the last read; remembered until the next one."""
        if (known := self._unserved.get(lane)) is not None:
            return known
        why = unserved(*lane, self._takers, self._handlers.names)
        if why is None:
            if len(self._served) < MOST_LANES:
                self._served.add(lane)
            return None
        warning = pb.Warning(reason=why.reason, message=why.message)
        if len(self._unserved) < MOST_LANES:
            self._unserved[lane] = warning
        return warning

    async def warn(self, jobs: Sequence[tuple[pb.Job, Lane]]) -> None:
        """Adds the warning of its lane to each waiting job."""
        waiting = [(job, lane) for job, lane in jobs if STATES[job.state] in _WAITING]
        warnings = await self.warnings(lane for _, lane in waiting) if waiting else {}
        for job, lane in waiting:
            if lane in warnings:
                job.warnings.append(warnings[lane])

    def _keep_up(self) -> None:
        """Reads again in the background: a worker may have disconnected since the last read."""
        if self._clock.real.monotonic() - self._read_at > STALE and not self._readings.backlog:
            self._readings.submit([None]).add_done_callback(lambda reading: reading.exception())

    async def _read(self, waiting: Sequence[None]) -> Sequence[None]:
        if self._clock.real.monotonic() - self._read_at > self._interval:
            rows = await self._db.rows("takers")
            await self._handlers.refresh()
            self._takers = [_taker(r["tasks"], r["queues"], r["only_queues"]) for r in rows] + await self._executors()
            self._served, self._unserved = set(), {}
            self._read_at = self._clock.real.monotonic()
        return waiting

    async def _executors(self) -> list[Taker]:
        """The executors that poll any queue service. Unavailable if one does not answer: its executors are unknown."""
        answers = await asyncio.gather(*(self._asked(q["addresses"]) for q in self._topology.cluster.queues))
        return [_taker(e.tasks, e.queue_handlers, e.queues) for answer in answers for e in answer.executors]

    async def _asked(self, addresses: Sequence[str]) -> queue_pb2.StatsResponse:
        for address in addresses:
            if address not in self._channels:
                self._channels[address] = channel(address)
            stub = queue_pb2_grpc.QueueServiceStub(self._channels[address])
            with suppress(grpc.RpcError):
                answer: queue_pb2.StatsResponse = await stub.Stats(queue_pb2.StatsRequest(), timeout=PATIENCE / 2)
                return answer
        raise Unavailable("a queue service does not answer; retry", "QUEUE_SERVICE_AWAY")


def _taker(tasks: Iterable[str], queues: Iterable[str], only: Iterable[str]) -> Taker:
    return Taker(*(frozenset(qualify(name, field="name") for name in names) for names in (tasks, queues, only)))
