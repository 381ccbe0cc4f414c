"""`python -m services.worker [module:app]`: the SDK's worker runtime as a service, on port 9004."""

from __future__ import annotations

import sys
from contextlib import AsyncExitStack

from services.rpc.server import Server
from services.runtime import logs, metrics
from services.runtime.lifecycle import Background, run
from services.runtime.settings import load, refuse
from services.worker.push.running import Pushing, load_destinations
from services.worker.running import Running, load_app
from services.worker.settings import WorkerSettings
from taskflow.errors import InvalidArgument


def main() -> int:
    arguments = sys.argv[1:]
    if len(arguments) > 1 or (arguments and arguments[0].startswith("-")):
        refuse("usage: python -m services.worker [module:app]; everything else is set by TASKFLOW_* variables")
    settings = load(WorkerSettings, **({"app": arguments[0]} if arguments else {}))
    logs.configure(settings.log_level, settings.log_format, settings.name)
    try:
        app = load_app(settings)
    except InvalidArgument as error:
        refuse(f"TASKFLOW_APP: {error.message}")
    try:
        destinations = load_destinations(settings)
    except ValueError as error:
        refuse(str(error))

    async def serve(stack: AsyncExitStack, tasks: Background) -> None:
        server = Server(settings)
        metrics.serve(settings)
        await server.start(stack)
        running = Running(app, settings)
        tasks.start(running.run(), "worker")
        stack.push_async_callback(running.drain)
        if destinations:
            pushing = Pushing(destinations, settings)
            tasks.start(pushing.run(), "push")
            stack.push_async_callback(pushing.drain)
        stack.push_async_callback(server.serving, False)
        await server.serving(True)

    return run(serve, settings.name)


if __name__ == "__main__":
    sys.exit(main())
