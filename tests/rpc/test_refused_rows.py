"""Rows that Postgres refuses by themselves: outcomes, lease rows, log lines. Each fails alone, none is lost (B6)."""

from __future__ import annotations

import pytest

from taskflow import Job, TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import worker_pb2
from tests.support import rows
from tests.support.api import Api
from tests.support.cluster import ServiceCluster
from tests.support.rawexecutor import RawExecutor
from tests.support.rawworker import RawWorker
from tests.support.refusing import refusing
from tests.support.waiting import eventually
from tests.support.workers import working


def recorded(database: str, *ids: str) -> list[tuple[str, str]]:
    """(job, outcome) of the attempts of these jobs that are final."""
    return rows.found(  # type: ignore[return-value]
        database,
        "select job_id::text, taskflow.outcome_name(outcome) from taskflow.attempts"
        " where job_id = any(%s::uuid[]) and final order by job_id",
        list(ids),
    )


@pytest.mark.feature("A8", "B6", "R14")
def test_an_outcome_that_the_database_refuses_holds_up_no_other_and_is_written_when_it_can_be(
    api: Api, database: str, queue: str
) -> None:
    """Its worker is told to send it again, and is acknowledged for the others."""
    with RawWorker(api, queues=[queue]) as worker:
        jobs = [api.new(queue) for _ in range(3)]
        handed = {rows.shown(h.task.job_id): h for h in [worker.take() for _ in jobs]}
        bad, *good = (handed[job.id] for job in jobs)
        refused = jobs[0].id
        with refusing(database, "attempts", "23001", when=f"new.job_id = '{refused}'") as refusals:
            told = worker.report(*(h.outcome(result=b'"kept"') for h in handed.values()))
            assert told == {bad.task.exec_id: "COMMIT_PENDING"}
            wanted = [(job.id, "succeeded") for job in jobs[1:]]
            assert recorded(database, *(job.id for job in jobs)) == sorted(wanted)
            assert worker.report(bad.outcome(result=b'"kept"')) == {bad.task.exec_id: "COMMIT_PENDING"}
            tries = refusals.times
            assert worker.report(*(h.outcome(result=b'"kept"') for h in good)) == {}
            eventually(lambda: refusals.times > tries)

        eventually(lambda: worker.report(bad.outcome(result=b'"kept"')) == {})
        worker.have.clear()
    assert api.get(refused).result == b'"kept"'


@pytest.mark.feature("R14")
def test_an_outcome_is_recorded_without_what_the_database_refuses_of_it(api: Api, database: str, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        jobs = [api.new(queue) for _ in range(2)]
        handed = {rows.shown(h.task.job_id): h for h in [worker.take() for _ in jobs]}
        when = f"new.job_id = '{jobs[0].id}' and new.result is not null"
        with refusing(database, "attempts", "22021", when=when):
            assert worker.report(*(h.outcome(result=b"1") for h in handed.values())) == {}

    told = api.get(jobs[0].id)
    assert (told.state, told.result, told.error.type) == (pb.JOB_STATE_SUCCEEDED, b"", "OutcomeRefused")
    assert "22021" in told.error.message
    assert api.get(jobs[1].id).result == b"1"


@pytest.mark.feature("A8", "S3.2")
def test_the_sdk_keeps_an_outcome_that_is_set_aside_until_it_is_recorded_and_runs_nothing_again(
    tf: TaskFlow, database: str, queue: str
) -> None:
    ran: list[str] = []

    def run(job: Job) -> str:
        ran.append(job.id)
        return "kept"

    bad, *good = tf.new_jobs([(queue, n) for n in range(3)])
    when = f"new.job_id = '{bad.id}'"
    with refusing(database, "attempts", "23001", when=when) as refusals, working(tf, queue, run):
        assert [job.wait(timeout=20).result for job in good] == ["kept"] * 2
        eventually(lambda: refusals.times > 2)
        refusals.by(None)
        assert bad.wait(timeout=20).result == "kept"
    assert sorted(ran) == sorted([bad.id, *(job.id for job in good)])


@pytest.mark.feature("S2.4", "B6")
def test_a_log_line_that_the_database_refuses_is_left_out_alone(
    api: Api, cluster: ServiceCluster, database: str, queue: str
) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue)
        handed = worker.take()
        with refusing(database, "job_logs", "22021", when=f"new.job_id = '{job.id}' and new.message = 'bad'"):
            lines = [worker_pb2.LogLine(level="info", message=said) for said in ("first", "bad", "last")]
            assert worker.notify(handed, logs=lines) == []
            said = "select message from taskflow.job_logs where job_id = %s order by seq"
            eventually(lambda: rows.found(database, said, job.id) == [("first",), ("last",)])
        worker.report(handed.outcome())
    assert "a log line is refused" in cluster.log("coordinator")


@pytest.mark.feature("R5", "A12")
def test_a_running_attempt_has_its_lease_row_once_the_database_takes_it(api: Api, database: str, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        with refusing(database, "leases", "53100", when=f"new.queue like '%{queue}'") as refusals:
            job = api.new(queue)
            handed = worker.take()
            worker.start(handed)
            eventually(lambda: refusals.times)

        leased = "select started from taskflow.leases where job_id = %s"
        eventually(lambda: rows.found(database, leased, job.id) == [(True,)])
        worker.report(handed.outcome())
    assert rows.found(database, leased, job.id) == []


@pytest.mark.feature("A8", "B6", "R1")
def test_an_executor_sends_an_outcome_again_that_the_database_refuses(api: Api, database: str, queue: str) -> None:
    job = api.new(queue, task=queue)
    with RawExecutor(api, [queue]) as executor:
        task = executor.take()
        executor.start(task)
        with refusing(database, "attempts", "23001", when=f"new.job_id = '{job.id}'"):
            for _ in range(2):
                assert executor.report(task, pb.OUTCOME_SUCCEEDED, result=b"1") == "COMMIT_PENDING"

        eventually(lambda: executor.report(task, pb.OUTCOME_SUCCEEDED, result=b"1") == "")
    assert (api.get(job.id).state, api.get(job.id).result) == (pb.JOB_STATE_SUCCEEDED, b"1")
