"""A pusher and each kind of destination: external jobs that mirror attempts, whatever is killed, one for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taskflow import Exponential, JobState
from tests.support.batch import REGION, BatchServer
from tests.support.cluster import ServiceCluster
from tests.support.kube import KubeServer
from tests.support.marathon import MarathonServer
from tests.support.processes import runs
from tests.support.pushing import PATIENCE, Pushing
from tests.support.ray_cluster import RAY, RayCluster
from tests.support.waiting import eventually

PLACES: dict[str, Any] = {each.kind: each for each in (BatchServer, KubeServer, MarathonServer)}
if RAY is not None:  # else tests/system/test_push_ray.py says that it is not there
    PLACES[RayCluster.kind] = RayCluster
LOGS = {
    "aws-batch": f"https://{REGION}.console.aws.amazon.com/cloudwatch/home?region=",
    "kubernetes": "http://127.0.0.1:",
    "marathon": "http://127.0.0.1:",
    "ray": "http://127.0.0.1:",
}


class Places:
    """Stand-ins, each started when a test first needs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, Any] = {}

    def __getitem__(self, kind: str) -> Any:
        if kind not in self._started:
            self._started[kind] = PLACES[kind](self._folder)
        return self._started[kind]

    def close(self) -> None:
        for each in self._started.values():
            each.close()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    found = Places(tmp_path_factory.mktemp("places"))
    yield found
    found.close()


@pytest.fixture(params=PLACES)
def pushing(
    request: pytest.FixtureRequest, cluster: ServiceCluster, places: Places, tmp_path: Path
) -> Iterator[Pushing]:
    found = Pushing(cluster, places[request.param], tmp_path)
    yield found
    found.close()


@pytest.mark.feature("S1.8")
def test_destinations_of_every_kind_are_used_at_once_by_one_pusher(
    cluster: ServiceCluster, places: Places, tmp_path: Path
) -> None:
    each = {kind: Pushing(cluster, places[kind], tmp_path) for kind in PLACES}
    destinations = {kind: one.destination(tasks={f"load-{kind}": {}}) for kind, one in each.items()}
    variables = {name: value for one in each.values() for name, value in one.place.variables.items()}
    (first, *_) = each.values()
    try:
        first.start(destinations, "all", **variables)
        gates = {kind: one.gate() for kind, one in each.items()}
        jobs = {kind: one.new(f"load-{kind}", gates[kind]) for kind, one in each.items()}
        for kind, one in each.items():
            one.runs_there(gates[kind])  # all, before one may end
        for gate in gates.values():
            gate.write_text("0")
        for kind, one in each.items():
            assert one.ends(jobs[kind], JobState.SUCCEEDED).result["destination"] == kind
            assert one.statuses() == ["SUCCEEDED"]
    finally:
        for one in each.values():
            one.close()


@pytest.mark.feature("S1.8")
def test_a_job_is_queued_then_runs_then_succeeds_there_with_a_link_to_its_log(pushing: Pushing) -> None:
    pushing.place.hold(True)
    pusher = pushing.start({"etl": pushing.destination(tasks={"extract": {}})}, "one")
    gate = pushing.gate()

    id = pushing.new("extract", gate)
    eventually(lambda: "queued at etl as" in pushing.logs(id), PATIENCE)
    assert pushing.get(id).state is JobState.RUNNING
    pushing.place.hold(False)
    eventually(lambda: "running at etl as" in pushing.logs(id), PATIENCE)
    pushing.runs_there(gate)
    gate.write_text("0")

    job = pushing.ends(id, JobState.SUCCEEDED)
    (there,) = pushing.jobs()
    assert job.result["id"] == there["jobId"]
    assert job.result["exit_code"] == 0
    assert job.result["log_url"].startswith(LOGS[pushing.place.kind])
    assert job.result["log_url"] in pushing.logs(id)
    assert pushing.place.last_line in pushing.logs(id)
    assert pushing.place.secret not in pusher.output


@pytest.mark.feature("S1.8")
def test_a_failure_has_its_exit_code_and_each_attempt_is_one_external_job(pushing: Pushing) -> None:
    pushing.start({"etl": pushing.destination(tasks={"fails": {}})}, "two")
    gate = pushing.gate()
    gate.write_text("3")

    id = pushing.new("fails", gate, retries=1, backoff=Exponential(first=0.1))

    job = pushing.ends(id, JobState.FAILED)
    assert job.error is not None
    assert (job.error.type, job.attempt) == ("ExitCode", 2)
    assert "exit code 3" in job.error.message
    assert f"log: {LOGS[pushing.place.kind]}" in job.error.message
    there = pushing.jobs()
    names = {f"taskflow-two-{attempt.exec_id.replace('-', '')}" for attempt in pushing.tf.jobs.attempts(id)}
    assert {job["jobName"] for job in there} == names
    assert [job["status"] for job in there] == ["FAILED", "FAILED"]


