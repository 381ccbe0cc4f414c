"""Ends of attempts: retries and their delays, Fail, Snooze, returns, dispatches without a start (R3, R4)."""

from __future__ import annotations

import gc
import itertools
import threading
from typing import Any

import pytest

from taskflow import (
    Constant,
    Exponential,
    Fail,
    Job,
    JobFailed,
    JobHandle,
    JobState,
    NewJob,
    Outcome,
    Retry,
    Snooze,
    TaskFlow,
)
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually
from tests.support.workers import working

QUICK = Constant(0.01)


def outcomes(tf: TaskFlow, job: JobHandle) -> list[Outcome | None]:
    return [attempt.outcome for attempt in tf.jobs.attempts(job.id)]


def waits(tf: TaskFlow, job: JobHandle) -> list[float]:
    """Seconds between the end of each attempt and the start of the next."""
    tries = tf.jobs.attempts(job.id)
    pairs = [(a.finish_time, b.start_time) for a, b in itertools.pairwise(tries)]
    return [(start - end).total_seconds() for end, start in pairs if start is not None and end is not None]


class Fails(Exception):
    pass


# -- retries -----------------------------------------------------------------------------------------------------------


@pytest.mark.feature("R3", "S3.2", "R4")
@pytest.mark.parametrize(("retries", "fails", "succeeds"), [(0, 0, True), (0, 1, False), (2, 2, True), (2, 3, False)])
def test_retries_are_further_tries_after_the_first(
    tf: TaskFlow, queue: str, retries: int, fails: int, succeeds: bool
) -> None:
    def handle(job: Job) -> int:
        if job.attempt <= fails:
            raise Fails(f"attempt {job.attempt}")
        return job.attempt

    with working(tf, queue, handle):
        job = tf.new_job(queue, retries=retries, backoff=QUICK)
        final = tf.jobs.wait(job.id, timeout=20)

    assert final.state == (JobState.SUCCEEDED if succeeds else JobState.FAILED)
    assert outcomes(tf, job) == [Outcome.FAILED] * fails + [Outcome.SUCCEEDED] * succeeds
    assert [a.final for a in tf.jobs.attempts(job.id)] == [False] * (final.attempt - 1) + [True]
    if not succeeds:
        with pytest.raises(JobFailed, match=f"Fails: attempt {fails}"):
            job.wait()


@pytest.mark.feature("R3", "X.13")
def test_fail_is_final_at_once(tf: TaskFlow, queue: str) -> None:
    def handle(job: Job) -> None:
        raise Fail("the address does not exist")

    with working(tf, queue, handle):
        job = tf.new_job(queue, retries=5, backoff=QUICK)
        final = tf.jobs.wait(job.id, timeout=20)

    assert (final.state, final.attempt) == (JobState.FAILED, 1)
    assert final.error is not None and (final.error.type, final.error.message) == ("Fail", "the address does not exist")


@pytest.mark.feature("X.14", "R3")
def test_the_delay_grows_by_the_factor_up_to_the_limit_within_its_jitter(tf: TaskFlow, queue: str) -> None:
    backoff = Exponential(first=0.1, factor=10, limit=0.9, jitter=0.1)

    def handle(job: Job) -> None:
        raise Fails

    with working(tf, queue, handle):
        jobs = [tf.new_job(queue, retries=2, backoff=backoff) for _ in range(8)]
        for job in jobs:
            tf.jobs.wait(job.id, timeout=20)

    # A due job is found at most 0.25 s late, and handed out within some milliseconds more.
    waited = [waits(tf, job) for job in jobs]
    first, second = zip(*waited, strict=True)
    assert min(first) >= 0.09 and max(first) <= 0.11 + 0.6
    assert min(second) >= 0.81 and max(second) <= 0.99 + 0.6


@pytest.mark.feature("X.14", "R3")
def test_jitter_spreads_the_delays_of_jobs_that_failed_together(tf: TaskFlow, queue: str) -> None:
    def handle(job: Job) -> None:
        raise Fails

    with working(tf, queue, handle):
        jobs = tf.new_jobs([NewJob(queue, retries=1, backoff=Constant(1000, jitter=0.2)) for _ in range(40)])
        eventually(lambda: {job.get().state for job in jobs} == {JobState.RETRYING})

    delays = []
    for job in jobs:
        (failed,), due = tf.jobs.attempts(job.id), job.get().run_time
        assert failed.finish_time is not None and due is not None
        delays.append((due - failed.finish_time).total_seconds())
    assert 799 <= min(delays) < 900 and 1100 < max(delays) <= 1201
    assert len(set(delays)) > 20


@pytest.mark.feature("R3", "X.14")
def test_the_delay_that_a_handler_asks_for_goes_before_the_backoff(tf: TaskFlow, queue: str) -> None:
    def handle(job: Job) -> None:
        if job.attempt == 1:
            raise Retry("busy", delay=0.3)

    with working(tf, queue, handle):
        job = tf.new_job(queue, retries=1, backoff=Constant(300))
        job.wait(timeout=20)

    assert outcomes(tf, job) == [Outcome.FAILED, Outcome.SUCCEEDED]
    assert 0.3 <= waits(tf, job)[0] < 1.5


