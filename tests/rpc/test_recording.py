"""Outcomes on their way to Postgres: reports that meet, cancels that arrive (A8, R1, A13).

Locks of the test's own hold a commit where it is to be held; no time is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from typing import Any

import grpc
import psycopg
import pytest

from taskflow.v1 import dispatch_pb2, dispatch_pb2_grpc, worker_pb2
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import Handed, RawWorker
from tests.support.waiting import eventually

MOMENT = 0.5  # seconds within which an answer would be there, if it did not wait


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def coordinator(cluster: ServiceCluster) -> Iterator[dispatch_pb2_grpc.DispatchServiceStub]:
    with grpc.insecure_channel(cluster.address("coordinator"), options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield dispatch_pb2_grpc.DispatchServiceStub(channel)


@contextmanager
def locked(database: str, statement: str) -> Iterator[psycopg.Connection[Any]]:
    """Runs `statement` in a transaction that stays open for the block."""
    with psycopg.connect(database) as conn:
        conn.execute(statement)
        yield conn
        conn.rollback()


def waiting(database: str, words: str) -> int:
    """Statements with these words that wait for a lock."""
    found = rows.found(
        database,
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and query like %s",
        f"%{words}%",
    )
    return int(found[0][0])


def outcomes(database: str, *ids: str) -> list[tuple[int, str, bool]]:
    """(attempt, outcome, final) of these jobs, in order."""
    return rows.found(  # type: ignore[return-value]
        database,
        "select attempt, taskflow.outcome_name(outcome), final from taskflow.attempts where job_id = any(%s::uuid[])"
        " order by job_id, attempt",
        list(ids),
    )


def retried(**first: int) -> pb.JobOptions:
    options = pb.JobOptions()
    options.backoff.first.FromSeconds(first.get("after", 0) or 1)
    return options


def failed(handed: Handed) -> worker_pb2.AttemptOutcome:
    return handed.outcome(pb.OUTCOME_FAILED, error=pb.Error(type="E", message="failed"))


def status(report: Future[Any]) -> grpc.StatusCode | None:
    """How a report ended; None: acknowledged."""
    error = report.exception(TIMEOUT)
    return error.code() if isinstance(error, grpc.RpcError) else None


# -- a second report of an outcome that is being committed -------------------------------------------------------------


@contextmanager
def two_reports(
    api: Api, database: str, queue: str, threads: ThreadPoolExecutor
) -> Iterator[tuple[Handed, psycopg.Connection[Any], Future[Any], Future[Any]]]:
    """The outcome of one attempt in two reports: the second has begun to be looked up when the first arrives, and the
    first one's commit waits at its fence, behind the connection that is yielded."""
    with RawWorker(api, queues=[queue]) as worker:
        api.new(queue)
        handed = worker.take()
        elsewhere = worker_pb2.AttemptOutcome(
            exec_id=rows.new_exec(), job_id=rows.new_id(), attempt=1, shard=handed.lane.shard,
            outcome=pb.OUTCOME_SUCCEEDED,
        )  # fmt: skip
        with ExitStack() as attempts:
            attempts.enter_context(locked(database, "lock table taskflow.attempts in access exclusive mode"))
            second = threads.submit(worker.report, elsewhere, handed.outcome(result=b"1"))
            eventually(lambda: waiting(database, "join taskflow.attempts"))
            first = threads.submit(worker.report, handed.outcome(result=b"1"))
            eventually(lambda: waiting(database, "insert into taskflow.attempts"))
            with locked(database, "select * from taskflow.shards for update") as fence:
                attempts.close()
                eventually(lambda: waiting(database, "taskflow.fence"))
                yield handed, fence, first, second
        wait([first, second], TIMEOUT)
        worker.have.clear()


@pytest.mark.feature("A8", "R1")
def test_a_second_report_of_an_outcome_in_commit_is_acknowledged_once_it_is_committed(
    api: Api, database: str, queue: str, threads: ThreadPoolExecutor
) -> None:
    with two_reports(api, database, queue, threads) as (handed, fence, first, second):
        assert wait([first, second], MOMENT).done == set(), "acknowledged before the commit"
        fence.rollback()

        assert first.result(TIMEOUT) == {}
        assert handed.task.exec_id not in second.result(TIMEOUT)
    assert outcomes(database, rows.shown(handed.task.job_id)) == [(1, "succeeded", True)]