@pytest.mark.feature("S1.8", "M.9")
def test_a_cancel_ends_the_external_job(pushing: Pushing) -> None:
    pushing.start({"etl": pushing.destination(tasks={"endless": {}})}, "three")
    gate = pushing.gate()
    id = pushing.new("endless", gate, retries=3)
    process = pushing.runs_there(gate)

    pushing.tf.jobs.cancel(id)

    pushing.ends(id, JobState.CANCELLED)
    eventually(lambda: not runs(process), PATIENCE)
    eventually(lambda: pushing.statuses() == ["FAILED"], PATIENCE)


@pytest.mark.feature("S1.8")
@pytest.mark.feature("M.9")
@pytest.mark.parametrize("point", ["took", "started", "submitted", "ended", "reported"])
def test_a_pusher_that_is_killed_at_any_step_leaves_one_external_job_and_uses_no_try(
    pushing: Pushing, point: str
) -> None:
    destinations = {"etl": pushing.destination(tasks={point: {}})}
    gate = pushing.gate()
    gate.write_text("0")
    first = pushing.start(destinations, point, failpoints=f"push.{point}=kill")
    id = pushing.new(point, gate)
    first.wait(PATIENCE)

    pushing.start(destinations, point)

    job = pushing.ends(id, JobState.SUCCEEDED)
    (there,) = pushing.jobs()
    assert job.result["id"] == there["jobId"]
    pushing.ends(pushing.new(point, gate), JobState.SUCCEEDED)  # by then it has looked at everything
    assert pushing.statuses() == ["SUCCEEDED", "SUCCEEDED"]
    eventually(lambda: pushing.place.left(pushing.queue) == [], PATIENCE)


@pytest.mark.feature("M.9")
def test_a_pusher_that_is_killed_while_it_ends_a_job_there_ends_it_when_it_is_back(pushing: Pushing) -> None:
    destinations = {"etl": pushing.destination(tasks={"ending": {}})}
    first = pushing.start(destinations, "ending", failpoints="push.doomed=kill")
    gate = pushing.gate()
    id = pushing.new("ending", gate, retries=3)
    process = pushing.runs_there(gate)
    pushing.tf.jobs.cancel(id)
    first.wait(PATIENCE)
    assert runs(process)

    pushing.start(destinations, "ending")

    eventually(lambda: not runs(process), PATIENCE)
    assert pushing.ends(id, JobState.CANCELLED).attempt == 1
    assert len(pushing.jobs()) == 1


@pytest.mark.feature("S1.8")
@pytest.mark.feature("M.9")
def test_what_ended_while_no_pusher_ran_is_reported_and_what_was_cancelled_then_is_ended(pushing: Pushing) -> None:
    destinations = {"etl": pushing.destination(tasks={"left": {}})}
    first = pushing.start(destinations, "left")
    ending, cancelled = pushing.gate(), pushing.gate()
    ends, stays = pushing.new("left", ending), pushing.new("left", cancelled)
    pushing.runs_there(ending)
    process = pushing.runs_there(cancelled)
    eventually(lambda: "running at etl" in pushing.logs(ends) and "running at etl" in pushing.logs(stays), PATIENCE)

    first.kill()
    ending.write_text("0")
    pushing.tf.jobs.cancel(stays)
    eventually(lambda: pushing.statuses() == ["RUNNING", "SUCCEEDED"] or
               pushing.statuses() == ["SUCCEEDED", "RUNNING"], PATIENCE)  # fmt: skip
    assert runs(process)
    pushing.start(destinations, "left")

    assert pushing.ends(ends, JobState.SUCCEEDED).attempt == 1
    pushing.ends(stays, JobState.CANCELLED)
    eventually(lambda: not runs(process), PATIENCE)
    assert len(pushing.jobs()) == 2


@pytest.mark.feature("S1.8")
def test_a_pusher_that_is_stopped_leaves_what_it_submitted_to_the_next(pushing: Pushing) -> None:
    destinations = {"etl": pushing.destination(tasks={"long": {}})}
    first = pushing.start(destinations, "stopped")
    gate = pushing.gate()
    id = pushing.new("long", gate)
    pushing.runs_there(gate)

    assert first.stop() == 0
    pushing.start(destinations, "stopped")
    gate.write_text("0")

    assert pushing.ends(id, JobState.SUCCEEDED).attempt == 1
    assert pushing.statuses() == ["SUCCEEDED"]
