"""Four processes of ours, each answering on its own port; the death of one is the death of its part only."""

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from taskflow_server.cluster.health import is_serving
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

SERVES = {
    "queue": "taskflow.v1.QueueService",
    "coordinator": "taskflow.v1.WorkerService",
    "scheduler": "taskflow.v1.JobService",
    "worker": "grpc.health.v1.Health",
}


@pytest.fixture(scope="module")
def four(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(services=tuple(SERVES), forked=False)
    cluster.start_all()
    return cluster


def reflected(address: str) -> set[str]:
    """The full names of the services that the server at `address` says it has."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub.ServerReflectionInfo(iter([ask]), timeout=5)))
    return {service.name for service in answer.list_services_response.service}


def test_four_processes_answer_reflection_each_on_its_own_port(four: ServiceCluster) -> None:
    assert len({four.pid(name) for name in SERVES}) == 4
    for name, service in SERVES.items():
        command = Path(f"/proc/{four.pid(name)}/cmdline").read_bytes().split(b"\0")
        assert {b"taskflow_server.cli", name.encode()} <= set(command)
        assert service in reflected(four.address(name))
        others = set(SERVES.values()) - {service, "grpc.health.v1.Health"}
        assert not reflected(four.address(name)) & others


@pytest.mark.parametrize("victim", SERVES)
def test_killing_one_stops_only_its_part(four: ServiceCluster, victim: str) -> None:
    pids = {name: four.pid(name) for name in SERVES}

    four.kill(victim)

    assert not is_serving(four.address(victim))
    for name in SERVES.keys() - {victim}:
        assert reflected(four.address(name)) >= {SERVES[name]}
        assert four.alive(name) and four.pid(name) == pids[name]
    four.start(victim)
    four.wait_healthy(victim)
    eventually(lambda: all(is_serving(four.address(name)) for name in SERVES), timeout=30)