@pytest.mark.feature("R4", "X.16")
def test_a_snooze_uses_no_try(tf: TaskFlow, queue: str) -> None:
    def handle(job: Job) -> str:
        if job.attempt <= 3:
            raise Snooze(0.05)
        if job.attempt == 4:
            raise Fails
        return "awake"

    with working(tf, queue, handle):
        job = tf.new_job(queue, retries=1, backoff=QUICK)
        assert job.wait(timeout=20).result == "awake"

    assert outcomes(tf, job) == [Outcome.SNOOZED] * 3 + [Outcome.FAILED, Outcome.SUCCEEDED]
    assert min(waits(tf, job)[:3]) >= 0.05


@pytest.mark.feature("R4", "X.16")
def test_a_snoozed_job_is_scheduled_and_a_failed_one_is_retrying(tf: TaskFlow, queue: str) -> None:
    def handle(job: Job) -> None:
        if job.payload == "snooze":
            raise Snooze(600)
        raise Fails

    with working(tf, queue, handle):
        snoozed, failed = tf.new_job(queue, "snooze"), tf.new_job(queue, "fail", retries=1, backoff=Constant(600))
        eventually(lambda: snoozed.get().state == JobState.SCHEDULED and failed.get().state == JobState.RETRYING)

    for job in (snoozed, failed):
        at = job.get().run_time
        assert at is not None and 500 < at.timestamp() - rows.now_us() / 1e6 < 700


@pytest.mark.feature("R4", "R5", "R3")
def test_a_timeout_uses_a_try(tf: TaskFlow, queue: str) -> None:
    stop = threading.Event()

    def handle(job: Job) -> None:
        stop.wait(20)

    with working(tf, queue, handle):
        job = tf.new_job(queue, retries=1, timeout=0.2, backoff=QUICK)
        final = tf.jobs.wait(job.id, timeout=20)
        stop.set()

    assert (final.state, outcomes(tf, job)) == (JobState.FAILED, [Outcome.TIMED_OUT, Outcome.TIMED_OUT])


@pytest.mark.feature("R4", "M.4")
def test_a_lost_worker_uses_a_try(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        poor, rich = api.new(queue, retries=0), api.new(queue, retries=1)
        worker.start(worker.take())
        worker.take()  # it may have started: nobody has heard
        worker.vanish()
        assert api.wait(poor.id, 10).error.type == "lost"
    with RawWorker(api, queues=[queue]) as other:
        again = other.take()
        other.report(again.outcome())

    assert (rows.shown(again.task.job_id), again.task.attempt, again.task.tries) == (rich.id, 2, 1)
    assert [a.outcome for a in attempts(api, poor.id)] == [pb.OUTCOME_LOST]
    assert [a.outcome for a in attempts(api, rich.id)] == [pb.OUTCOME_LOST, pb.OUTCOME_SUCCEEDED]


def attempts(api: Api, id: str) -> list[pb.Attempt]:
    return list(api.jobs.ListAttempts(pb.ListAttemptsRequest(job_id=id), timeout=TIMEOUT).attempts)


# -- returns -----------------------------------------------------------------------------------------------------------


@pytest.mark.feature("R4", "X.22")
def test_what_a_draining_worker_gives_back_runs_elsewhere_and_uses_no_try(
    cluster: ServiceCluster, tf: TaskFlow, queue: str
) -> None:
    started, stop = threading.Event(), threading.Event()

    def slow(job: Job) -> None:
        started.set()
        stop.wait(20)

    with TaskFlow(cluster.scheduler_address) as first:
        with working(first, queue, slow, grace=0.1, concurrency=1):
            jobs = [tf.new_job(queue, retries=0) for _ in range(3)]
            assert started.wait(10)
        stop.set()
    with working(tf, queue, lambda job: job.attempt):
        results = [job.wait(timeout=20).result for job in jobs]

    assert results == [2, 1, 1]
    assert [outcomes(tf, job) for job in jobs] == [[Outcome.RETURNED, Outcome.SUCCEEDED], *[[Outcome.SUCCEEDED]] * 2]


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_job_that_has_ended_leaves_nothing_for_the_garbage_collector(
    cluster: ServiceCluster, queue: str, kind: str
) -> None:
    """Each full collection stops every handler; thousands of ended jobs that wait for one make them frequent."""

    async def handler(job: Job) -> None: ...

    run = handler if kind == "async" else lambda job: None
    with TaskFlow(cluster.scheduler_address) as client, working(client, queue, run, concurrency=5):
        gc.collect()
        gc.disable()
        try:
            jobs = client.new_jobs([NewJob(queue) for _ in range(200)])
            assert {job.wait(timeout=20).state for job in jobs} == {JobState.SUCCEEDED}
            eventually(lambda: sum(type(each).__name__ == "Attempt" for each in gc.get_objects()) < 20)
        finally:
            gc.enable()


@pytest.mark.feature("X.22")
def test_a_thread_that_outlasts_its_worker_and_its_client_ends_in_silence(
    cluster: ServiceCluster, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", faults.append)
    threads: list[threading.Thread] = []
    stop = threading.Event()

    def slow(job: Job) -> None:
        threads.append(threading.current_thread())
        stop.wait(20)

    with TaskFlow(cluster.scheduler_address) as first, working(first, queue, slow, grace=0.1, concurrency=1):
        first.new_job(queue)
        eventually(lambda: threads)
    stop.set()
    threads[0].join(10)

    assert not threads[0].is_alive()
    assert faults == []


@pytest.mark.feature("R4")
def test_hand_outs_without_a_start_are_capped(api: Api, queue: str) -> None:
    """Three here, by setting."""
    handed_out = 0
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue, retries=9)
        while handed_out < 10 and api.get(job.id).state != pb.JOB_STATE_FAILED:
            for handed in worker.poll(seconds=0.2):
                handed_out += 1
                assert (handed.task.attempt, handed.task.tries) == (1, 0)
                worker.report(handed.outcome(pb.OUTCOME_RETURNED, started=False))
        final = api.wait(job.id, 10)

    assert handed_out == 3
    assert (final.state, final.error.type) == (pb.JOB_STATE_FAILED, "never_started")
    assert [(a.number, a.outcome, a.HasField("start_time")) for a in attempts(api, job.id)] == [
        (1, pb.OUTCOME_FAILED, False)
    ]


@pytest.mark.feature("A6", "R4")
def test_a_task_that_its_worker_still_has_is_not_taken_back(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue], give_back=True) as worker:
        kept, dropped = api.new(queue), api.new(queue)
        first = worker.take()
        lost = worker.poll()[0]  # heartbeats do not name it
        eventually(lambda: lost.task.exec_id in worker.void)
        again = worker.poll(most=2, seconds=5)
        assert first.task.exec_id not in worker.void
        assert worker.report(first.outcome(), again[0].outcome()) == {}
        assert worker.report(lost.outcome()) == {lost.task.exec_id: "STALE_EXEC_ID"}

    assert [rows.shown(h.task.job_id) for h in again] == [dropped.id]
    assert [a.outcome for id in (kept.id, dropped.id) for a in attempts(api, id)] == [pb.OUTCOME_SUCCEEDED] * 2


