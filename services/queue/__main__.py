"""`python -m services.queue`: the queue service, on port 9002."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from pydantic import Field

from services.queue.pending import Pending
from services.queue.servicer import QueueServicer
from services.rpc.server import Server
from services.runtime import logs, metrics
from services.runtime.clock import SystemClock
from services.runtime.lifecycle import Background, run
from services.runtime.settings import ServiceSettings, load
from taskflow.v1 import queue_pb2, queue_pb2_grpc


class QueueSettings(ServiceSettings):
    port: int = Field(9002, ge=1, le=65535, description="gRPC port")
    metrics_port: int = Field(9102, ge=0, le=65535, description="Prometheus metrics; 0 turns them off")
    name: str = Field("queue-1", description="stable name of this instance")


def main() -> int:
    settings = load(QueueSettings)
    logs.configure(settings.log_level, settings.log_format, settings.name)

    async def serve(stack: AsyncExitStack, tasks: Background) -> None:
        server = Server(settings)
        pending = Pending(SystemClock())
        servicer = QueueServicer(pending, server.closing, server.incarnation)
        name = queue_pb2.DESCRIPTOR.services_by_name["QueueService"].full_name
        server.add(name, lambda s: queue_pb2_grpc.add_QueueServiceServicer_to_server(servicer, s))
        tasks.start(servicer.release_at_stop(), "release")
        metrics.follow(
            {
                metrics.queue_service_tasks: lambda: pending.depth,
                metrics.queue_service_lanes: lambda: pending.lanes,
                metrics.polls_waiting: lambda: pending.polls,
            }
        )
        metrics.serve(settings)
        await server.start(stack)
        await server.serving(True)

    return run(serve, settings.name)


if __name__ == "__main__":
    sys.exit(main())
