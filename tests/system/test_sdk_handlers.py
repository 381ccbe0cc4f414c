"""Handlers of every kind on a real cluster: how they end, what stops them, and that nothing stops their neighbours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from taskflow import JobCancelled, JobFailed, JobHandle, JobInfo, JobState, JobUnsuccessful, Outcome, TaskFlow
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("notes") / "notes"
    path.touch()
    return path


@pytest.fixture(scope="module")
def worker(cluster: ServiceCluster, notes: Path) -> Program:
    return cluster.run("sdk", "-m", "tests.support.sdk_app", cluster.scheduler_address, str(notes), "cancel_grace=1.0")


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster, worker: Program) -> TaskFlow:
    return TaskFlow(cluster.scheduler_address)


def new(tf: TaskFlow, task: str, payload: Any = None, **options: Any) -> JobHandle:
    return tf.new_job("sdk", payload, task=task, **options)


def ended(job: JobHandle, timeout: float = 30) -> JobInfo:
    try:
        return job.wait(timeout)
    except JobUnsuccessful as error:
        return error.job


def outcomes(tf: TaskFlow, job: JobHandle) -> list[str]:
    return [str(attempt.outcome) for attempt in tf.jobs.attempts(job.id)]


@pytest.mark.feature("X.19")
@pytest.mark.parametrize("task", ["attributes", "attributes_elsewhere"])
def test_a_handler_sees_the_metadata_of_its_job(tf: TaskFlow, task: str) -> None:
    assert new(tf, task, metadata={"user": "u1", "x": "ü"}).wait(timeout=30).result == {"user": "u1", "x": "ü"}
    assert new(tf, task).wait(timeout=30).result == {}


@pytest.mark.feature("R14")
@pytest.mark.parametrize(
    "value", [None, True, 0, 1.5, "", "text", "ünï 🎉", b"", b"\x00\xff", [], [1, [2]], {}, {"a": {"b": None}}, "\x00"]
)
def test_a_payload_and_a_result_arrive_as_the_same_type(tf: TaskFlow, value: Any) -> None:
    job = new(tf, "echo", value)

    result = job.wait(timeout=30).result

    assert result == value and type(result) is type(value)
    assert job.get().payload == value


@pytest.mark.feature("X.13", "X.14", "X.16", "R3", "R4")
@pytest.mark.parametrize(
    ("how", "state", "history"),
    [
        ("return", "succeeded", ["succeeded"]),
        ("retry", "succeeded", ["failed", "succeeded"]),
        ("raise", "succeeded", ["failed", "succeeded"]),
        ("snooze", "succeeded", ["snoozed", "succeeded"]),
        ("fail", "failed", ["failed"]),
        ("cancel", "cancelled", ["cancelled"]),
    ],
)
def test_a_handler_says_what_becomes_of_its_job(tf: TaskFlow, how: str, state: str, history: list[str]) -> None:
    job = new(tf, "end", how, retries=3)

    assert ended(job).state == state

    assert outcomes(tf, job) == history


@pytest.mark.feature("R14")
@pytest.mark.parametrize("how", ["unserialisable", "huge"])
def test_a_result_that_cannot_be_stored_fails_the_attempt_and_wedges_nothing(tf: TaskFlow, how: str) -> None:
    with pytest.raises(JobFailed, match="result: ") as failed:
        new(tf, "end", how, retries=0).wait(timeout=30)

    error = failed.value.job.error
    assert error is not None and error.type == "InvalidResult"


def test_an_error_tells_its_type_message_and_traceback(tf: TaskFlow) -> None:
    with pytest.raises(JobFailed) as failed:
        new(tf, "end", "raise", retries=0).wait(timeout=30)

    error = failed.value.job.error
    assert error is not None
    assert (error.type, error.message) == ("ValueError", "no \\x00 luck")
    assert error.traceback.startswith("Traceback") and "sdk_app.py" in error.traceback


@pytest.mark.feature("R5")
@pytest.mark.parametrize("task", ["sleep", "doze", "work"])
def test_a_timeout_ends_an_attempt_of_each_kind(tf: TaskFlow, task: str) -> None:
    job = new(tf, task, {"seconds": 5}, timeout=0.5, retries=1)

    error = ended(job).error

    assert outcomes(tf, job) == ["timed_out", "timed_out"]
    assert error is not None and error.message == "still running 0.5 s after its start"
    first, second = tf.jobs.attempts(job.id)
    for attempt in (first, second):
        assert attempt.start_time and attempt.finish_time
        assert 0.5 <= (attempt.finish_time - attempt.start_time).total_seconds() < 2.5


@pytest.mark.feature("R5", "S3.2")
def test_a_busy_c_loop_is_killed_at_its_timeout_and_its_neighbours_go_on(tf: TaskFlow) -> None:
    stuck = new(tf, "count", {}, retries=0)
    neighbours = [new(tf, "work", {"seconds": 0.3}) for _ in range(4)] + [new(tf, "sleep", {"seconds": 0.3})]

    assert {ended(job).result for job in neighbours} <= {"worked", "slept"}
    assert ended(stuck).last_outcome is Outcome.TIMED_OUT
    assert outcomes(tf, stuck) == ["timed_out"]
    assert [set(outcomes(tf, job)) for job in neighbours] == [{"succeeded"}] * 5


@pytest.mark.feature("R5", "X.12")
def test_heartbeats_keep_an_attempt_alive_and_their_absence_ends_it(tf: TaskFlow) -> None:
    lively = new(tf, "beat", {"times": 5, "every": 0.2})
    silent = new(tf, "beat", {"times": 1, "every": 3})

    assert lively.wait(timeout=30).result == "lively"
    error = ended(silent).error

    assert error is not None and error.type == "HeartbeatTimedOut"


@pytest.mark.feature("R3")
@pytest.mark.parametrize(
    ("how", "says"), [("segfault", "ended by SIGSEGV"), ("exit", "exit status 3"), ("raise", "SystemExit: 4")]
)
def test_a_handler_that_takes_its_process_down_fails_only_its_own_attempt(tf: TaskFlow, how: str, says: str) -> None:
    neighbour = new(tf, "work", {"seconds": 0.5})
    with pytest.raises(JobFailed, match=says):
        new(tf, "die", {"how": how}).wait(timeout=30)

    assert neighbour.wait(timeout=30).attempt == 1
    assert new(tf, "die", {"how": "not"}).wait(timeout=30).result == "alive"


def test_a_process_may_have_an_async_handler(tf: TaskFlow) -> None:
    assert new(tf, "add", {"a": 2, "b": 3}).wait(timeout=30).result == 5


@pytest.mark.feature("X.12")
def test_progress_and_log_lines_reach_the_job(tf: TaskFlow) -> None:
    job = new(tf, "work", {"seconds": 3})

    progress = eventually(lambda: job.get().progress, 15)
    job.wait(timeout=30)

    assert (progress.current, progress.total, progress.unit, progress.message) == (1, 2, "things", "half")
    lines = eventually(lambda: list(tf.jobs.logs(job.id)))
    assert [(line.level, line.message) for line in lines] == [("warning", "at work")]


@pytest.mark.feature("X.10", "R7")
@pytest.mark.parametrize("task", ["obey", "obey_process", "defy", "sleep"])
def test_a_running_job_is_cancelled_whatever_runs_it(tf: TaskFlow, notes: Path, task: str) -> None:
    job = new(tf, task, {"seconds": 60} if task == "sleep" else None, retries=3)
    eventually(lambda: f"start {task} " in notes.read_text())

    told = job.cancel("changed my mind")
    assert told.cancelling or told.state is JobState.CANCELLED, "its worker can be quicker than the answer"
    begun = time.monotonic()
    with pytest.raises(JobCancelled):
        job.wait(timeout=30)

    assert time.monotonic() - begun < 5
    assert outcomes(tf, job) == ["cancelled"]


@pytest.mark.feature("R7")
def test_a_waiting_job_is_cancelled_at_once_and_never_runs(tf: TaskFlow) -> None:
    job = new(tf, "echo", "x", delay=3600)

    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(timeout=5)

    assert job.get().start_time is None


@pytest.mark.feature("R8")
def test_a_finished_job_can_be_tried_again_by_hand(tf: TaskFlow) -> None:
    job = new(tf, "end", "raise", retries=0)
    assert ended(job).state == "failed"

    job.retry()

    assert job.wait(timeout=30).attempt == 2


@pytest.mark.feature("R12")
def test_a_job_that_no_worker_has_a_handler_for_waits(tf: TaskFlow) -> None:
    job = new(tf, "nobody_has_this", {})

    new(tf, "echo", 1).wait(timeout=30)

    assert job.get().state == "ready"
