"""Calls of a worker to its coordinators."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc

from taskflow._transport.channels import ask
from taskflow._transport.io_thread import IoThread
from taskflow._worker.topology import TopologyWatch
from taskflow.v1 import worker_pb2, worker_pb2_grpc

# The message itself is at fault: it would be refused again.
REFUSED = frozenset(
    {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE}
)
_REPORT_SECONDS = 10.0
_NOTIFY_SECONDS = 2.0


class CoordinatorCalls:
    """Each under the present worker_id, to a coordinator by its name. AioRpcError as it comes. On the I/O loop."""

    def __init__(self, io: IoThread, topology: TopologyWatch, worker_id: Callable[[], bytes]) -> None:
        self.spawn = io.spawn
        self.look_for_owners = topology.refresh
        self._topology = topology
        self._worker_id = worker_id

    async def report(
        self, coordinator: str, outcomes: list[worker_pb2.AttemptOutcome]
    ) -> worker_pb2.ReportResponse:
        request = worker_pb2.ReportRequest(worker_id=self._worker_id(), outcomes=outcomes)
        stub = await self._stub(coordinator)
        answer: worker_pb2.ReportResponse = await ask(stub.Report, request, _REPORT_SECONDS)
        return answer

    async def notify(self, coordinator: str, notifications: list[worker_pb2.Notification]) -> None:
        request = worker_pb2.NotifyRequest(worker_id=self._worker_id(), notifications=notifications)
        stub = await self._stub(coordinator)
        await ask(stub.Notify, request, _NOTIFY_SECONDS)

    async def _stub(self, coordinator: str) -> Any:
        return worker_pb2_grpc.WorkerServiceStub(await self._topology.coordinator(coordinator))


def is_cancelled() -> bool:
    """Whether the present task itself was cancelled, rather than a call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
