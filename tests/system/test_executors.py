"""Executors through time and takeovers: the defaults by a moved clock, kills and restarts of those who serve them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import grpc
import pytest

from taskflow import TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import queue_pb2
from tests.support import rows
from tests.support.api import Api, refusal
from tests.support.cluster import ServiceCluster
from tests.support.rawexecutor import RawExecutor
from tests.support.waiting import eventually

DONE = pb.OUTCOME_SUCCEEDED
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.fixture(scope="module")
def manual(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    cluster = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def api(manual: ServiceCluster) -> Iterator[Api]:
    with Api(manual.scheduler_address) as stubs:
        yield stubs


@pytest.fixture(scope="module")
def tf(manual: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(manual.scheduler_address) as client:
        yield client


def start(executor: RawExecutor, task: queue_pb2.Assignment) -> str:
    """The reason for which it is refused; UNAVAILABLE is asked again, as an executor would."""
    said: list[str] = []

    def tried() -> bool:
        try:
            executor.start(task)
            said.append("")
        except grpc.RpcError as error:
            if error.code() not in GONE:
                said.append(refusal(error).reason)
        return bool(said)

    eventually(tried, 60)
    return said[0]


def take(executor: RawExecutor) -> queue_pb2.Assignment:
    """One task, whoever is away meanwhile."""
    handed: list[queue_pb2.Assignment] = []

    def polled() -> bool:
        try:
            handed.extend(executor.poll(seconds=1))
        except grpc.RpcError as error:
            assert error.code() in GONE
        return bool(handed)

    eventually(polled, 60)
    return handed[0]


@pytest.mark.feature("S2.6", "R4", "R5", "M.11")
def test_ten_seconds_to_start_and_two_minutes_between_two_words(manual: ServiceCluster, api: Api, tf: TaskFlow) -> None:
    job = api.new("defaults", task="defaults", retries=1)
    with RawExecutor(api, ["defaults"]) as executor:
        first = executor.take()
        tf.advance_clock(5)
        assert executor.poll(seconds=0) == []
        tf.advance_clock(6)
        task = executor.take(seconds=20)
        assert (task.tries, task.exec_id == first.exec_id) == (0, False)

        executor.start(task)
        for _ in range(3):
            tf.advance_clock(100, step=20)
            assert executor.notify(task).refused == ""
        tf.advance_clock(125, step=20)

        again = executor.take(seconds=20)
        assert (again.attempt, again.tries) == (2, 1)
        executor.start(again)
        assert executor.report(again, DONE) == ""
    attempts = tf.jobs.attempts(job.id)
    assert [str(a.outcome and a.outcome.name) for a in attempts] == ["LOST", "SUCCEEDED"]


@pytest.mark.feature("S2.6", "A5", "M.4")
@pytest.mark.parametrize("name", ["coordinator", "queue"])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_started_task_goes_on_through_a_restart_and_a_requested_one_is_handed_out_anew(
    manual: ServiceCluster, api: Api, tf: TaskFlow, name: str, how: str
) -> None:
    task_name = f"through-{name}-{how}"
    jobs = {api.new(task_name, task=task_name).id for _ in range(2)}
    with RawExecutor(api, [task_name]) as executor:
        started, requested = executor.take(), executor.take()
        executor.start(started)
        tf.advance_clock(100, step=20)  # most of its time is over when its owner goes
        assert executor.notify(started).refused == ""

        manual.kill(name) if how == "kill" else manual.stop(name)
        manual.start(name)
        manual.wait_healthy(name)

        again = take(executor)
        assert again.job_id == requested.job_id and again.exec_id != requested.exec_id
        assert start(executor, requested) == "STALE_EXEC_ID"
        assert start(executor, again) == ""
        tf.advance_clock(100, step=20)
        assert executor.notify(started).refused == ""
        assert executor.report(started, DONE) == executor.report(again, DONE) == ""
    assert {len(tf.jobs.attempts(job)) for job in jobs} == {1}
    assert rows.found(manual.dsn, "select * from taskflow.leases") == []


@pytest.mark.feature("S2.3", "A8")
def test_a_start_on_disk_whose_answer_was_lost_may_be_repeated(manual: ServiceCluster, api: Api) -> None:
    job = api.new("unanswered", task="unanswered")
    manual.restart("coordinator", env={"TASKFLOW_FAILPOINTS": "coordinator.started=kill@1"})
    with RawExecutor(api, ["unanswered"]) as executor:
        task = take(executor)
        with pytest.raises(grpc.RpcError) as caught:
            executor.start(task)
        assert caught.value.code() in GONE
        manual.wait_dead("coordinator")
        manual.start("coordinator")
        manual.wait_healthy("coordinator")

        assert start(executor, task) == ""
        assert executor.report(task, DONE) == ""
    assert api.get(job.id).state == pb.JOB_STATE_SUCCEEDED


@pytest.mark.feature("S2.6", "B2")
def test_a_coordinator_that_was_stopped_takes_no_task_from_an_executor(
    manual: ServiceCluster, api: Api, tf: TaskFlow
) -> None:
    """By the real clock: for longer than the executor's timeout."""
    api.new("stopped", task="stopped")
    with RawExecutor(api, ["stopped"], in_progress_timeout_ms=3000) as executor:
        task = executor.take()
        executor.start(task)
        manual.kill("coordinator", signal.SIGSTOP)
        try:
            with pytest.raises(grpc.RpcError):
                executor.notify(task)  # waits for its deadline of ten seconds
        finally:
            manual.kill("coordinator", signal.SIGCONT)
        assert eventually(lambda: notified(executor, task), 30) == "went on"
        assert executor.report(task, DONE) == ""


def notified(executor: RawExecutor, task: queue_pb2.Assignment) -> str | None:
    try:
        return executor.notify(task).refused or "went on"
    except grpc.RpcError as error:
        assert error.code() in GONE
        return None
