"""`taskflow-server gateway`: HTTP, on port 8080."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from taskflow_server.gateway.service import start
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.runtime import logs
from taskflow_server.runtime.lifecycle import Background, run
from taskflow_server.runtime.settings import load


def main() -> int:
    settings = load(GatewaySettings)
    logs.configure(settings.log_level, settings.log_format, settings.name)

    async def serve(stack: AsyncExitStack, tasks: Background) -> None:
        await start(settings, stack, tasks)

    return run(serve, settings.name)


if __name__ == "__main__":
    sys.exit(main())
