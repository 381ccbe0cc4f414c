"""Instants at the ends of the calendar: every verb that takes one refuses it with the range, and lists go on, on a
database whose time zone lies east of UTC and whose other defaults are not ours either."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from taskflow import InvalidArgument, Job, JobFailed, JobState, TaskFlow
from taskflow._cli import _input
from taskflow.v1 import (
    alerts_pb2,
    cluster_pb2,
    jobs_pb2,
    queues_pb2,
    schedules_pb2,
    schedules_pb2_grpc,
    tasks_pb2,
    tasks_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)
from taskflow_server.core.workflow import values
from tests.support.api import TIMEOUT, Api, refusal, spec
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.hostile import make_hostile
from tests.support.rpc import Refused, Rpc
from tests.support.visitor import Visitor
from tests.support.workers import working

RANGE = "between 1970-01-01 and 9999-01-01 (UTC)"
LAST = datetime(9998, 12, 31, 23, 59, 59, tzinfo=UTC)
FAR = {
    "the last second of the calendar": datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    "beyond it in UTC": datetime(9999, 12, 31, 23, 59, tzinfo=timezone(timedelta(hours=-14))),
    "the first that is refused": datetime(9999, 1, 1, tzinfo=UTC),
    "the beginning of 1970": datetime(1970, 1, 1, tzinfo=UTC),
    "before the calendar in UTC": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
}
STAMPS = {
    "the last second of the calendar": Timestamp(seconds=253_402_300_799, nanos=999_999_999),
    "the year 10000": Timestamp(seconds=253_402_300_800),
    "the first that is refused": Timestamp(seconds=253_370_764_800),
    "the beginning of 1970": Timestamp(),
    "the year 1": Timestamp(seconds=-62_135_596_800),
    "the largest number": Timestamp(seconds=2**63 - 1),
    "negative nanoseconds": Timestamp(seconds=2_000_000_000, nanos=-1),
}


@pytest.fixture(scope="module")
def running(make_cluster: Callable[..., ServiceCluster], database: str) -> ServiceCluster:
    make_hostile(database)
    cluster = make_cluster(services=(*SPINE, "gateway"))
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def tf(running: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(running.scheduler_address) as client:
        yield client


@pytest.fixture(scope="module")
def daily(tf: TaskFlow) -> str:
    """The id of a schedule of the task `report`."""
    tf.tasks.create("report", queue="far")
    return tf.schedules.create("report", cron="@daily", active=False).id


@pytest.fixture(scope="module")
def api(running: ServiceCluster) -> Iterator[Api]:
    with Api(running.scheduler_address) as stubs:
        yield stubs


Sdk = Callable[[TaskFlow, str, datetime], Any]
SDK: dict[str, Sdk] = {
    "new_job run_at": lambda tf, _, at: tf.new_job("far", run_at=at),
    "new_job start_by": lambda tf, _, at: tf.new_job("far", start_by=at),
    "jobs.list created_after": lambda tf, _, at: list(tf.jobs.list(created_after=at)),
    "jobs.list created_before": lambda tf, _, at: list(tf.jobs.list(created_before=at)),
    "schedules.create at": lambda tf, _, at: tf.schedules.create("report", at=at),
    "schedules.create start": lambda tf, _, at: tf.schedules.create("report", cron="@daily", start=at),
    "schedules.create end": lambda tf, _, at: tf.schedules.create("report", cron="@daily", end=at),
    "schedules.update end": lambda tf, daily, at: tf.schedules.update(daily, end=at),
    "schedules.preview after": lambda tf, daily, at: tf.schedules.preview(daily, after=at),
    "schedules.preview start": lambda tf, _, at: tf.schedules.preview(cron="@daily", start=at),
    "schedules.backfill start": lambda tf, daily, at: tf.schedules.backfill(daily, start=at),
    "schedules.backfill end": lambda tf, daily, at: tf.schedules.backfill(daily, start=LAST, end=at),
}


@pytest.mark.parametrize("at", FAR.values(), ids=FAR)
@pytest.mark.parametrize("verb", SDK.values(), ids=SDK)
def test_the_sdk_refuses_an_instant_out_of_range(tf: TaskFlow, daily: str, verb: Sdk, at: datetime) -> None:
    with pytest.raises(InvalidArgument, match=r"between 1970-01-01 and 9999-01-01 \(UTC\)") as caught:
        verb(tf, daily, at)

    assert caught.value.field


def schedule(**fields: Any) -> schedules_pb2.Schedule:
    return schedules_pb2.Schedule(task="report", **fields)


def stubs(api: Api) -> tuple[schedules_pb2_grpc.ScheduleServiceStub, tasks_pb2_grpc.TaskServiceStub]:
    return schedules_pb2_grpc.ScheduleServiceStub(api.channel), tasks_pb2_grpc.TaskServiceStub(api.channel)


Wire = Callable[[Api, str, Timestamp], Any]
WIRE: dict[str, Wire] = {
    "CreateJob run_at": lambda api, _, at: api.new("far", run_at=at),
    "CreateJob start_by": lambda api, _, at: api.new("far", options=jobs_pb2.JobOptions(start_by=at)),
    "CreateJobs run_at": lambda api, _, at: api.jobs.CreateJobs(
        jobs_pb2.CreateJobsRequest(jobs=[spec("far"), spec("far", run_at=at)]), timeout=TIMEOUT
    ),
    "ListJobs create_after": lambda api, _, at: api.jobs.ListJobs(
        jobs_pb2.ListJobsRequest(create_after=at), timeout=TIMEOUT
    ),
    "ListJobs create_before": lambda api, _, at: api.jobs.ListJobs(
        jobs_pb2.ListJobsRequest(create_before=at), timeout=TIMEOUT
    ),
    "RunTask run_at": lambda api, _, at: stubs(api)[1].RunTask(
        tasks_pb2.RunTaskRequest(task="report", run_at=at), timeout=TIMEOUT
    ),
    "CreateSchedule at": lambda api, _, at: stubs(api)[0].CreateSchedule(
        schedules_pb2.CreateScheduleRequest(schedule=schedule(at=at)), timeout=TIMEOUT
    ),
    "CreateSchedule start_time": lambda api, _, at: stubs(api)[0].CreateSchedule(
        schedules_pb2.CreateScheduleRequest(schedule=schedule(cron="@daily", start_time=at)), timeout=TIMEOUT
    ),
    "UpdateSchedule end_time": lambda api, daily, at: stubs(api)[0].UpdateSchedule(
        schedules_pb2.UpdateScheduleRequest(schedule=schedule(id=daily, cron="@daily", end_time=at)), timeout=TIMEOUT
    ),
    "PreviewSchedule after": lambda api, daily, at: stubs(api)[0].PreviewSchedule(
        schedules_pb2.PreviewScheduleRequest(id=daily, after=at), timeout=TIMEOUT
    ),
    "PreviewSchedule at": lambda api, _, at: stubs(api)[0].PreviewSchedule(
        schedules_pb2.PreviewScheduleRequest(schedule=schedule(at=at)), timeout=TIMEOUT
    ),
    "BackfillSchedule start_time": lambda api, daily, at: stubs(api)[0].BackfillSchedule(
        schedules_pb2.BackfillScheduleRequest(id=daily, start_time=at), timeout=TIMEOUT
    ),
    "BackfillSchedule end_time": lambda api, daily, at: stubs(api)[0].BackfillSchedule(
        schedules_pb2.BackfillScheduleRequest(id=daily, start_time=Timestamp(seconds=10), end_time=at), timeout=TIMEOUT
    ),
}


@pytest.mark.parametrize("at", STAMPS.values(), ids=STAMPS)
@pytest.mark.parametrize("verb", WIRE.values(), ids=WIRE)
def test_the_api_refuses_an_instant_out_of_range(api: Api, daily: str, verb: Wire, at: Timestamp) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        verb(api, daily, at)

    said = refusal(caught.value)
    assert said.code is grpc.StatusCode.INVALID_ARGUMENT
    assert RANGE in said.message
    assert said.field


SPANS = [
    Duration(seconds=2**63 - 1),
    Duration(seconds=-(2**63)),
    Duration(seconds=315_576_000_001),
    Duration(seconds=-1),
    Duration(nanos=-1),
]
EXTREMES: dict[str, list[Any]] = {
    Timestamp.DESCRIPTOR.full_name: list(STAMPS.values()),
    Duration.DESCRIPTOR.full_name: SPANS,
}
NAMES = {"queue": "far", "task": "report", "name": "report", "cron": "@daily"}
REFUSED = {"INVALID_ARGUMENT", "NOT_FOUND", "ALREADY_EXISTS", "FAILED_PRECONDITION"}
SERVED = (jobs_pb2, schedules_pb2, tasks_pb2, workflows_pb2, queues_pb2, cluster_pb2, alerts_pb2)


def times(of: Descriptor, above: tuple[Descriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The ways to each instant and each span of a message."""
    for field in of.fields:
        inner = field.message_type
        if inner is not None and inner.full_name in EXTREMES:
            yield (field,)
        elif inner is not None and inner.full_name.startswith("taskflow.") and inner not in above:
            yield from ((field, *way) for way in times(inner, (*above, of)))


