"""`taskflow-server worker [module:app]`: the SDK's worker runtime as a service, on port 9004."""

from __future__ import annotations

import errno
import sys
from contextlib import AsyncExitStack

from taskflow.errors import InvalidArgument
from taskflow_server.rpc.server import Server, free_port, listen
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.lifecycle import Background, run
from taskflow_server.runtime.settings import load, refuse
from taskflow_server.worker.push.running import Pushing, load_destinations
from taskflow_server.worker.running import Running, load_app
from taskflow_server.worker.settings import WorkerSettings


def main(app_name: str = "") -> int:
    settings = load(WorkerSettings, **({"app": app_name} if app_name else {}))
    logs.configure(settings.log_level, settings.log_format, settings.name)
    settings = _on_free_ports(settings)
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


def _on_free_ports(settings: WorkerSettings) -> WorkerSettings:
    """Others in place of the default ports where these are taken, as by the worker of `taskflow up`: nobody needs to
    know the ports of a worker. A port that the operator names is his to have."""
    taken = {}
    for field in ("port", "metrics_port"):
        port = getattr(settings, field)
        if field not in settings.model_fields_set and port and not _is_free(settings.host, port):
            taken[field] = free_port(settings.host)
            logs.get("worker").info("its default port is in use, so it takes another", port=port, takes=taken[field])
    return settings.model_copy(update=taken)


def _is_free(host: str, port: int) -> bool:
    try:
        for each in listen(host, port):
            each.close()
    except OSError as error:
        return error.errno != errno.EADDRINUSE  # the start reports any other error
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
