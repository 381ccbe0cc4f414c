"""Puts the gateway together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from taskflow_server.gateway.app import build
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.http import HttpServer, listen
from taskflow_server.gateway.rpc.waits import Waits
from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.gateway.upstream import Upstream
from taskflow_server.runtime import metrics
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.lifecycle import Background


async def start(settings: GatewaySettings, stack: AsyncExitStack, tasks: Background) -> None:
    """Serves at once, without waiting for other services: while the scheduler is away, answers say so."""
    clock = SystemClock()
    listening = listen(settings)
    metrics.serve(settings)
    upstream = Upstream(settings, clock)
    stack.push_async_callback(upstream.close)
    gateway = Gateway(settings, upstream, clock, tasks, asyncio.Event())
    server = HttpServer(build(gateway), settings)
    tasks.start(server.run_until_stopped(listening), "http")
    tasks.start(Waits(gateway).run(), "waits")
    stack.push_async_callback(server.stop)
    stack.callback(gateway.closing.set)
    await server.up.wait()
