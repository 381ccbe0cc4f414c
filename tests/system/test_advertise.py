"""An instance with several addresses: whoever asks for it finds the one at which that very process answers."""

from collections.abc import Callable

import grpc
import pytest

from taskflow import JobState, TaskFlow
from taskflow.v1 import cluster_pb2, cluster_pb2_grpc, jobs_pb2, worker_pb2
from taskflow_server.cluster.ports import free_ports
from taskflow_server.worker.push.destination import TaskOptions
from taskflow_server.worker.push.executor import Executor, Note
from tests.support.cluster import ROOT, SPINE, ServiceCluster
from tests.support.processes import connected
from tests.support.rpc import Rpc
from tests.support.waiting import eventually

EXAMPLE = str(ROOT / "sdk" / "examples" / "02_worker.py")


@pytest.fixture(scope="module")
def advertising(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    """Ahead of where they answer, the coordinator names a dead port, and the queue service another living process."""
    cluster = make_cluster(services=(*SPINE, "gateway"))
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
    cluster.start("gateway")
    for name in ("queue", "scheduler", "coordinator", "gateway"):
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


@pytest.mark.feature("S3.6", "S2.5")
def test_the_gateway_passes_over_a_dead_address_and_over_another_instance(advertising: ServiceCluster) -> None:
    rpc = Rpc(advertising.address("gateway"))
    eventually(lambda: topology(advertising).queues)
    with TaskFlow(advertising.scheduler_address) as tf:
        job = tf.new_job("default", {"n": 1}, task="by-rpc")

        (task,) = rpc("awf.task/long-poll", taskDefinitions=["by-rpc"], timeout=20_000)["resources"]
        told = {"id": task["id"], "execId": task["execId"]}
        rpc("awf.task/start", **told)
        rpc("awf.task/success", **told, result={"n": 2})

        assert job.wait(timeout=20).result == {"n": 2}


@pytest.mark.feature("S3.6")
async def test_a_pusher_passes_over_a_dead_address_and_over_another_instance(advertising: ServiceCluster) -> None:
    eventually(lambda: topology(advertising).queues)
    executor = Executor(advertising.scheduler_address, "pusher", 60)
    try:
        with TaskFlow(advertising.scheduler_address) as tf:
            job = tf.new_job("pushed", {"n": 1}, task="by-push")
            (order,) = await executor.poll({"by-push": TaskOptions()}, 1, 20)
            assert await executor.start(order.ticket)
            assert await executor.notify([Note(order.ticket, progress="half")]) == {order.ticket.exec_id: ""}
            outcome = worker_pb2.AttemptOutcome(
                exec_id=order.ticket.exec_id, job_id=order.ticket.job_id, outcome=jobs_pb2.OUTCOME_SUCCEEDED
            )

            assert await executor.report([outcome]) == {order.ticket.exec_id: ""}

            assert job.get().state is JobState.SUCCEEDED
    finally:
        await executor.close()


@pytest.mark.feature("S3.6")
def test_a_worker_finds_a_queue_service_again_that_has_become_another_process(advertising: ServiceCluster) -> None:
    tf = TaskFlow(advertising.scheduler_address)
    before = topology(advertising).queues[0].incarnation

    advertising.restart("queue")

    assert tf.new_job("EmailQueue", {"to": "grace@example.org"}).wait(timeout=30).result
    eventually(lambda: topology(advertising).queues[0].incarnation not in ("", before))  # read once a second
