"""The context that every part of the gateway gets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from taskflow_server.gateway.settings import GatewaySettings
from taskflow_server.gateway.upstream import Upstream
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.lifecycle import Background


@dataclass(frozen=True, slots=True)
class Gateway:
    settings: GatewaySettings
    upstream: Upstream
    clock: SystemClock
    tasks: Background
    closing: asyncio.Event  # set at a stop: what waits on purpose answers now