@pytest.mark.feature("A8", "R1")
def test_a_second_report_of_an_outcome_whose_commit_fails_is_not_acknowledged(
    api: Api, database: str, queue: str, threads: ThreadPoolExecutor
) -> None:
    with two_reports(api, database, queue, threads) as (handed, fence, first, second):
        fence.execute("update taskflow.shards set epoch = epoch + 1, owner = 'nobody', incarnation = gen_random_uuid()")
        fence.commit()

        assert status(first) == status(second) == grpc.StatusCode.UNAVAILABLE
        assert outcomes(database, rows.shown(handed.task.job_id)) == []
    eventually(lambda: owned(database), 20)
    job = rows.shown(handed.task.job_id)
    with RawWorker(api, queues=[queue]) as worker:  # the outcome was never acknowledged: the job is not lost
        worker.report(worker.take().outcome(result=b"2"))
    assert api.wait(job).state == pb.JOB_STATE_SUCCEEDED


def owned(database: str) -> bool:
    """Whether the coordinator has taken its shards back."""
    return rows.found(database, "select distinct owner from taskflow.shards") == [("coordinator-1",)]


@pytest.mark.feature("A8", "R1")
def test_a_different_outcome_that_arrives_while_the_first_is_in_commit_is_refused_by_what_is_recorded(
    api: Api, database: str, queue: str, threads: ThreadPoolExecutor
) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue)
        handed = worker.take()
        with locked(database, "select * from taskflow.shards for update"):
            first = threads.submit(worker.report, handed.outcome(result=b"1"))
            eventually(lambda: waiting(database, "taskflow.fence") == 1)
            second = threads.submit(worker.report, failed(handed))
            assert wait([second], MOMENT).done == set()

        assert first.result(TIMEOUT) == {}
        assert second.result(TIMEOUT) == {handed.task.exec_id: "OUTCOME_RECORDED"}
    assert outcomes(database, job.id) == [(1, "succeeded", True)]


@pytest.mark.feature("A8")
def test_two_outcomes_of_one_attempt_in_one_report_record_the_first_with_all_that_follows_it(
    api: Api, database: str, queue: str
) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue, retries=1, options=retried(after=600))
        handed = worker.take()

        assert worker.report(failed(handed), handed.outcome()) == {handed.task.exec_id: "OUTCOME_RECORDED"}

    assert outcomes(database, job.id) == [(1, "failed", False)]
    assert api.get(job.id).state == pb.JOB_STATE_RETRYING


# -- a cancel between a decision and its commit ------------------------------------------------------------------------


def cancel(api: Api, id: str) -> None:
    api.jobs.CancelJob(pb.CancelJobRequest(id=id), timeout=TIMEOUT)


def heard(coordinator: dispatch_pb2_grpc.DispatchServiceStub, id: bytes) -> bool:
    """Whether the coordinator knows that this job is to be cancelled."""
    told = coordinator.Describe(dispatch_pb2.DescribeRequest(job_ids=[id]), timeout=TIMEOUT)
    return any(job.cancelling for job in told.jobs)


@pytest.mark.feature("R7", "A13", "X.10")
@pytest.mark.parametrize("moment", ["before the commit begins", "while it is under way"])
def test_a_cancel_that_comes_after_the_decision_to_retry_ends_the_job(
    api: Api,
    database: str,
    queue: str,
    threads: ThreadPoolExecutor,
    coordinator: dispatch_pb2_grpc.DispatchServiceStub,
    moment: str,
) -> None:
    """It ends with its attempt, or, where that is too late, with the one that would follow."""
    again = {"retries": 3, "options": retried(after=600)}
    too_late = moment == "while it is under way"
    with RawWorker(api, queues=[queue]) as worker:
        jobs = [api.new(queue, **again) for _ in range(1 if too_late else 2)]
        handed = [worker.take() for _ in jobs]
        job = jobs[-1].id
        with locked(database, "lock table taskflow.deferred in exclusive mode"):
            reports = []
            for each in handed:  # the first is in its commit; a second one is decided, and waits for that
                reports.append(threads.submit(worker.report, failed(each)))
                eventually(lambda: ends(worker, each))  # noqa: B023
                eventually(lambda: waiting(database, "insert into taskflow.deferred"))
            cancelling = threads.submit(cancel, api, job)
            eventually(lambda: heard(coordinator, handed[-1].task.job_id))
        assert [report.result(TIMEOUT) for report in reports] == [{}] * len(reports)
        cancelling.result(TIMEOUT)

        assert api.wait(job, seconds=4).state == pb.JOB_STATE_CANCELLED
    ended = [(1, "failed", False), (2, "cancelled", True)] if too_late else [(1, "cancelled", True)]
    assert outcomes(database, job) == ended
    deferred = "select exists (select from taskflow.deferred where job_id = %s)"
    assert rows.found(database, deferred, job) == [(False,)]
    assert rows.found(database, "select done from taskflow.cancels where job_id = %s", job) == [(True,)]


def ends(worker: RawWorker, handed: Handed) -> bool:
    """Whether the coordinator has decided its outcome: it can be started no more."""
    try:
        worker.start(handed)
    except grpc.RpcError as error:
        return bool(error.code() == grpc.StatusCode.FAILED_PRECONDITION)
    return False
