"""The client of the topology beside real servers: at which of its addresses an instance answers (S3.6)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from taskflow._transport.topology import Topology
from taskflow.v1 import cluster_pb2
from taskflow_server.rpc.server import channel

SERVING = health_pb2.HealthCheckResponse.SERVING
pytestmark = pytest.mark.feature("S3.6")


@dataclass
class Scene:
    """Processes that answer for instances, and what a scheduler would say of them."""

    answer: cluster_pb2.Topology = field(default_factory=cluster_pb2.Topology)
    servers: dict[str, grpc.aio.Server] = field(default_factory=dict)
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.topology = Topology(self._get, self._channel)

    async def serve(self, incarnation: str) -> str:
        """The address at which a process answers for this instance."""
        server, servicer = grpc.aio.server(), health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        await servicer.set(f"instance/{incarnation}", SERVING)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        self.servers[address] = server
        return address

    def says(self, incarnation: str, *addresses: str) -> None:
        del self.answer.coordinators[:]
        self.answer.coordinators.add(name="c1", incarnation=incarnation, addresses=addresses)

    async def _get(self) -> cluster_pb2.Topology:
        return self.answer

    def _channel(self, address: str) -> grpc.aio.Channel:
        return self.channels.setdefault(address, channel(address))


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    scene = Scene()
    yield scene
    for opened in scene.channels.values():
        await opened.close()
    for server in scene.servers.values():
        await server.stop(None)


async def test_another_process_at_an_address_of_an_instance_is_left_alone(scene: Scene) -> None:
    other, own = await scene.serve("another"), await scene.serve("a")
    scene.says("a", other, own)

    await scene.topology.refresh()

    assert scene.topology.coordinators == ("c1",)
    assert await scene.topology.coordinator("c1") == own
    assert scene.topology.addresses() == {other, own}


async def test_an_instance_that_answers_nowhere_is_unavailable_and_one_address_is_not_asked(scene: Scene) -> None:
    other = await scene.serve("another")
    scene.says("a", other, await scene.serve("a third"))
    await scene.topology.refresh()

    with pytest.raises(grpc.aio.AioRpcError, match="is instance a") as failed:
        await scene.topology.coordinator("c1")

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    scene.says("a", other)
    await scene.topology.refresh()
    assert await scene.topology.coordinator("c1") == other


async def test_one_address_is_asked_as_well_where_that_is_wanted(scene: Scene) -> None:
    other = await scene.serve("another")
    scene.topology = Topology(scene._get, scene._channel, ask_always=True)
    scene.says("a", other)
    await scene.topology.refresh()

    with pytest.raises(grpc.aio.AioRpcError, match="is instance a"):
        await scene.topology.coordinator("c1")


async def test_an_address_stays_until_a_call_has_failed_and_then_the_next_is_found(scene: Scene) -> None:
    first, second = await scene.serve("a"), await scene.serve("a")
    scene.says("a", first, second)
    await scene.topology.refresh()
    assert await scene.topology.coordinator("c1") == first

    await scene.servers.pop(first).stop(None)
    await scene.topology.refresh()
    assert await scene.topology.coordinator("c1") == first
    scene.topology.look_again()

    assert await scene.topology.coordinator("c1") == second


async def test_an_instance_that_is_named_no_longer_stays_known_and_its_successor_has_its_name(scene: Scene) -> None:
    before, after = await scene.serve("a"), await scene.serve("b")
    scene.says("a", before, after)
    await scene.topology.refresh()
    assert await scene.topology.coordinator("c1") == before

    del scene.answer.coordinators[:]
    await scene.topology.refresh()
    assert (scene.topology.coordinators, scene.topology.addresses()) == ((), set())
    assert await scene.topology.coordinator("c1") == before

    scene.says("b", before, after)
    await scene.topology.refresh()
    assert await scene.topology.coordinator("c1") == after
