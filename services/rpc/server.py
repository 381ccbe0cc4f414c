"""The gRPC server of all services: health, reflection, limits, keepalive, the error map, a graceful stop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, NoReturn
from uuid import uuid4

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from taskflow._policy.keepalive import client_options, reconnect_options, server_options
from taskflow_server.rpc import reflection
from taskflow_server.rpc.errors import ErrorInterceptor
from taskflow_server.runtime.settings import ServiceSettings, refuse

# Calls that have arrived and not begun. Beyond the first number, 1,000 by default, gRPC drops some of them as
# CANCELLED, beyond the second all; a few dozen clients that begin at the same time reach the default.
MAX_PENDING, MAX_PENDING_AT_ALL = 10_000, 20_000


def channel_options(max_message_bytes: int) -> list[tuple[str, int]]:
    return [
        *client_options(),
        *reconnect_options(3_000),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.enable_http_proxy", 0),  # TaskFlow's processes are never behind the user's web proxy
    ]


def channel(address: str, max_message_bytes: int = 8 << 20) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(address, options=channel_options(max_message_bytes))


def listen(host: str, port: int, backlog: int = 1) -> list[socket.socket]:
    """A listening socket for each address of a host. OSError when there is none, or one of them is in use.

    An address that this machine has not, as ::1 of `localhost` where IPv6 is off, is left out.
    """
    listening: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                listening.append(_listen(family, kind, protocol, address, backlog))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
        if absent is not None and not listening:
            raise absent
    except OSError:
        for each in listening:
            each.close()
        raise
    return listening


def free_port(host: str) -> int:
    """A port that is free there now."""
    sockets = listen(host, 0)
    port: int = sockets[0].getsockname()[1]
    for each in sockets:
        each.close()
    return port


def _listen(family: int, kind: int, protocol: int, address: Any, backlog: int) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(backlog)
    except OSError:
        made.close()
        raise
    return made


def refuse_address(settings: ServiceSettings, error: OSError) -> NoReturn:
    """Ends the process with one line that names the variable at fault: the port, or the host."""
    where = f"cannot listen on {settings.address}"
    if error.errno == errno.EADDRINUSE:
        refuse(f"TASKFLOW_PORT: {where}; is it in use? Choose another port or stop what is there")
    if error.errno in (errno.EACCES, errno.EPERM):
        refuse(f"TASKFLOW_PORT: {where} ({error.strerror}); choose a port above 1023")
    refuse(f"TASKFLOW_HOST: {where} ({error.strerror}); give an address that this machine has, as 0.0.0.0 or ::")


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
                *server_options(settings.keepalive_interval),
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                ("grpc.server.max_pending_requests", MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_AT_ALL),
                ("grpc.so_reuseport", 0),  # a second process on this port must fail, not share it
            ],
        )
        self._names = [*reflection.SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name]
        self._health = HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.closing = asyncio.Event()

    def add(self, name: str, register: Callable[[grpc.aio.Server], None]) -> None:
        """`name`: the service's full name, for reflection."""
        register(self._server)
        self._names.append(name)

    async def start(self, stack: AsyncExitStack) -> None:
        """Listens. An address in use ends the process with one line."""
        reflection.enable(self._names, self._server)
        self.check_address()
        try:
            self._server.add_insecure_port(self.settings.address)
        except RuntimeError:
            refuse_address(self.settings, OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE)))
        await self._health.set(f"instance/{self.incarnation}", health_pb2.HealthCheckResponse.SERVING)
        await self.serving(False)  # of itself it would answer SERVING from the first moment on
        await self._server.start()
        stack.push_async_callback(self.stop)

    def check_address(self) -> None:
        """Ends the process with one line when nothing can listen at its address, as `start` does."""
        try:
            for each in listen(self.settings.host, self.settings.port):
                each.close()  # gRPC would fail as well, with a line of its own on stderr
        except OSError as error:
            refuse_address(self.settings, error)

    async def serving(self, yes: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if yes else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._names):
            await self._health.set(name, status)

    async def stop(self) -> None:
        """Open streams hold up a stop: servicers watch `closing` and end theirs."""
        self.closing.set()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self.settings.stop_grace)
