"""Puts the gateway together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from services.gateway.app import build
from services.gateway.gateway import Gateway
from services.gateway.http import HttpServer, listen
from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Upstream
from services.runtime import metrics
from services.runtime.clock import SystemClock
from services.runtime.lifecycle import Background


async def start(settings: GatewaySettings, stack: AsyncExitStack, tasks: Background) -> None:
    """Serves at once, whoever else is there: while the scheduler is away, answers say so."""
    clock = SystemClock()
    listening = listen(settings)
    metrics.serve(settings)
    upstream = Upstream(settings, clock)
    stack.push_async_callback(upstream.close)
    gateway = Gateway(settings, upstream, clock, tasks, asyncio.Event())
    server = HttpServer(build(gateway), settings)
    tasks.start(server.run_until_stopped(listening), "http")
    stack.push_async_callback(server.stop)
    stack.callback(gateway.closing.set)
    await server.up.wait()
