"""Faults in what follows a commit or a takeover: nothing that was settled half stays so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import grpc
import psycopg
import pytest

from taskflow import TaskFlow
from taskflow.v1 import dispatch_pb2, dispatch_pb2_grpc
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.refusing import refusing
from tests.support.waiting import eventually

_numbers = itertools.count(1)
SETTINGS = {"coordinator": {"TASKFLOW_LEASE": "2", "TASKFLOW_HEARTBEAT_INTERVAL": "0.5"}}


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env=SETTINGS)
    running.start_all()
    return running


@pytest.fixture
def api(cluster: ServiceCluster) -> Iterator[Api]:
    with Api(cluster.scheduler_address) as stubs:
        eventually(lambda: stubs.topology().coordinators)
        yield stubs


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as client:
        yield client


@pytest.fixture
def queue() -> str:
    return f"settling-{next(_numbers)}"


def register_a_dead_worker(database: str) -> None:
    """A takeover waits for its lease, and holds back what it may have."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "insert into taskflow.workers (worker_id, coordinator, name, host, pid, queues, tasks, concurrency, sdk)"
            " values (gen_random_uuid(), 'coordinator-1', 'dead', 'here', 1, '{}', '{}', 1, 'raw/1')"
        )


def put_lease(database: str, job_id: str, queue: str) -> None:
    """The row of a job that was handed out in doubt, under its shard's first epoch, and has not started."""
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(
            "insert into taskflow.leases"
            " (job_id, exec_id, shard, priority, attempt, tries, handouts, started, queue, task)"
            " select %s,"
            " (lpad(to_hex(shard::integer), 4, '0') || '0000-0001-' || substr(gen_random_uuid()::text, 15))::uuid,"
            " shard, 5, 1, 0, 0, false, name, '' from taskflow.queues where name like %s",
            (job_id, f"%{queue}"),
        )


@pytest.mark.feature("A5", "A12")
def test_a_lease_row_that_cannot_be_written_after_a_takeover_holds_up_its_own_job_only(
    cluster: ServiceCluster, api: Api, database: str, queue: str
) -> None:
    leased, plain = api.new(queue), api.new(queue)
    put_lease(database, leased.id, queue)
    register_a_dead_worker(database)

    with refusing(database, "leases", "53100") as refusals:
        cluster.stop("coordinator")
        cluster.start("coordinator")
        cluster.wait_healthy("coordinator")
        eventually(lambda: api.topology().coordinators)
        with RawWorker(api, queues=[queue]) as worker:
            handed = worker.take()
            assert rows.shown(handed.task.job_id) == plain.id
            assert worker.report(handed.outcome()) == {}
            eventually(lambda: refusals.times > 1)
    with RawWorker(api, queues=[queue]) as worker:
        handed = worker.take()
        assert rows.shown(handed.task.job_id) == leased.id
        handouts = "select handouts from taskflow.leases where job_id = %s"
        assert rows.found(database, handouts, leased.id) == [(1,)], "counted once, however often it was tried"
        assert worker.report(handed.outcome()) == {}


@pytest.mark.feature("R4")
def test_an_attempt_that_was_lost_with_its_worker_and_its_owner_names_the_worker(
    cluster: ServiceCluster, api: Api, tf: TaskFlow, database: str, queue: str
) -> None:
    job = api.new(queue)
    put_lease(database, job.id, queue)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("update taskflow.leases set started = true, worker = 'far-away' where job_id = %s", (job.id,))

    cluster.kill("coordinator")
    cluster.start("coordinator")

    assert api.wait(job.id).state == pb.JOB_STATE_FAILED
    (attempt,) = tf.jobs.attempts(job.id)
    assert (attempt.worker, attempt.outcome) == ("far-away", "lost")
    assert attempt.error.message.startswith("its worker far-away died, or")


@pytest.mark.feature("A8")
def test_a_fault_in_what_counts_outcomes_leaves_none_of_them_in_memory(
    cluster: ServiceCluster, api: Api, database: str, queue: str
) -> None:
    cluster.stop("coordinator")
    cluster.start("coordinator", {"TASKFLOW_FAILPOINTS": "coordinator.counting=raise"})
    cluster.wait_healthy("coordinator")
    eventually(lambda: api.topology().coordinators)

    with RawWorker(api, queues=[queue]) as worker:
        for _ in range(2):
            job = api.new(queue)
            handed = worker.take()
            assert worker.report(handed.outcome()) == {}
            worker.have.clear()
            assert api.wait(job.id).state == pb.JOB_STATE_SUCCEEDED
            assert in_memory(cluster, handed.task.job_id) == []
    assert "outcomes are recorded, but not counted" in cluster.log("coordinator")


def in_memory(cluster: ServiceCluster, job_id: bytes) -> list[dispatch_pb2.LiveJob]:
    with grpc.insecure_channel(cluster.address("coordinator"), options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = dispatch_pb2_grpc.DispatchServiceStub(channel)
        return list(stub.Describe(dispatch_pb2.DescribeRequest(job_ids=[job_id]), timeout=TIMEOUT).jobs)
