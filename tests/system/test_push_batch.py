"""AWS Batch as a destination, by itself: what it is asked for, and what its answers mean."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow_server.cluster.ports import free_ports
from taskflow_server.worker.push import destination_types
from taskflow_server.worker.push.aws_batch import BatchTask
from taskflow_server.worker.push.destination import Away, Destination, Order, Phase, Refused, Ticket, name_of
from tests.support.batch import CREDENTIALS, REGION, BatchServer
from tests.support.waiting import eventually

Make = Callable[..., Destination]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchServer]:
    found = BatchServer(tmp_path_factory.mktemp("batch"))
    found.queue("q")
    yield found
    found.close()


@pytest.fixture
def make(server: BatchServer, monkeypatch: pytest.MonkeyPatch) -> Make:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)

    def destination(owner: str = "me", **more: Any) -> Destination:
        settings = {"kind": "aws-batch", "job_queue": "q", "job_definition": "gated", "region": REGION,
                    "endpoint_url": server.url, "tasks": {"task": {}}, **more}  # fmt: skip
        (found,) = destination_types.build(owner, destination_types.read(json.dumps({"etl": settings})))
        return found

    return destination


def order(payload: Any, timeout: float | None = None, **task: Any) -> Order:
    ticket = Ticket(secrets.token_bytes(16), secrets.token_bytes(16))
    return Order(ticket, "queue", "task", 1, payload, BatchTask.model_validate(task), timeout)


@pytest.mark.feature("S1.8")
def test_an_order_is_a_job_with_parameters_tags_and_a_limit_of_time(
    server: BatchServer, make: Make, tmp_path: Path
) -> None:
    destination = make(tags={"team": "permits"}, overrides=["command"])
    gate = tmp_path / "gate"
    gate.write_text("0")
    payload = {"gate": str(gate), "month": 3, "full": True, "rows": [1, 2], "none": None}

    made = destination.submit(order(payload, timeout=1.5))

    (job,) = server.batch.describe_jobs(jobs=[made.id])["jobs"]
    assert job["jobName"] == name_of("me", made.ticket)
    assert job["parameters"] == {"gate": str(gate), "month": "3", "full": "true"}
    assert job["tags"] == {"team": "permits"}
    assert job["timeout"] == {"attemptDurationSeconds": 60}  # Batch's least
    eventually(lambda: destination.look([made])[made.id].phase is Phase.SUCCEEDED, 30)


@pytest.mark.feature("S1.8")
def test_it_is_found_by_its_ticket_by_its_owner_alone_and_twins_are_found_both(
    server: BatchServer, make: Make, tmp_path: Path
) -> None:
    mine, other = make("me"), make("you")
    wanted = order({"gate": str(tmp_path / "gate")})
    first, second = mine.submit(wanted), mine.submit(wanted)
    foreign = other.submit(order({"gate": str(tmp_path / "gate")}))
    server.submit("nightly-report", "q", tmp_path / "gate", TASKFLOW_JOB_ID=wanted.ticket.job)
    server.submit(name_of("me", wanted.ticket), "q", tmp_path / "gate")  # by hand: it is for no job

    assert {job.id for job in mine.find(wanted.ticket)} == {first.id, second.id}
    assert {job.id for job in mine.unfinished()} == {first.id, second.id}
    assert [job.ticket for job in mine.unfinished()] == [wanted.ticket] * 2
    assert {job.id for job in other.unfinished()} == {foreign.id}

    for job in (first, second, second):
        mine.terminate(job, "no more of it")
    eventually(lambda: [job.phase for job in mine.find(wanted.ticket)] == [Phase.FAILED] * 2, 30)
    assert {job.reason for job in mine.find(wanted.ticket)} == {"no more of it"}
    (tmp_path / "gate").write_text("0")


@pytest.mark.feature("S1.8")
def test_the_link_to_a_log_follows_the_operator_s_template(make: Make, tmp_path: Path) -> None:
    destination = make(log_url="https://logs.example/{region}/{stream}?job={id}")
    (tmp_path / "gate").write_text("0")

    made = destination.submit(order({"gate": str(tmp_path / "gate")}))

    seen = eventually(lambda: [job for job in destination.find(made.ticket) if job.phase.over], 30)
    assert seen[0].log_url == f"https://logs.example/{REGION}/gated/default/{made.id}?job={made.id}"


@pytest.mark.feature("S1.8")
@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ({"push": {"command": ["sh"]}}, "payload.push.command: destination etl lets a job say job_definition, memory"),
        ({"push": {"memory": "much"}}, "payload.push.memory: input should be a valid integer"),
        ({"push": "all"}, "payload.push: give an object; a job may say job_definition, memory there"),
        ({"push": {"job_definition": "no-such"}}, "ClientException: Job definition no-such does not exist"),
    ],
)
def test_an_order_that_cannot_be_taken_is_refused_by_the_member_at_fault(
    make: Make, payload: Any, complaint: str
) -> None:
    destination = make(overrides=["job_definition", "memory"])

    with pytest.raises(Refused) as refused:
        destination.submit(order(payload))

    assert str(refused.value).startswith(complaint)


@pytest.mark.feature("S1.8")
def test_a_queue_that_is_not_there_and_a_server_that_is_not_are_no_order_s_fault(make: Make) -> None:
    (nobody,) = free_ports(1)
    gone = make(endpoint_url=f"http://127.0.0.1:{nobody}")

    with pytest.raises(Away, match="Job queue nowhere does not exist"):
        list(make(job_queue="nowhere").unfinished())
    with pytest.raises(Away, match="Could not connect"):
        gone.submit(order({}))
    with pytest.raises(Away, match="Could not connect"):
        list(gone.unfinished())
