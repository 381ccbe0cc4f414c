"""Four processes, each a gRPC server of its own: health, reflection, a stop in order, a part of its own (S3.6)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import queue_pb2
from tests.support import postgres as pg
from tests.support.api import TIMEOUT, Api, refusal, spec
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("S3.6")

REFLECTIONS = ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection")
COMMON = {"grpc.health.v1.Health", *REFLECTIONS}
OWN = {
    "scheduler": {
        f"taskflow.v1.{name}Service"
        for name in ("Alert", "Job", "QueueAdmin", "Cluster", "Namespace", "Schedule", "Task", "Workflow")
    },
    "coordinator": {"taskflow.v1.WorkerService", "taskflow.v1.DispatchService"},
    "queue": {"taskflow.v1.QueueService"},
    "worker": set[str](),
}
GRACE = 5.0  # the services' default


@pytest.fixture(scope="module")
def cluster(postgres: str, template: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceCluster]:
    """All four, against a database of their own; the worker runs the app of tests.support.cli_app."""
    name = f"servers_{os.getpid()}"
    dsn = pg.create_database(postgres, name, template)
    running = ServiceCluster(
        dsn, tmp_path_factory.mktemp("servers"), services=("queue", "coordinator", "scheduler", "worker"),
        app="tests.support.cli_app:app",
    )  # fmt: skip
    running.start_all()
    yield running
    running.close()
    pg.drop_database(postgres, name)


@pytest.fixture(scope="module")
def api(cluster: ServiceCluster) -> Iterator[Api]:
    with Api(cluster.scheduler_address) as stubs:
        yield stubs


def channel(cluster: ServiceCluster, name: str) -> grpc.Channel:
    return grpc.insecure_channel(cluster.address(name), options=[("grpc.enable_http_proxy", 0)])


def health(cluster: ServiceCluster, name: str, service: str = "") -> int:
    with channel(cluster, name) as to:
        stub = health_pb2_grpc.HealthStub(to)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        return int(answer.status)


def add(api: Api, a: int, b: int) -> pb.Job:
    return api.new("sums", task="add", payload=b'{"a":%d,"b":%d}' % (a, b))


def goes_through(api: Api) -> bool:
    """Whether a job is run."""
    return api.wait(add(api, 1, 2).id, 30).result == b"3"


@pytest.mark.parametrize("name", OWN)
def test_a_server_lists_its_own_services_and_nobody_else_s(cluster: ServiceCluster, name: str) -> None:
    with channel(cluster, name) as to:
        database = ProtoReflectionDescriptorDatabase(to)
        listed = set(database.get_services())
        methods = {
            service: [method.name for method in DescriptorPool(database).FindServiceByName(service).methods]
            for service in OWN[name]
        }

    assert listed == OWN[name] | COMMON
    assert all(methods.values()), "and describes them"


@pytest.mark.parametrize("version", REFLECTIONS)
def test_either_version_of_reflection_lists_and_describes_all_services(cluster: ServiceCluster, version: str) -> None:
    request, named = reflection_pb2.ServerReflectionRequest, (*REFLECTIONS, *OWN["queue"])
    asked = [request(list_services=""), *(request(file_containing_symbol=name) for name in named)]
    with channel(cluster, "queue") as to:
        ask = to.stream_stream(
            f"/{version}/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        listed, *described = ask(iter(asked), timeout=TIMEOUT)

    assert {service.name for service in listed.list_services_response.service} == OWN["queue"] | COMMON
    files = [FileDescriptorProto.FromString(one.file_descriptor_response.file_descriptor_proto[0]) for one in described]
    assert [f"{file.package}.{file.service[0].name}" for file in files] == list(named)


@pytest.mark.parametrize("name", OWN)
def test_a_server_is_healthy_as_a_whole_and_by_service(cluster: ServiceCluster, name: str) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING

    assert {health(cluster, name, service) for service in ("", *OWN[name])} == {serving}
    with pytest.raises(grpc.RpcError) as refused:
        health(cluster, name, "taskflow.v1.NoSuchService")
    assert refusal(refused.value).code == grpc.StatusCode.NOT_FOUND


def test_the_four_processes_are_four(cluster: ServiceCluster, api: Api) -> None:
    assert len({cluster.pid(name) for name in OWN}) == len({cluster.address(name) for name in OWN}) == 4
    assert goes_through(api)


@pytest.mark.feature("M.4")
@pytest.mark.parametrize("dead", ["worker", "queue", "coordinator", "scheduler"])
def test_the_death_of_one_stops_its_own_part_alone(cluster: ServiceCluster, api: Api, dead: str) -> None:
    """The remaining services answer; jobs are taken unless it is the scheduler, and run when it is back."""
    before = {name: cluster.pid(name) for name in OWN}
    waiting = [add(api, n, 1) for n in range(3)] if dead == "scheduler" else []
    cluster.kill(dead)
    try:
        alive = [name for name in OWN if name != dead]
        assert [health(cluster, name) for name in alive] == [health_pb2.HealthCheckResponse.SERVING] * 3
        assert {name: cluster.pid(name) for name in alive} == {n: p for n, p in before.items() if n != dead}
        with pytest.raises(grpc.RpcError) as refused:
            health(cluster, dead)
        assert refusal(refused.value).code == grpc.StatusCode.UNAVAILABLE
        if dead != "scheduler":
            waiting = [add(api, n, 1) for n in range(3)]
            assert [api.get(job.id).id for job in waiting] == [job.id for job in waiting]
    finally:
        cluster.start(dead)
        cluster.wait_healthy(dead)

    assert [api.wait(job.id, 30).result for job in waiting] == [b"1", b"2", b"3"]
    assert goes_through(api)


@pytest.mark.feature("B13", "X.22")
@pytest.mark.parametrize("name", ["queue", "coordinator", "scheduler", "worker"])
def test_a_stop_ends_within_its_grace_whatever_is_open(cluster: ServiceCluster, api: Api, name: str) -> None:
    """Polls, sessions, feeds, offers, who waits for a job, by a call and on a stream, and a stream at rest."""
    job = api.new("for-nobody")
    enough = threading.Event()

    def requests() -> Iterator[pb.CreateJobsRequest]:
        yield pb.CreateJobsRequest(jobs=[spec("for-nobody")])
        enough.wait(60)

    stream = api.jobs.StreamCreateJobs(requests())
    other = next(stream).ids[0]

    def awaited() -> Iterator[pb.StreamAwaitJobsRequest]:
        yield pb.StreamAwaitJobsRequest(add=[UUID(job.id).bytes])
        enough.wait(60)

    waits = api.jobs.StreamAwaitJobs(awaited())
    assert next(waits) == pb.StreamAwaitJobsResponse(), "it has read"

    def wait() -> Any:
        request = pb.AwaitJobRequest(id=job.id)
        request.timeout.FromSeconds(60)
        try:
            return api.jobs.AwaitJob(request, timeout=90)
        except grpc.RpcError as error:
            return refusal(error)

    with ThreadPoolExecutor(2) as pool, RawWorker(api, queues=["nothing-comes"]) as raw:
        polling = pool.submit(_ended, lambda: raw.poll(seconds=50))
        waiting = pool.submit(wait)
        eventually(lambda: raw.queue_service.Stats(queue_pb2.StatsRequest(), timeout=TIMEOUT).waiting_polls >= 1)
        begun = time.monotonic()
        status = cluster.stop(name, grace=20)
        took = time.monotonic() - begun
        cluster.start(name)
        cluster.wait_healthy(name)
        for made in (job.id, str(UUID(bytes=other))):
            api.jobs.CancelJob(pb.CancelJobRequest(id=made), timeout=TIMEOUT)
        answer = waiting.result()
        streamed = _ended(lambda: next(waits))
        enough.set()
    ended = polling.result()  # with the stop, or with the worker
    with RawWorker(api, queues=["nothing-comes"], worker_id=raw.worker_id):
        pass  # a goodbye that counts, so that no takeover waits for it

    assert status == 0 and took < GRACE / 2
    assert list(stream) == [], "ended in order, by the server where it is that which stops"
    assert ended == [] if name == "queue" else isinstance(ended, grpc.RpcError | ValueError)
    if name == "scheduler":
        assert answer.code == streamed.code() == grpc.StatusCode.UNAVAILABLE
    else:
        assert answer.state == streamed.jobs[0].state == pb.JOB_STATE_CANCELLED
    assert goes_through(api)


@pytest.mark.feature("B13")
def test_a_wait_that_begins_while_the_scheduler_stops_does_not_hold_it_up(cluster: ServiceCluster, api: Api) -> None:
    job = api.new("for-nobody")
    cluster.restart("scheduler", env={"TASKFLOW_FAILPOINTS": "scheduler.await=delay:1"})
    eventually(lambda: api.get(job.id).state == pb.JOB_STATE_READY)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_ended, lambda: api.wait(job.id, 30))
        eventually(lambda: waiting.running())
        begun = time.monotonic()
        assert cluster.stop("scheduler", grace=20) == 0
        took = time.monotonic() - begun
        cluster.start("scheduler")
        cluster.wait_healthy("scheduler")

        assert took < GRACE / 2
        # gRPC itself cancels a call that arrives at a server which stops; the SDK takes both for the same.
        assert waiting.result().code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    api.jobs.CancelJob(pb.CancelJobRequest(id=job.id), timeout=TIMEOUT, wait_for_ready=True)


def _ended(call: Any) -> Any:
    try:
        return call()
    except (grpc.RpcError, ValueError) as error:
        return error


@pytest.mark.feature("B13")
def test_a_coordinator_that_stops_hands_over_and_the_next_one_does_not_wait(cluster: ServiceCluster, api: Api) -> None:
    before = cluster.log("coordinator").count("took over")
    begun = time.monotonic()

    cluster.restart("coordinator")

    assert time.monotonic() - begun < 5, "not as long as a dead one is waited for"
    assert goes_through(api)
    assert cluster.log("coordinator").count("took over") == before + 1


@pytest.mark.feature("X.11")
def test_a_job_that_ends_before_its_owner_hears_of_the_wait_is_noticed(cluster: ServiceCluster, api: Api) -> None:
    """A scheduler has just started: its stream to the coordinator comes later than the call that waits."""
    cluster.restart(
        "scheduler", env={"TASKFLOW_FAILPOINTS": "scheduler.watch=delay:2", "TASKFLOW_AWAIT_INTERVAL": "300"}
    )
    job = api.new("soon-done")

    with ThreadPoolExecutor(1) as pool, RawWorker(api, queues=["soon-done"]) as worker:
        begun = time.monotonic()
        waiting = pool.submit(api.wait, job.id, 60)
        worker.report(worker.take().outcome(pb.OUTCOME_SUCCEEDED))
        assert waiting.result().state == pb.JOB_STATE_SUCCEEDED
        assert time.monotonic() - begun < 50, "it was told, and did not run out of patience"
    cluster.restart("scheduler")


@pytest.mark.feature("A13", "X.10")
def test_a_cancel_that_finds_no_owner_is_told_to_the_first_one(cluster: ServiceCluster, api: Api) -> None:
    """A scheduler that has just started does not know yet who owns the shards."""
    cluster.stop("coordinator")
    cluster.restart("scheduler", env={"TASKFLOW_FAILPOINTS": "scheduler.follow=delay:4"})
    cluster.start("coordinator", env={"TASKFLOW_CANCEL_INTERVAL": "300"})
    cluster.wait_healthy("coordinator")
    job = api.new("for-nobody")

    first = api.jobs.CancelJob(pb.CancelJobRequest(id=job.id), timeout=TIMEOUT, wait_for_ready=True).job

    assert first.state == pb.JOB_STATE_READY, "no owner is known"
    eventually(lambda: api.get(job.id).state == pb.JOB_STATE_CANCELLED, 60)
    cluster.restart("scheduler")
    cluster.restart("coordinator")


def test_a_server_is_not_healthy_before_it_is_ready(cluster: ServiceCluster) -> None:
    """A coordinator without a queue service owns nothing yet."""
    cluster.stop("queue")
    cluster.stop("coordinator")
    cluster.start("coordinator")
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING

    assert {eventually(lambda: answers(cluster, "coordinator")) for _ in range(20)} == {not_serving}

    cluster.start("queue")
    for name in ("queue", "coordinator"):
        cluster.wait_healthy(name)


def answers(cluster: ServiceCluster, name: str) -> int:
    """Its health; 0 while nobody answers there."""
    try:
        return health(cluster, name)
    except grpc.RpcError:
        return 0


@pytest.mark.parametrize("name", ["queue", "coordinator", "scheduler"])
def test_an_interrupt_is_a_stop_as_well(cluster: ServiceCluster, api: Api, name: str) -> None:
    cluster.kill(name, signal.SIGINT)
    cluster.wait_dead(name, GRACE + 1)
    assert cluster.stop(name) == 0
    cluster.start(name)
    cluster.wait_healthy(name)

    assert goes_through(api)
