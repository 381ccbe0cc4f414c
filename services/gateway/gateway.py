"""What every part of the gateway is given."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from services.gateway.settings import GatewaySettings
from services.gateway.upstream import Upstream
from services.runtime.clock import SystemClock
from services.runtime.lifecycle import Background


@dataclass(frozen=True, slots=True)
class Gateway:
    settings: GatewaySettings
    upstream: Upstream
    clock: SystemClock
    tasks: Background
    closing: asyncio.Event  # set at a stop: what waits on purpose answers now
