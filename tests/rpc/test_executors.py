"""Executors over gRPC: tasks without a session, held by timeouts (R1, R2, R4, R5, S2.3 to S2.6)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import queue_pb2, worker_pb2
from tests.rpc.conftest import SETTINGS
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal
from tests.support.cluster import ServiceCluster
from tests.support.rawexecutor import RawExecutor
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually

DONE, BROKEN, BACK = pb.OUTCOME_SUCCEEDED, pb.OUTCOME_FAILED, pb.OUTCOME_RETURNED
SHORT = 2000  # milliseconds: a timeout that a test waits for
MOST = int(SETTINGS["coordinator"]["TASKFLOW_MAX_HANDOUTS"])


@pytest.fixture
def executor(api: Api, queue: str) -> Iterator[RawExecutor]:
    """Its task is called as the test's queue."""
    with RawExecutor(api, [queue]) as running:
        yield running


@pytest.fixture
def hasty(api: Api, queue: str) -> Iterator[RawExecutor]:
    with RawExecutor(api, [queue], requested_timeout_ms=SHORT, in_progress_timeout_ms=SHORT) as running:
        yield running


@pytest.fixture
def new(api: Api, queue: str) -> Callable[..., pb.Job]:
    return lambda **fields: api.new(queue, task=queue, **fields)


def logs(api: Api, job: pb.Job) -> list[str]:
    answer = api.jobs.ListJobLogs(pb.ListJobLogsRequest(job_id=job.id), timeout=TIMEOUT)
    return [line.message for line in answer.logs]


def attempts(api: Api, job: pb.Job) -> list[pb.Attempt]:
    return list(api.jobs.ListAttempts(pb.ListAttemptsRequest(job_id=job.id), timeout=TIMEOUT).attempts)


