"""A gRPC server as all of ours are: health, reflection, limits, keepalive, the error map, a graceful stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from services.rpc.errors import ErrorInterceptor
from services.runtime.settings import ServiceSettings, refuse

_KEEPALIVE = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # without it a frozen peer goes unseen for over a minute
    ("grpc.keepalive_permit_without_calls", 1),
]


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        *_KEEPALIVE,
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.enable_http_proxy", 0),  # our own processes are never behind the user's web proxy
    ]


def channel(address: str, max_message_bytes: int = 8 << 20) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=channel_options(max_message_bytes))


def _probe(host: str, port: int) -> None:
    """OSError when nothing can listen there now."""
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)


class Server:
    """`add` servicers, `start`, set `serving` when ready.

    From its start on, health answers SERVING for `instance/<incarnation>`: so a client tells this process from any
    other that it may find at one of the advertised addresses.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.incarnation = uuid4()
        self._server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            options=[
                *_KEEPALIVE,
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.so_reuseport", 0),  # a second process on our port must fail, not share it
            ],
        )
        self._names = [reflection.SERVICE_NAME, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.closing = asyncio.Event()

    def add(self, name: str, register: Callable[[grpc.aio.Server], None]) -> None:
        """`name`: the service's full name, for reflection."""
        register(self._server)
        self._names.append(name)

    async def start(self, stack: AsyncExitStack) -> None:
        """Listens. An address in use ends the process with one line."""
        reflection.enable_server_reflection(self._names, self._server)
        where = f"{self.settings.host}:{self.settings.port}"
        try:
            _probe(self.settings.host, self.settings.port)  # gRPC would fail as well, with a line of its own on stderr
            self._server.add_insecure_port(where)
        except (OSError, RuntimeError):
            refuse(f"TASKFLOW_PORT: cannot listen on {where}; is it in use? Choose another port or stop what is there")
        await self._health.set(f"instance/{self.incarnation}", health_pb2.HealthCheckResponse.SERVING)
        await self.serving(False)  # of itself it would answer SERVING from the first moment on
        await self._server.start()
        stack.push_async_callback(self.stop)

    async def serving(self, yes: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self) -> None:
        """Open streams hold up a stop: servicers watch `closing` and end theirs."""
        self.closing.set()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self.settings.stop_grace)
