"""Cancels before, at and after the start, start_by, and retries by hand (R7, R8, A13, A14)."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from taskflow import FailedPrecondition, Job, JobCancelled, JobState, Outcome, TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal, spec
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually
from tests.support.workers import working


def cancel(api: Api, id: str, reason: str = "") -> pb.Job:
    return api.jobs.CancelJob(pb.CancelJobRequest(id=id, reason=reason), timeout=TIMEOUT).job


def retry(api: Api, id: str) -> pb.Job:
    job: pb.Job = api.jobs.RetryJob(pb.RetryJobRequest(id=id), timeout=TIMEOUT)
    return job


def refused(call: object, api: Api, id: str) -> str:
    """The reason."""
    with pytest.raises(grpc.RpcError) as error:
        call(api, id)  # type: ignore[operator]
    said = refusal(error.value)
    assert said.code == grpc.StatusCode.FAILED_PRECONDITION and id in said.message
    return said.reason


def attempts(api: Api, id: str) -> list[tuple[int, int, bool]]:
    """(number, outcome, started) of each."""
    answer = api.jobs.ListAttempts(pb.ListAttemptsRequest(job_id=id), timeout=TIMEOUT)
    return [(a.number, a.outcome, a.HasField("start_time")) for a in answer.attempts]


# -- before the start --------------------------------------------------------------------------------------------------


@pytest.mark.feature("R7", "A13", "X.10")
@pytest.mark.parametrize("waits", ["ready", "scheduled", "retrying", "beyond the lane's memory"])
def test_a_job_that_waits_is_cancelled_when_the_answer_comes(api: Api, database: str, queue: str, waits: str) -> None:
    if waits == "scheduled":
        wanted = spec(queue)
        wanted.delay.FromSeconds(600)
        job = api.create(wanted)
    elif waits == "retrying":
        backoff = pb.JobOptions()
        backoff.backoff.first.FromSeconds(600)
        with RawWorker(api, queues=[queue]) as worker:
            job = api.new(queue, retries=3, options=backoff)
            worker.report(worker.take().outcome(pb.OUTCOME_FAILED, error=pb.Error(type="E", message="failed")))
    elif waits == "ready":
        job = api.new(queue)
    else:
        jobs = [spec(queue) for _ in range(5000)]
        for _ in range(2):  # more than the queue service is given of one lane
            api.jobs.CreateJobs(pb.CreateJobsRequest(jobs=jobs), timeout=TIMEOUT)
            jobs = [spec(queue) for _ in range(4999)]
        job = api.new(queue)

    cancelled = cancel(api, job.id, "no longer wanted")

    assert (cancelled.state, cancelled.cancelling) == (pb.JOB_STATE_CANCELLED, False)
    assert cancelled.last_outcome == pb.OUTCOME_CANCELLED and cancelled.HasField("finish_time")
    failed = [(1, pb.OUTCOME_FAILED, True)] if waits == "retrying" else []
    assert attempts(api, job.id) == [*failed, (len(failed) + 1, pb.OUTCOME_CANCELLED, False)]
    left = "select exists (select from taskflow.deferred where job_id = %s)"
    assert rows.found(database, left, job.id) == [(False,)]
    assert refused(cancel, api, job.id) == "JOB_FINISHED"
    with RawWorker(api, queues=[queue]) as worker:
        given = {rows.shown(handed.task.job_id) for handed in worker.poll(1000, seconds=0.5)}
        assert job.id not in given


@pytest.mark.feature("R7", "A13", "X.10")
def test_thousands_of_waiting_jobs_are_cancelled_while_workers_take_them(api: Api, tf: TaskFlow, queue: str) -> None:
    """Each is either cancelled or has run, and none did both."""
    ran: set[str] = set()

    async def run(job: Job) -> None:
        ran.add(job.id)
        await asyncio.sleep(0.01)

    handles = tf.new_jobs([(queue, n) for n in range(400)])
    with working(tf, queue, run, concurrency=5), ThreadPoolExecutor(8) as pool:

        def try_to_cancel(id: str) -> JobState:
            try:
                tf.jobs.cancel(id)
            except FailedPrecondition as error:
                assert error.reason == "JOB_FINISHED"
            return tf.jobs.wait(id, timeout=20).state

        states = dict(zip((h.id for h in handles), pool.map(lambda h: try_to_cancel(h.id), handles[::-1]), strict=True))
        states = {h.id: tf.jobs.get(h.id).state for h in handles}

    assert set(states.values()) == {JobState.SUCCEEDED, JobState.CANCELLED}
    succeeded = {id for id, state in states.items() if state == JobState.SUCCEEDED}
    assert succeeded <= ran
    for id in ran - succeeded:
        assert [a.outcome for a in tf.jobs.attempts(id)] == [Outcome.CANCELLED]


@pytest.mark.feature("R7", "A13", "M.12")
def test_a_job_that_was_handed_out_and_not_started_is_cancelled_by_its_worker(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue)
        handed = worker.take()
        told = cancel(api, job.id, "stop it")
        assert (told.state, told.cancelling) == (pb.JOB_STATE_REQUESTED, True)
        asked = eventually(lambda: worker.cancels)[0]
        assert (asked.exec_id, asked.reason) == (handed.task.exec_id, "stop it")
        with pytest.raises(grpc.RpcError):
            worker.start(handed)
        worker.report(handed.outcome(pb.OUTCOME_CANCELLED, started=False))

    assert attempts(api, job.id) == [(1, pb.OUTCOME_CANCELLED, False)]


@pytest.mark.feature("R7")
def test_a_job_that_is_not_started_by_its_time_is_cancelled_as_expired(api: Api, tf: TaskFlow, queue: str) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.7)
    expired = tf.new_job(queue, start_by=soon)
    past = tf.new_job(queue, start_by=soon - timedelta(days=1))
    later = tf.new_job(queue, start_by=soon, delay=600)
    in_time = tf.new_job(f"{queue}-served", start_by=soon + timedelta(seconds=60))

    with working(TaskFlow(tf._core.scheduler), f"{queue}-served", lambda job: "ran"):
        for handle in (past, expired):
            with pytest.raises(JobCancelled):
                handle.wait(timeout=20)
        assert in_time.wait(timeout=20).result == "ran"

    for handle in (past, expired):
        job = tf.jobs.get(handle.id)
        assert job.error is not None and job.error.type == "expired"
        assert attempts(api, job.id) == [(1, pb.OUTCOME_CANCELLED, False)]
    assert tf.jobs.get(later.id).state == JobState.SCHEDULED


@pytest.mark.feature("R7")
def test_each_start_by_is_noticed_soon_though_the_cluster_is_idle(tf: TaskFlow, queue: str) -> None:
    """Nothing looks for them while there are none: the reading of due rows says when one has passed."""
    for _ in range(3):  # the look that is the net under it comes every 5 s: two in a row are not its work
        soon = datetime.now(UTC) + timedelta(seconds=0.3)
        job = tf.new_job(queue, start_by=soon)
        with pytest.raises(JobCancelled):
            job.wait(timeout=20)
        ended = tf.jobs.get(job.id).finish_time
        assert ended is not None and ended - soon < timedelta(seconds=3)


# -- after the start ---------------------------------------------------------------------------------------------------


@pytest.mark.feature("R7", "A13", "X.10")
@pytest.mark.parametrize("retries", [0, 5])
def test_a_running_job_is_final_when_its_worker_confirms_and_is_not_tried_again(
    api: Api, tf: TaskFlow, queue: str, retries: int
) -> None:
    started, answered = threading.Event(), threading.Event()

    def until_cancelled(job: Job) -> None:
        started.set()
        eventually(lambda: job.cancelled)
        answered.wait(20)  # else its end could be known before the answer is made
        raise RuntimeError("stopped half-way")

    with working(tf, queue, until_cancelled):
        job = tf.new_job(queue, retries=retries)
        assert started.wait(10)
        told = cancel(api, job.id, "enough")
        answered.set()
        with pytest.raises(JobCancelled):
            job.wait(timeout=20)

    assert told.cancelling and told.state in (pb.JOB_STATE_REQUESTED, pb.JOB_STATE_RUNNING)  # as far as is known
    assert attempts(api, job.id) == [(1, pb.OUTCOME_CANCELLED, True)]


@pytest.mark.feature("R7", "M.12")
def test_a_running_job_is_final_after_the_grace_and_a_late_success_changes_nothing(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue, retries=3)
        handed = worker.take()
        worker.start(handed)
        assert cancel(api, job.id).cancelling
        final = api.wait(job.id, 10)
        late = worker.report(handed.outcome(pb.OUTCOME_SUCCEEDED, result=b'"done"'))

    assert (final.state, final.error.type) == (pb.JOB_STATE_CANCELLED, "cancel_grace")
    assert late == {handed.task.exec_id: "OUTCOME_RECORDED"}
    assert api.get(job.id) == final
    assert attempts(api, job.id) == [(1, pb.OUTCOME_CANCELLED, True)]


@pytest.mark.feature("R7")
def test_a_job_that_succeeds_before_it_hears_of_the_cancel_did_succeed(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue)
        handed = worker.take()
        cancel(api, job.id)
        worker.report(handed.outcome(pb.OUTCOME_SUCCEEDED))

    assert api.get(job.id).state == pb.JOB_STATE_SUCCEEDED
    assert not api.get(job.id).cancelling


@pytest.mark.feature("R7", "A13")
def test_a_cancelled_job_whose_worker_dies_is_cancelled_and_not_lost(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue, retries=3)
        worker.start(worker.take())
        cancel(api, job.id)
        worker.vanish()
        assert api.wait(job.id, 10).state == pb.JOB_STATE_CANCELLED

    assert attempts(api, job.id) == [(1, pb.OUTCOME_CANCELLED, True)]


# -- by hand -----------------------------------------------------------------------------------------------------------


@pytest.mark.feature("R8", "A14", "S3.4")
@pytest.mark.parametrize("outcome", [pb.OUTCOME_SUCCEEDED, pb.OUTCOME_FAILED, pb.OUTCOME_CANCELLED])
def test_a_finished_job_is_retried_under_its_id_with_fresh_tries_and_attempts_go_on_counting(
    api: Api, queue: str, outcome: int
) -> None:
    options = pb.JobOptions()
    options.backoff.first.FromMilliseconds(1)
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue, retries=1, options=options, payload=b"7")
        first = worker.take()
        if outcome == pb.OUTCOME_FAILED:
            worker.report(first.outcome(pb.OUTCOME_FAILED))
            first = worker.take()
        worker.report(first.outcome(outcome, result=b"1"))
        before = len(attempts(api, job.id))
        assert api.get(job.id).state >= pb.JOB_STATE_SUCCEEDED

        again = retry(api, job.id)
        assert (again.id, again.state, again.HasField("finish_time"), again.result) == (
            job.id, pb.JOB_STATE_READY, False, b"",
        )  # fmt: skip
        third = worker.take()
        assert (third.task.attempt, third.task.tries, third.task.payload) == (before + 1, 0, b"7")
        worker.report(third.outcome(pb.OUTCOME_FAILED))
        fourth = worker.take()
        assert (fourth.task.attempt, fourth.task.tries) == (before + 2, 1)
        worker.report(fourth.outcome(pb.OUTCOME_FAILED))
        failed = api.get(job.id)

    assert (failed.state, failed.attempt) == (pb.JOB_STATE_FAILED, before + 2)
    assert [number for number, *_ in attempts(api, job.id)] == list(range(1, before + 3))


@pytest.mark.feature("R8", "A14")
def test_a_retry_by_hand_made_twice_at_once_runs_once(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker, ThreadPoolExecutor(8) as pool:
        job = api.new(queue)
        worker.report(worker.take().outcome(pb.OUTCOME_FAILED))

        def try_to_retry(_: int) -> str:
            try:
                return str(retry(api, job.id).state)
            except grpc.RpcError as error:
                return refusal(error).reason

        answers = list(pool.map(try_to_retry, range(8)))
        assert answers.count("JOB_NOT_FINISHED") == 7
        worker.have.clear()
        worker.report(worker.take().outcome())
        assert worker.poll(seconds=0.5) == []

    assert attempts(api, job.id) == [(1, pb.OUTCOME_FAILED, True), (2, pb.OUTCOME_SUCCEEDED, True)]


@pytest.mark.feature("R8", "A14")
def test_a_job_that_is_not_finished_is_not_retried_by_hand(api: Api, queue: str) -> None:
    later = spec(queue)
    later.delay.FromSeconds(600)
    backoff = pb.JobOptions()
    backoff.backoff.first.FromSeconds(600)

    assert refused(retry, api, api.create(later).id) == "JOB_NOT_FINISHED"
    assert refused(retry, api, api.new(queue).id) == "JOB_NOT_FINISHED"
    with RawWorker(api, queues=[f"{queue}-2"]) as worker:
        job = api.new(f"{queue}-2", retries=1, options=backoff)
        handed = worker.take()
        assert refused(retry, api, job.id) == "JOB_NOT_FINISHED"
        worker.start(handed)
        assert refused(retry, api, job.id) == "JOB_NOT_FINISHED"
        worker.report(handed.outcome(pb.OUTCOME_FAILED))
        assert refused(retry, api, job.id) == "JOB_NOT_FINISHED", "it is retrying"


@pytest.mark.feature("R7", "R8", "A13", "A14")
def test_a_cancelled_job_that_is_retried_can_be_cancelled_again(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue)
        assert cancel(api, job.id).state == pb.JOB_STATE_CANCELLED
        assert retry(api, job.id).state == pb.JOB_STATE_READY
        handed = worker.take()
        assert not api.get(job.id).cancelling
        assert cancel(api, job.id).cancelling
        eventually(lambda: [c for c in worker.cancels if c.exec_id == handed.task.exec_id])
        worker.report(handed.outcome(pb.OUTCOME_CANCELLED))
        assert retry(api, job.id).state == pb.JOB_STATE_READY
        worker.have.clear()
        again = worker.take()
        assert cancel(api, job.id).cancelling
        eventually(lambda: [c for c in worker.cancels if c.exec_id == again.task.exec_id])
        worker.report(again.outcome(pb.OUTCOME_SUCCEEDED))

    assert [outcome for _, outcome, _ in attempts(api, job.id)] == [
        pb.OUTCOME_CANCELLED, pb.OUTCOME_CANCELLED, pb.OUTCOME_SUCCEEDED,
    ]  # fmt: skip
