"""`taskflow-server queue`: the queue service, on port 9002."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from pydantic import Field

from taskflow.v1 import queue_pb2, queue_pb2_grpc
from taskflow_server.queue.pending import Aging, Pending
from taskflow_server.queue.servicer import QueueServicer
from taskflow_server.rpc.server import Server
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.lifecycle import Background, run
from taskflow_server.runtime.settings import ServiceSettings, load


class QueueSettings(ServiceSettings):
    port: int = Field(9002, ge=1, le=65535, description="gRPC port")
    metrics_port: int = Field(9102, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("queue-1", description="stable name of this instance")
    memory_bytes: int = Field(
        256 << 20, ge=1 << 20, description="memory for waiting jobs, in bytes, shared by all lanes that have any"
    )
    priority_aging: float = Field(
        2.0,
        ge=0,
        description="a job that has waited this long for each step of priority goes before higher ones; 0: never",
    )
    aged_one_in: int = Field(
        5, ge=2, le=1000, description="one job in this number may go before its turn, after a wait"
    )
    executor_seen: float = Field(
        60.0, gt=0, description="seconds after its last poll for which an executor counts as one that takes jobs"
    )


def main() -> int:
    settings = load(QueueSettings)
    logs.configure(settings.log_level, settings.log_format, settings.name)

    async def serve(stack: AsyncExitStack, tasks: Background) -> None:
        server = Server(settings)
        aging = Aging(settings.priority_aging, settings.aged_one_in)
        pending = Pending(SystemClock(), aging, settings.executor_seen)
        servicer = QueueServicer(pending, server.closing, server.incarnation, settings.memory_bytes)
        name = queue_pb2.DESCRIPTOR.services_by_name["QueueService"].full_name
        server.add(name, lambda s: queue_pb2_grpc.add_QueueServiceServicer_to_server(servicer, s))
        tasks.start(servicer.release_at_stop(), "release")
        metrics.follow(
            {
                metrics.queue_service_tasks: lambda: pending.depth,
                metrics.queue_service_lanes: lambda: pending.lanes,
                metrics.queue_service_bytes: lambda: pending.size,
                metrics.polls_waiting: lambda: pending.polls,
            }
        )
        metrics.serve(settings)
        await server.start(stack)
        await server.serving(True)

    return run(serve, settings.name)


if __name__ == "__main__":
    sys.exit(main())
