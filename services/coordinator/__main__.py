"""`python -m services.coordinator`: assigns work, on port 9001."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from services.coordinator.service import start
from services.coordinator.settings import CoordinatorSettings
from services.rpc.server import Server
from services.runtime import logs, metrics
from services.runtime.clock import SystemClock
from services.runtime.lifecycle import Background, run
from services.runtime.settings import load


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
