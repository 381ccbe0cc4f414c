"""The other services, as the gateway asks them: the scheduler, and whom its topology names.

Every call has a deadline and fails as a Failure. No call is repeated here: the caller knows whether it may be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from taskflow._transport.topology import Topology
from taskflow.v1 import (
    alerts_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    jobs_pb2_grpc,
    queues_pb2_grpc,
    schedules_pb2_grpc,
    tasks_pb2_grpc,
    workflows_pb2_grpc,
)
from taskflow_server.gateway.errors import Failure, of_call
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.rpc.server import channel
from taskflow_server.runtime.clock import SystemClock

R = TypeVar("R")

TOPOLOGY_AGE = 1.0  # seconds that an answer of GetTopology is used again
HEALTH_TIMEOUT = 1.0  # seconds


class Upstream:
    """One channel per address, until `close`."""

    def __init__(self, settings: GatewaySettings, clock: SystemClock) -> None:
        self.scheduler = settings.scheduler_address
        self._settings = settings
        self._clock = clock
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._answer: cluster_pb2.Topology | None = None
        self._answered_at = 0.0
        found = self.channel(self.scheduler)
        self.jobs = jobs_pb2_grpc.JobServiceStub(found)
        self.queues = queues_pb2_grpc.QueueAdminServiceStub(found)
        self.tasks = tasks_pb2_grpc.TaskServiceStub(found)
        self.schedules = schedules_pb2_grpc.ScheduleServiceStub(found)
        self.workflows = workflows_pb2_grpc.WorkflowServiceStub(found)
        self.alerts = alerts_pb2_grpc.AlertServiceStub(found)
        self.cluster = cluster_pb2_grpc.ClusterServiceStub(found)
        self.namespaces = cluster_pb2_grpc.NamespaceServiceStub(found)
        self._health = health_pb2_grpc.HealthStub(found)
        request = cluster_pb2.GetTopologyRequest()
        self.instances = Topology(lambda: self.call(self.cluster.GetTopology, request), self.channel)
        """As `topology` has read them last."""

    def channel(self, address: str) -> grpc.aio.Channel:
        """The channel to a service; for stubs of one's own."""
        found = self._channels.get(address)
        if found is None:
            found = self._channels[address] = channel(address, self._settings.max_message_bytes)
        return found

    async def call(
        self,
        method: Callable[..., Awaitable[R]],
        request: Any,
        *,
        timeout: float | None = None,
        address: str | None = None,
    ) -> R:
        """The answer of one method of a stub, within `timeout` seconds (`call_timeout`). Raises Failure.

        `address` is whom an error names: the scheduler's by default.
        """
        try:
            return await method(request, timeout=self._settings.call_timeout if timeout is None else timeout)
        except grpc.aio.AioRpcError as error:
            raise of_call(error, address or self.scheduler) from None

    async def topology(self) -> cluster_pb2.Topology:
        """Where coordinators and queue services are, as of the last second. The clock follows it."""
        now = self._clock.real.monotonic()
        if self._answer is None or now - self._answered_at > TOPOLOGY_AGE:
            self._answer = await self.instances.refresh()
            self._answered_at = self._clock.real.monotonic()
            self._clock.move(self._answer.clock_moved_us)
        return self._answer

    async def ready(self) -> bool:
        """Whether the scheduler says that it serves."""
        try:
            answer = await self.call(self._health.Check, health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT)
        except Failure:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def close(self) -> None:
        channels, self._channels = list(self._channels.values()), {}
        await asyncio.gather(*(each.close() for each in channels), return_exceptions=True)
