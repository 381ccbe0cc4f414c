"""The words of the Go SDK: thin aliases, over the same client."""

import dataclasses
from inspect import signature

import pytest

from taskflow import CreateJobRequest, InvalidArgument, Job, NewServer, RunConfigurations, Server, TaskFlow, testing


@pytest.mark.feature("S3.1")
def test_new_server_takes_both_addresses_and_connects_nowhere() -> None:
    server = NewServer("localhost:1", "localhost:2")

    assert isinstance(server, Server) and isinstance(server.taskflow, TaskFlow)
    assert server.taskflow._core.scheduler == "localhost:1"
    assert server.taskflow._core.pinned_queue == "localhost:2"


@pytest.mark.feature("S3.1")
def test_a_job_is_made_and_run_by_the_card_s_words() -> None:
    server = NewServer("localhost:1", "localhost:2")
    seen: list[object] = []

    def deliver(job: Job) -> None:
        seen.append(job.payload)
        if len(seen) < 3:
            raise ConnectionError

    with testing.cluster(server.taskflow) as c:
        c.handle("EmailQueue", deliver)
        id = server.NewJob(CreateJobRequest(queue_name="EmailQueue", payload="hello", retries=5))
        c.advance(3)

        assert c.job(id).outcomes == ["failed", "failed", "succeeded"]
        assert seen == ["hello"] * 3


@pytest.mark.feature("S3.1")
@pytest.mark.parametrize(
    ("request_", "field"), [(CreateJobRequest("not a name"), "queue"), (CreateJobRequest("q", retries=-1), "retries")]
)
def test_what_is_wrong_is_named_as_by_new_job(request_: CreateJobRequest, field: str) -> None:
    server = NewServer("localhost:1")

    with pytest.raises(InvalidArgument) as caught:
        server.NewJob(request_)

    assert caught.value.field == field


@pytest.mark.feature("S3.1")
def test_what_run_leaves_open_is_what_taskflow_run_does() -> None:
    given = signature(TaskFlow.run).parameters

    for field in dataclasses.fields(RunConfigurations):
        if field.default is not dataclasses.MISSING:
            assert given[field.name].default == field.default


@pytest.mark.feature("S3.1")
def test_positions_are_the_order_of_the_fields() -> None:
    assert CreateJobRequest("q", "p", 5) == CreateJobRequest(queue_name="q", payload="p", retries=5)
    assert RunConfigurations("q", print).handler is print
