"""An instance with several addresses: a worker finds the one at which that very process answers."""

from collections.abc import Callable

import grpc
import pytest

from taskflow import TaskFlow
from taskflow.v1 import cluster_pb2, cluster_pb2_grpc
from taskflow_server.cluster.ports import free_ports
from tests.support.cluster import ROOT, ServiceCluster
from tests.support.processes import connected
from tests.support.waiting import eventually

EXAMPLE = str(ROOT / "sdk" / "examples" / "02_worker.py")


@pytest.fixture(scope="module")
def advertising(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    """Ahead of where they answer, the coordinator names a dead port, and the queue service another living process."""
    cluster = make_cluster()
    dead = free_ports(1)[0]
    cluster.start("queue")
    cluster.start("scheduler")
    cluster.start(
        "coordinator",
        env={
            "TASKFLOW_ADVERTISE": f"127.0.0.1:{dead}, {cluster.address('coordinator')}",
            "TASKFLOW_QUEUE_ADVERTISE": f"{cluster.scheduler_address},{cluster.address('queue')}",
        },
    )
    for name in ("queue", "scheduler", "coordinator"):
        cluster.wait_healthy(name)
    return cluster


def topology(cluster: ServiceCluster) -> cluster_pb2.Topology:
    with grpc.insecure_channel(cluster.scheduler_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        return cluster_pb2_grpc.ClusterServiceStub(channel).GetTopology(cluster_pb2.GetTopologyRequest(), timeout=5)


@pytest.mark.feature("S3.6")
def test_the_topology_hands_out_every_address_and_which_process_it_is(advertising: ServiceCluster) -> None:
    answer = eventually(lambda: (t := topology(advertising)).queues and t)

    (coordinator,), (queue,) = answer.coordinators, answer.queues
    assert len(coordinator.addresses) == 2 and coordinator.addresses[1] == advertising.address("coordinator")
    assert list(queue.addresses) == [advertising.scheduler_address, advertising.address("queue")]
    assert len({coordinator.incarnation, queue.incarnation, answer.schedulers[0].incarnation, ""}) == 4


@pytest.mark.feature("S3.6")
def test_a_worker_passes_over_a_dead_address_and_over_another_instance(advertising: ServiceCluster) -> None:
    tf = TaskFlow(advertising.scheduler_address)
    worker = advertising.run("worker", EXAMPLE, env={"TASKFLOW_ADDRESS": advertising.scheduler_address})

    result = tf.new_job("EmailQueue", {"to": "ada@example.org"}).wait(timeout=30).result

    assert result == {"delivered": "ada@example.org"}
    for name in ("coordinator", "queue"):
        assert connected(worker.process.pid, int(advertising.address(name).rpartition(":")[2]))


@pytest.mark.feature("S3.6")
def test_a_worker_finds_a_queue_service_again_that_has_become_another_process(advertising: ServiceCluster) -> None:
    tf = TaskFlow(advertising.scheduler_address)
    before = topology(advertising).queues[0].incarnation

    advertising.restart("queue")

    assert tf.new_job("EmailQueue", {"to": "grace@example.org"}).wait(timeout=30).result
    eventually(lambda: topology(advertising).queues[0].incarnation not in ("", before))  # read once a second