# -- the way of a task ---------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.3", "S2.5")
def test_a_task_is_requested_then_runs_then_is_done(
    api: Api, cluster: ServiceCluster, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new(payload=b'{"n": 1}')
    task = executor.take()
    assert (task.payload, task.attempt, task.tries) == (b'{"n": 1}', 1, 0)
    eventually(lambda: api.get(job.id).state == pb.JOB_STATE_REQUESTED)
    assert api.get(job.id).exec_id == rows.shown(task.exec_id)

    timeout_at = executor.start(task)
    running = api.get(job.id)
    assert (running.state, running.worker) == (pb.JOB_STATE_RUNNING, "raw")
    ((ahead, started, name),) = rows.found(
        cluster.dsn,
        "select %s - extract(epoch from now()), started, worker from taskflow.leases where job_id = %s",
        timeout_at / 1e6,
        job.id,
    )
    assert (100 < ahead <= 121, started, name) == (True, True, "raw")

    assert executor.report(task, DONE, result=b'{"ok":true}') == ""
    done = api.get(job.id)
    assert (done.state, done.result, done.worker) == (pb.JOB_STATE_SUCCEEDED, b'{"ok":true}', "raw")
    assert rows.found(cluster.dsn, "select * from taskflow.leases where job_id = %s", job.id) == []
    (attempt,) = attempts(api, job)
    assert attempt.start_time.ToMicroseconds() <= attempt.finish_time.ToMicroseconds()
    assert attempt.exec_id == rows.shown(task.exec_id)


@pytest.mark.feature("S2.3")
def test_a_start_repeated_is_answered_alike(executor: RawExecutor, new: Callable[..., pb.Job]) -> None:
    new()
    task = executor.take()
    assert executor.start(task) <= executor.start(task)
    assert executor.report(task, DONE) == ""


@pytest.mark.feature("R2")
def test_what_was_not_started_has_no_outcome_and_no_progress(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new()
    task = executor.take()

    assert executor.report(task, DONE) == "NOT_STARTED"
    assert executor.report(task, BROKEN) == "NOT_STARTED"
    assert executor.notify(task).refused == "NOT_STARTED"

    assert api.get(job.id).state == pb.JOB_STATE_REQUESTED
    executor.start(task)
    assert executor.report(task, DONE) == ""


@pytest.mark.feature("S2.4")
def test_a_word_prolongs_and_leaves_progress_and_a_line(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new()
    task = executor.take()
    before = executor.start(task)

    told = executor.notify(
        task, progress=pb.Progress(current=3, total=10, unit="rows"), logs=[worker_pb2.LogLine(message="on it")]
    )

    assert told.timeout_at_us > before and told.refused == ""
    assert api.get(job.id).progress.current == 3
    assert eventually(lambda: logs(api, job)) == ["on it"]
    assert executor.report(task, DONE) == ""


@pytest.mark.feature("S2.5", "R3")
def test_a_failure_is_retried_until_the_tries_are_used(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new(retries=1, options=pb.JobOptions(backoff=pb.Backoff(first=Duration(nanos=1000))))
    for number in (1, 2):
        task = executor.take()
        assert (task.attempt, task.tries) == (number, number - 1)
        executor.start(task)
        assert executor.report(task, BROKEN, error=pb.Error(type="E", message="no")) == ""
    assert api.get(job.id).state == pb.JOB_STATE_FAILED


# -- stale ---------------------------------------------------------------------------------------------------------


@pytest.mark.feature("R1", "S2.3")
def test_a_stale_exec_id_starts_nothing_changes_nothing_and_leaves_a_line(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new()
    task = executor.take()
    wrong = queue_pb2.Assignment(exec_id=task.exec_id[:-1] + bytes([task.exec_id[-1] ^ 1]), job_id=task.job_id)

    with pytest.raises(grpc.RpcError) as caught:
        executor.start(wrong)
    assert (refusal(caught.value).code, refusal(caught.value).reason) == (
        grpc.StatusCode.FAILED_PRECONDITION, "STALE_EXEC_ID",
    )  # fmt: skip
    assert executor.notify(wrong).refused == executor.report(wrong, DONE) == "STALE_EXEC_ID"

    assert api.get(job.id).state == pb.JOB_STATE_REQUESTED
    said = [f"{what} was refused: STALE_EXEC_ID" for what in ("a start", "a notification", "an outcome")]
    assert eventually(lambda: len(found := logs(api, job)) == 3 and found) == said
    executor.start(task)
    assert executor.report(task, DONE) == ""


@pytest.mark.feature("R1")
def test_an_exec_id_of_another_job_is_stale(api: Api, executor: RawExecutor, new: Callable[..., pb.Job]) -> None:
    new(), new()
    one, other = executor.take(), executor.take()
    with pytest.raises(grpc.RpcError) as caught:
        executor.start(queue_pb2.Assignment(exec_id=one.exec_id, job_id=other.job_id))
    assert refusal(caught.value).reason == "STALE_EXEC_ID"


@pytest.mark.feature("R1")
def test_an_outcome_repeated_succeeds_and_another_is_refused(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new()
    task = executor.take()
    executor.start(task)
    assert executor.report(task, DONE, result=b"1") == ""

    assert executor.report(task, DONE, result=b"2") == ""
    assert executor.report(task, BROKEN) == "OUTCOME_RECORDED"
    assert executor.notify(task).refused == "STALE_EXEC_ID"

    assert (api.get(job.id).state, api.get(job.id).result) == (pb.JOB_STATE_SUCCEEDED, b"1")


def test_a_worker_cannot_start_what_an_executor_has(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    new()
    task = executor.take()
    with RawWorker(api, tasks=executor.tasks) as worker, pytest.raises(grpc.RpcError) as caught:
        worker.coordinator.Start(
            worker_pb2.StartRequest(worker_id=worker.worker_id, exec_id=task.exec_id), timeout=TIMEOUT
        )
    assert refusal(caught.value).reason == "STALE_EXEC_ID"


# -- timeouts -----------------------------------------------------------------------------------------------------


@pytest.mark.feature("S2.6", "R4")
def test_what_is_not_started_in_time_is_back_under_another_exec_id_with_no_try_used(
    api: Api, hasty: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new()
    first = hasty.take()
    again = hasty.take(seconds=20)

    assert again.job_id == first.job_id and again.exec_id != first.exec_id
    assert (again.attempt, again.tries) == (1, 0)
    with pytest.raises(grpc.RpcError) as caught:
        hasty.start(first)
    assert refusal(caught.value).reason == "STALE_EXEC_ID"
    hasty.start(again)
    assert hasty.report(again, DONE) == ""
    assert len(attempts(api, job)) == 1


@pytest.mark.feature("R4")
def test_handed_out_too_often_without_a_start_it_fails(
    api: Api, hasty: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new(retries=5)
    for _ in range(MOST):
        hasty.take(seconds=20)
    ended = api.wait(job.id)
    assert (ended.state, ended.error.type) == (pb.JOB_STATE_FAILED, "never_started")


@pytest.mark.feature("S2.6", "R5")
def test_silence_uses_a_try_and_words_keep_it(api: Api, hasty: RawExecutor, new: Callable[..., pb.Job]) -> None:
    job = new(retries=1)
    first = hasty.take()
    until = hasty.start(first)
    eventually(lambda: hasty.notify(first).timeout_at_us > until + 3000 * SHORT, 30)

    again = hasty.take(seconds=20)

    assert (again.attempt, again.tries) == (2, 1)
    assert hasty.report(first, DONE) == "STALE_EXEC_ID"
    hasty.start(again)
    ended = api.wait(job.id)
    assert (ended.state, ended.error.type) == (pb.JOB_STATE_FAILED, "in_progress_timeout")
    assert [a.outcome for a in attempts(api, job)] == [pb.OUTCOME_LOST, pb.OUTCOME_LOST]


@pytest.mark.feature("R5")
def test_the_timeout_of_a_job_is_never_prolonged(api: Api, executor: RawExecutor, new: Callable[..., pb.Job]) -> None:
    job = new(options=pb.JobOptions(timeout=Duration(seconds=1)))
    task = executor.take()
    until = executor.start(task)
    assert executor.notify(task).timeout_at_us - until < 1000  # of a microsecond's rounding
    eventually(lambda: executor.notify(task).refused, 20)
    ended = api.get(job.id)
    assert (ended.state, ended.last_outcome) == (pb.JOB_STATE_FAILED, pb.OUTCOME_TIMED_OUT)


@pytest.mark.feature("S2.6")
def test_a_job_says_its_time_outs_itself(api: Api, executor: RawExecutor, new: Callable[..., pb.Job]) -> None:
    short = Duration(seconds=SHORT // 1000)
    new(options=pb.JobOptions(requested_timeout=short, in_progress_timeout=Duration(seconds=7)))
    executor.take()
    task = executor.take(seconds=8)  # well before the 10 s that the settings give
    assert executor.start(task) - rows.now_us() < 7_500_000


# -- giving back, cancelling ---------------------------------------------------------------------------------------


@pytest.mark.feature("S2.2", "R4")
def test_what_is_given_back_unstarted_is_handed_out_at_once(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job]
) -> None:
    job = new()
    assert executor.report(executor.take(), BACK) == ""
    task = executor.take(seconds=8)
    executor.start(task)
    assert executor.report(task, DONE) == ""
    assert [a.number for a in attempts(api, job)] == [1]


@pytest.mark.feature("R7")
@pytest.mark.parametrize("started", [False, True])
def test_a_cancel_is_final_at_once_and_no_success_replaces_it(
    api: Api, executor: RawExecutor, new: Callable[..., pb.Job], *, started: bool
) -> None:
    job = new(retries=3)
    task = executor.take()
    if started:
        executor.start(task)

    api.jobs.CancelJob(pb.CancelJobRequest(id=job.id), timeout=TIMEOUT)

    assert api.wait(job.id).state == pb.JOB_STATE_CANCELLED
    assert executor.report(task, DONE) == "STALE_EXEC_ID"
    assert api.get(job.id).state == pb.JOB_STATE_CANCELLED


# -- bad input -----------------------------------------------------------------------------------------------------


def test_an_executor_has_no_worker_s_id(executor: RawExecutor) -> None:
    request = queue_pb2.PollRequest(worker_id=bytes(16), tasks=["a"], executor=executor.says)
    with pytest.raises(grpc.RpcError) as caught:
        executor.queue_service.Poll(request, timeout=TIMEOUT)
    assert (refusal(caught.value).code, refusal(caught.value).field) == (
        grpc.StatusCode.INVALID_ARGUMENT, "worker_id",
    )  # fmt: skip


@pytest.mark.parametrize(
    "says", [{"requested_timeout_ms": -(2**60)}, {"in_progress_timeout_ms": 2**62}, {"name": "\0"}]
)
def test_nothing_that_an_executor_says_of_itself_stops_anybody(
    api: Api, cluster: ServiceCluster, queue: str, new: Callable[..., pb.Job], says: dict[str, object]
) -> None:
    job = new()
    with RawExecutor(api, [queue], **says) as odd:
        odd.poll()
    with RawExecutor(api, [queue]) as sound:
        api.jobs.CancelJob(pb.CancelJobRequest(id=job.id), timeout=TIMEOUT)
        again = new()
        task = sound.take()
        sound.start(task)
        assert sound.report(task, DONE) == ""
    assert api.get(again.id).state == pb.JOB_STATE_SUCCEEDED
    assert cluster.alive("coordinator") and cluster.alive("queue")
