"""`python -m services.scheduler`: the public API, on port 9003."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from services.rpc.server import Server
from services.runtime import logs, metrics
from services.runtime.clock import SystemClock
from services.runtime.lifecycle import Background, run
from services.runtime.settings import load
from services.scheduler.service import start
from services.scheduler.settings import SchedulerSettings


def main() -> int:
    settings = load(SchedulerSettings)
    logs.configure(settings.log_level, settings.log_format, settings.name)

    async def serve(stack: AsyncExitStack, tasks: Background) -> None:
        server = Server(settings)
        metrics.serve(settings)
        await start(settings, server, SystemClock(), stack, tasks)

    return run(serve, settings.name)


if __name__ == "__main__":
    sys.exit(main())
