"""uvicorn within the life cycle of a service: it handles no signals, and an address in use is a one-line error."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.rpc import server

BACKLOG = 512
IDLE_TIMEOUT = 75  # seconds that a connection may rest between two requests


class HttpServer(uvicorn.Server):
    """Serves from when `up` is set on until `stop`."""

    def __init__(self, app: ASGIApp, settings: GatewaySettings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                limit_concurrency=settings.max_connections,
                timeout_keep_alive=IDLE_TIMEOUT,
                timeout_graceful_shutdown=math.ceil(settings.stop_grace),
            )
        )
        self.up = asyncio.Event()
        self._down = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none: the life cycle of the service handles signals."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def run_until_stopped(self, listening: list[socket.socket]) -> None:
        try:
            await self.serve(sockets=listening)
        finally:
            self.up.set()  # also after a failure, so that no caller waits for ever
            self._down.set()

    async def stop(self) -> None:
        """Lets requests that are under way end, for as long as the setting says."""
        self.should_exit = True
        await self._down.wait()


def listen(settings: GatewaySettings) -> list[socket.socket]:
    """Listening sockets; the process ends with one line when the address cannot be had."""
    try:
        listening = server.listen(settings.host, settings.port, BACKLOG)
    except OSError as error:
        server.refuse_address(settings, error)
    for each in listening:
        each.setblocking(False)
    return listening
