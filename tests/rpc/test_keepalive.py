"""Pings on idle connections: clients and servers agree, and the names of their options are those that gRPC knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from taskflow._policy.keepalive import CONNECT_WITHIN_MS, INTERVAL, client_options, server_options
from taskflow._transport import channels
from taskflow_server.cluster.ports import free_ports
from taskflow_server.rpc.server import Server, channel_options
from taskflow_server.runtime.settings import ServiceSettings
from tests.support.cluster import ServiceCluster
from tests.support.link import Link
from tests.support.waiting import eventually_async

PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00"  # the head of the frame
SHORT = 0.2


class CountingProxy:
    """Counts what passes between a client and a server."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.connections = self.pings = 0
        self.from_server = bytearray()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        with suppress(ConnectionError):
            await asyncio.gather(self._pass(reader, up_writer, True), self._pass(up_reader, writer, False))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool) -> None:
        while data := await reader.read(1 << 16):
            if up:
                self.pings += data.count(PING)  # an idle connection carries one frame at a time
            else:
                self.from_server += data
            writer.write(data)
            await writer.drain()
        writer.close()


@pytest.mark.feature("R21")
@pytest.mark.parametrize("waits", [False, True], ids=["no call", "a call that waits"])
async def test_an_idle_connection_lives_on_over_many_pings(waits: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """As over an hour, or a wait of an hour, with pings every 10 s."""
    async with AsyncExitStack() as stack:
        server = Server(ServiceSettings(port=free_ports(1)[0], keepalive_interval=SHORT))
        await server.start(stack)
        await server.serving(True)
        proxy = CountingProxy(server.settings.port)
        address = await stack.enter_async_context(proxy.listening())
        options = channels.channel_options(address, 500, SHORT)
        channel = await stack.enter_async_context(grpc.aio.insecure_channel(address, options=options))
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        connected = proxy.connections  # a busy machine may need two attempts
        watch = health.Watch(health_pb2.HealthCheckRequest()) if waits else None
        if watch is not None:
            await watch.read()

        await eventually_async(lambda: proxy.pings >= 5, 30)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=10)

        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert b"too_many_pings" not in proxy.from_server
        assert proxy.connections == connected
        if watch is not None:
            assert not watch.done()
            watch.cancel()
    assert capfd.readouterr().err == ""


@pytest.mark.feature("R21")
@pytest.mark.parametrize(
    "options",
    [channel_options(1 << 20), channels.channel_options("127.0.0.1:1", 500, INTERVAL)],
    ids=["of a service", "of the SDK"],
)
def test_a_channel_connects_over_a_link_with_a_round_trip_of_a_second(
    cluster: ServiceCluster, options: list[tuple[str, int]]
) -> None:
    with Link(delay=0.5) as link:
        link.target = cluster.scheduler_address
        with grpc.insecure_channel(link.address, options=options) as channel:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_WITHIN_MS / 1000 * 2)


@pytest.mark.parametrize("interval", [0.1, 1.0, INTERVAL, 60.0, 3600.0])
def test_a_server_accepts_the_pings_of_clients_by_default_and_at_its_own_interval(interval: float) -> None:
    shortest = dict(server_options(interval))["grpc.http2.min_ping_interval_without_data_ms"]

    for client in (INTERVAL, interval):
        assert shortest < dict(client_options(client))["grpc.keepalive_time_ms"]


def test_grpc_knows_every_option_by_its_name() -> None:
    """It ignores others without a word."""
    library = Path(cygrpc.__file__).read_bytes()
    options = [*server_options(), *channel_options(1 << 20), *channels.channel_options("127.0.0.1:1", 500, INTERVAL)]

    assert [name for name, _ in options if name.encode() + b"\x00" not in library] == []