@pytest.mark.feature("A6")
def test_an_executor_may_start_what_it_has_just_been_handed(api: Api, queue: str) -> None:
    """Its word may overtake the queue service's."""
    with RawWorker(api, queues=[queue]) as worker:
        for _ in range(50):
            api.new(queue)
            handed = worker.poll()[0]
            worker.start(handed)
            assert worker.report(handed.outcome()) == {}


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.mark.feature("R14")
@pytest.mark.parametrize(
    ("result", "encoding", "kind"),
    [
        (b"x" * ((1 << 20) + 1), pb.ENCODING_BYTES, "ResultTooLarge"),
        (b"{", pb.ENCODING_JSON, "InvalidResult"),
        (b"[-1e999]", pb.ENCODING_JSON, "InvalidResult"),
        (b'{"\\udfff": 1}', pb.ENCODING_JSON, "InvalidResult"),
        (b"[" * 501 + b"]" * 501, pb.ENCODING_JSON, "InvalidResult"),
        (b"\xff", pb.ENCODING_TEXT, "InvalidResult"),
        (b"a\0b", pb.ENCODING_TEXT, "InvalidResult"),
        (b"1", 99, "InvalidResult"),
    ],
)
def test_a_result_that_cannot_be_kept_fails_its_attempt_and_says_why(
    api: Api, database: str, queue: str, result: bytes, encoding: Any, kind: str
) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue)
        assert worker.report(worker.take().outcome(result=result, encoding=encoding)) == {}

    final = api.get(job.id)
    assert (final.state, final.error.type, final.result) == (pb.JOB_STATE_FAILED, kind, b"")
    if kind == "ResultTooLarge":
        assert "1048577" in final.error.message and "1048576" in final.error.message
    assert rows.found(database, "select state from taskflow.job_states where id = %s", job.id) == [("failed",)]


@pytest.mark.feature("R14")
def test_a_handler_s_result_over_the_limit_fails_its_attempt_and_is_retried(tf: TaskFlow, queue: str) -> None:
    with working(tf, queue, lambda job: "x" * (1 << 20) + "y" * (2 - job.attempt)):
        job = tf.new_job(queue, retries=1, backoff=QUICK)
        assert len(job.wait(timeout=20).result) == 1 << 20

    first = tf.jobs.attempts(job.id)[0]
    assert first.outcome == Outcome.FAILED and first.error is not None and "1,048,577" in first.error.message
