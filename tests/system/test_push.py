"""A pusher and AWS Batch: external jobs that mirror attempts, whatever is killed, one for each and none for longer."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from taskflow import JobState, Outcome
from taskflow_server.cluster.ports import free_ports
from tests.support.batch import BatchServer
from tests.support.cluster import ServiceCluster
from tests.support.processes import runs
from tests.support.pushing import PATIENCE, Pushing
from tests.support.waiting import eventually

ONLY_THE_SUBMIT = {"TASKFLOW_PUSH_SWEEP_INTERVAL": "3600"}  # is what meets a destination that has gone away


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BatchServer]:
    server = BatchServer(tmp_path_factory.mktemp("batch"))
    yield server
    server.close()


@pytest.fixture
def pushing(cluster: ServiceCluster, batch: BatchServer, tmp_path: Path) -> Iterator[Pushing]:
    found = Pushing(cluster, batch, tmp_path)
    yield found
    found.close()


@pytest.mark.feature("S1.8", "S1.1")
def test_two_destinations_are_used_at_once_and_a_destination_s_own_name_is_a_task(pushing: Pushing) -> None:
    other = pushing.new_queue()
    pushing.start({"small": pushing.destination(tasks={"load": {}}), "large": pushing.destination(other)}, "both")
    pushing.tf.tasks.create("yearly", target="large", queue="external", retries=1)
    gates = [pushing.gate(), pushing.gate()]

    jobs = [pushing.new("load", gates[0]), pushing.tf.tasks.run("yearly", {"gate": str(gates[1])}).id]
    for gate in gates:
        pushing.runs_there(gate)  # both, before one may end
    for gate in gates:
        gate.write_text("0")

    destinations = [pushing.ends(id, JobState.SUCCEEDED).result["destination"] for id in jobs]
    assert destinations == ["small", "large"]
    assert (pushing.statuses(), pushing.place.statuses(other)) == (["SUCCEEDED"], ["SUCCEEDED"])


@pytest.mark.feature("S1.8")
def test_while_the_destination_is_away_jobs_wait_and_use_no_try(pushing: Pushing) -> None:
    (nobody,) = free_ports(1)
    away = pushing.destination(tasks={"patient": {}}) | {"endpoint_url": f"http://127.0.0.1:{nobody}"}
    gate = pushing.gate()
    gate.write_text("0")
    pusher = pushing.start({"etl": away}, "patient")

    id = pushing.new("patient", gate)
    eventually(lambda: "destination etl cannot be used; retrying" in pusher.output, PATIENCE)

    assert f"127.0.0.1:{nobody}" in pusher.output
    assert pushing.get(id).state is JobState.READY
    assert list(pushing.tf.jobs.attempts(id)) == []
    server = BatchServer(pushing.folder, port=nobody)
    server.queue(pushing.queue)
    try:
        job = pushing.ends(id, JobState.SUCCEEDED)
        assert job.attempt == 1
        assert "destination etl cannot be used: over" in pusher.output
        assert server.statuses(pushing.queue) == ["SUCCEEDED"]
    finally:
        server.close()


@pytest.mark.feature("M.9")
def test_a_submit_without_an_answer_becomes_one_external_job(pushing: Pushing) -> None:
    server = BatchServer(pushing.folder)
    destination = pushing.destination(server.queue("q"), tasks={"unheard": {}}) | {"endpoint_url": server.url}
    gate = pushing.gate()
    try:
        pusher = pushing.start({"etl": destination}, "unheard", failpoints="push.started=delay:2", **ONLY_THE_SUBMIT)
        id = pushing.new("unheard", gate)
        eventually(lambda: pushing.get(id).state is JobState.RUNNING, PATIENCE)
        server.signal(signal.SIGSTOP)  # it takes the request, and answers when nobody listens any more
        eventually(lambda: "cannot be used" in pusher.output, PATIENCE)
        server.signal(signal.SIGCONT)
        pushing.runs_there(gate)
        gate.write_text("0")

        assert pushing.ends(id, JobState.SUCCEEDED).attempt == 1
        assert server.statuses("q") == ["SUCCEEDED"]
    finally:
        server.close()


@pytest.mark.feature("M.9")
def test_what_a_destination_does_not_show_yet_is_waited_for(pushing: Pushing) -> None:
    server = BatchServer(pushing.folder, lag=6)
    destinations = {"etl": pushing.destination(server.queue("q"), tasks={"hidden": {}}) | {"endpoint_url": server.url}}
    gate = pushing.gate()
    gate.write_text("0")
    try:
        first = pushing.start(destinations, "hidden", failpoints="push.submitted=kill")
        id = pushing.new("hidden", gate)
        first.wait(PATIENCE)

        second = pushing.start(destinations, "hidden", TASKFLOW_PUSH_SETTLE="30")

        assert pushing.ends(id, JobState.SUCCEEDED).attempt == 1
        assert server.statuses("q") == ["SUCCEEDED"]
        assert "submitted" not in second.output
    finally:
        server.close()


@pytest.mark.feature("M.9")
def test_of_two_external_jobs_of_one_attempt_the_later_is_ended_and_a_stranger_is_left_alone(pushing: Pushing) -> None:
    pusher = pushing.start({"etl": pushing.destination(tasks={"twin": {}})}, "twins")
    gate, other, foreign = pushing.gate(), pushing.gate(), pushing.gate()
    id = pushing.new("twin", gate)
    pushing.runs_there(gate)
    (first,) = pushing.jobs()

    def submit(name: str, job: str, gate: Path) -> str:
        return str(pushing.place.submit(name, pushing.queue, gate, TASKFLOW_JOB_ID=job))

    later = submit(first["jobName"], id, other)
    stranger = submit(f"taskflow-twins-{uuid4().hex}", str(uuid4()), foreign)
    process = pushing.runs_there(foreign)

    statuses = {first["jobId"]: "RUNNING", later: "FAILED", stranger: "RUNNING"}
    eventually(lambda: {j["jobId"]: j["status"] for j in pushing.jobs()} == statuses, PATIENCE)
    eventually(lambda: "that this TaskFlow does not know is not changed" in pusher.output, PATIENCE)
    gate.write_text("0")
    pushing.ends(id, JobState.SUCCEEDED)
    assert runs(process)
    foreign.write_text("0")


@pytest.mark.feature("M.9")
def test_after_a_crash_the_earliest_of_twins_counts_although_it_has_ended(pushing: Pushing) -> None:
    destinations = {"etl": pushing.destination(tasks={"elder": {}})}
    first = pushing.start(destinations, "elder")
    gate, other = pushing.gate(), pushing.gate()
    id = pushing.new("elder", gate)
    pushing.runs_there(gate)
    first.kill()
    (elder,) = pushing.jobs()
    pushing.place.submit(elder["jobName"], pushing.queue, other, TASKFLOW_JOB_ID=id)
    process = pushing.runs_there(other)
    gate.write_text("0")
    eventually(lambda: pushing.statuses() == ["SUCCEEDED", "RUNNING"], PATIENCE)

    pushing.start(destinations, "elder")

    assert pushing.ends(id, JobState.SUCCEEDED).result["id"] == elder["jobId"]
    eventually(lambda: not runs(process), PATIENCE)


@pytest.mark.feature("S1.8")
def test_an_external_job_goes_on_while_taskflow_s_services_are_killed_and_come_back(pushing: Pushing) -> None:
    pushing.start({"etl": pushing.destination(tasks={"through": {}})}, "through")
    gate = pushing.gate()
    id = pushing.new("through", gate)
    process = pushing.runs_there(gate)

    for service in ("coordinator", "queue", "scheduler"):
        pushing.cluster.kill(service)
    gate.write_text("0")
    eventually(lambda: not runs(process), PATIENCE)  # it ends while nobody can be told
    for service in ("coordinator", "queue", "scheduler"):
        pushing.cluster.start(service)
    for service in ("coordinator", "queue", "scheduler"):
        pushing.cluster.wait_healthy(service)

    assert pushing.ends(id, JobState.SUCCEEDED).attempt == 1
    assert pushing.statuses() == ["SUCCEEDED"]


@pytest.mark.feature("S1.8")
def test_what_a_destination_will_never_take_fails_at_once_and_says_why(pushing: Pushing) -> None:
    tasks = {"lost": {"job_definition": "no-such"}, "bold": {}}
    pushing.start({"etl": pushing.destination(tasks=tasks)}, "refused")

    lost = pushing.ends(pushing.new("lost", pushing.gate(), retries=5), JobState.FAILED)
    bold = pushing.tf.new_job("external", {"push": {"command": ["reboot"]}}, task="bold", retries=5)

    assert lost.error is not None
    assert (lost.error.type, lost.attempt, lost.error.final) == ("Refused", 1, True)
    assert "no-such" in lost.error.message
    refused = pushing.ends(bold.id, JobState.FAILED)
    assert refused.error is not None
    assert refused.error.message == "etl: payload.push.command: destination etl lets a job say nothing"


@pytest.mark.feature("S1.8")
def test_the_program_is_told_what_it_runs_for(pushing: Pushing) -> None:
    tasks = {"told": {"job_definition": "env", "environment": {"COLOUR": "red", "SIZE": "9"}}}
    pushing.start({"etl": pushing.destination(tasks=tasks, overrides=["environment"])}, "told")
    file = pushing.folder / "environment"

    id = pushing.tf.new_job(
        "external", {"file": str(file), "month": 3, "push": {"environment": {"SIZE": "10"}}}, task="told"
    ).id
    pushing.ends(id, JobState.SUCCEEDED)

    told = dict(line.split("=", 1) for line in file.read_text().splitlines())
    (attempt,) = pushing.tf.jobs.attempts(id)
    assert (told["TASKFLOW_JOB_ID"], told["TASKFLOW_EXEC_ID"]) == (id, attempt.exec_id)
    assert (told["TASKFLOW_QUEUE"], told["TASKFLOW_TASK"], told["TASKFLOW_ATTEMPT"]) == ("external", "told", "1")
    assert json.loads(told["TASKFLOW_PAYLOAD"])["month"] == 3
    assert (told["COLOUR"], told["SIZE"]) == ("red", "10")


@pytest.mark.feature("S1.8")
def test_an_attempt_over_its_timeout_is_ended_there(pushing: Pushing) -> None:
    pushing.start({"etl": pushing.destination(tasks={"slow": {}})}, "slow")
    gate = pushing.gate()

    id = pushing.new("slow", gate, timeout=8)
    process = pushing.runs_there(gate)

    job = pushing.ends(id, JobState.FAILED)
    assert job.last_outcome is Outcome.TIMED_OUT
    eventually(lambda: not runs(process), PATIENCE)


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        ("TASKFLOW_PUSH_DESTINATIONS", '{"etl": {"kind": "aws"}}', "etl.kind: 'aws' is none of aws-batch"),
        ("TASKFLOW_PUSH_OWNER", "Nobody_1", "TASKFLOW_PUSH_OWNER: 'Nobody_1': give up to 20 small letters"),
        ("AWS_CONFIG_FILE", "/dev/null", "TASKFLOW_PUSH_DESTINATIONS: etl: You must specify a region"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_one_line(
    pushing: Pushing, setting: str, value: str, complaint: str
) -> None:
    nowhere = {"etl": pushing.destination() | {"region": "", "endpoint_url": ""}}
    pusher = pushing.start(nowhere, "fine", **{setting: value})

    assert pusher.wait() == 2
    assert complaint in pusher.output
    assert len(pusher.output.strip().splitlines()) == 1