METHODS = [
    (f"/{service.full_name}/{method.name}", method, way)
    for module in SERVED
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if not method.client_streaming and not method.server_streaming
    for way in times(method.input_type)
]


@pytest.mark.parametrize(
    ("path", "method", "way"), METHODS, ids=[f"{p.split('/')[2]}-{'.'.join(f.name for f in w)}" for p, _, w in METHODS]
)
def test_no_instant_and_no_span_of_any_request_is_a_fault_of_the_service(
    api: Api, daily: str, path: str, method: MethodDescriptor, way: tuple[FieldDescriptor, ...]
) -> None:
    names = NAMES | ({"id": daily, "schedule_id": daily} if path.endswith("Schedule") else {})
    for extreme in EXTREMES[way[-1].message_type.full_name]:
        request = GetMessageClass(method.input_type)()
        place: Any = request
        for field in way:
            for name in names:
                if getattr(place, name, None) == "" and (name, field.name) != ("cron", "at"):
                    setattr(place, name, names[name])
            place = getattr(place, field.name)
            place = place.add() if field.is_repeated else place
        place.CopyFrom(extreme)
        call = api.channel.unary_unary(
            path, type(request).SerializeToString, GetMessageClass(method.output_type).FromString
        )
        try:
            call(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            assert refusal(error).code.name in REFUSED, error


def document(**schedule: str) -> str:
    return json.dumps(
        {"name": "far", "steps": [{"name": "pause", "kind": "wait", "meta": {"duration": "1s"}}], "schedule": schedule}
    )


@pytest.mark.parametrize("text", ["9999-12-31T23:59:00-14:00", "0001-01-01T00:00:00+14:00", "10000-01-01T00:00:00Z"])
def test_a_workflow_s_document_and_its_waits_refuse_an_instant_out_of_range(api: Api, text: str) -> None:
    put = workflows_pb2_grpc.WorkflowServiceStub(api.channel).PutWorkflow
    for field in ("start", "end"):
        request = workflows_pb2.PutWorkflowRequest(document=document(cron="@daily", **{field: text}))
        with pytest.raises(grpc.RpcError) as caught:
            put(request, timeout=TIMEOUT)
        said = refusal(caught.value)
        assert (said.code, said.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"schedule.{field}")
        assert RANGE in said.message
    for wrong in (text, 1e300, -1, 253_370_764_800, 10**400):
        with pytest.raises(values.BadValue, match=r"between 1970-01-01 and 9999-01-01 \(UTC\)"):
            values.instant(wrong)
    with pytest.raises(values.BadValue, match=r"between 1970-01-01 and 9999-01-01 \(UTC\)"):
        values.after(LAST, 1)


@pytest.mark.parametrize("text", ["9999-12-31T23:59:00-14:00", "0001-01-01T00:00:00+14:00", "1969-12-31T23:59"])
def test_rpc_the_console_and_the_command_line_refuse_an_instant_out_of_range(
    running: ServiceCluster, text: str
) -> None:
    rpc, visitor = Rpc(running.address("gateway")), Visitor(running.address("gateway"))
    with pytest.raises(Refused) as caught:
        rpc("awf.task/create-and-execute", definition="tests.far/task", executeAt=text)
    assert (caught.value.status, caught.value.error["data"]["field"]) == (400, "params.executeAt")
    assert RANGE in caught.value.error["message"]
    for field in ("after", "before"):
        answer = visitor.get(f"/jobs?{field}={text.replace('+', '%2B')}")
        assert answer.status == 400
        assert RANGE in answer.words
    for read in (_input.instant, _input.moment):
        with pytest.raises(_input.BadInput, match=r"--at .* between 1970-01-01 and 9999-01-01 \(UTC\)"):
            read(text, "--at")


def test_lists_show_the_last_instant_that_is_accepted(tf: TaskFlow, running: ServiceCluster) -> None:
    job = tf.new_job("far", {"name": "größe ☃ \\n"}, run_at=LAST, metadata={"name": "größe ☃"})

    (found,) = [each for each in tf.jobs.list(queue="far", created_before=LAST) if each.id == job.id]

    assert (found.run_time, found.state) == (LAST, JobState.SCHEDULED)
    assert found.metadata == {"name": "größe ☃"}
    assert [each.id for each in tf.jobs.list(metadata={"name": "größe ☃"})] == [job.id]
    assert Visitor(running.address("gateway")).get("/jobs?queue=far").status == 200


def test_a_job_runs_and_its_error_is_kept_whole(tf: TaskFlow, running: ServiceCluster) -> None:
    def handle(job: Job) -> object:
        if job.payload == "bad":
            raise ValueError("größe ☃ \\ '")
        return {"größe": 0.1 + 0.2, "text": "\\n"}

    good, bad = tf.new_job("hostile", "good"), tf.new_job("hostile", "bad")
    with TaskFlow(running.scheduler_address) as app, working(app, "hostile", handle):
        assert good.wait(timeout=20).result == {"größe": 0.1 + 0.2, "text": "\\n"}
        with pytest.raises(JobFailed, match="größe ☃"):
            bad.wait(timeout=20)
    error = bad.get().error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "größe ☃ \\ '")
