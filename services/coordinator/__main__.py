"""`taskflow-server coordinator`: dispatches jobs, on port 9001."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from taskflow_server.coordinator.service import start
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.rpc.server import Server
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.lifecycle import Background, run
from taskflow_server.runtime.settings import load


def main() -> int:
    settings = load(CoordinatorSettings)
    logs.configure(settings.log_level, settings.log_format, settings.name)

    async def serve(stack: AsyncExitStack, tasks: Background) -> None:
        server = Server(settings)
        metrics.serve(settings)
        await start(settings, server, SystemClock(), stack, tasks)

    return run(serve, settings.name)


if __name__ == "__main__":
    sys.exit(main())
