"""An outcome of an attempt that was declared lost, while its job still waits for the next one (protocol A8, R1)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import Handed, RawWorker
from tests.support.waiting import eventually

FINAL = pb.Error(type="Fail", message="never", final=True)


def attempts(api: Api, id: str) -> list[int]:
    found = api.jobs.ListAttempts(pb.ListAttemptsRequest(job_id=id), timeout=TIMEOUT).attempts
    return [attempt.outcome for attempt in found]


def lose(api: Api, queue: str, *retries: int) -> list[tuple[str, Handed]]:
    """Jobs with so many retries each, whose first attempts ran in a worker that was declared lost."""
    with RawWorker(api, queues=[queue]) as worker:
        jobs = [api.new(queue, retries=n).id for n in retries]
        taken = {rows.shown(handed.task.job_id): handed for handed in (worker.take() for _ in jobs)}
        for handed in taken.values():
            worker.start(handed)
        worker.vanish()
        eventually(lambda: all(attempts(api, job) == [pb.OUTCOME_LOST] for job in jobs), 20)
    return [(job, taken[job]) for job in jobs]


@pytest.fixture
def back(api: Api, queue: str) -> Iterator[RawWorker]:
    """The worker once it is heard again, under a new id."""
    with RawWorker(api, queues=[queue]) as worker:
        yield worker


@pytest.mark.feature("A8", "R1")
def test_a_late_outcome_stands_for_the_attempt_that_still_waits_and_for_no_other(
    api: Api, back: RawWorker, database: str, queue: str
) -> None:
    (well, ended), (bad, failed), (again, tried), (out, over), (poor, broke) = lose(api, queue, 1, 1, 1, 1, 0)
    api.jobs.CancelJob(pb.CancelJobRequest(id=out), timeout=TIMEOUT)
    eventually(lambda: api.get(out).state == pb.JOB_STATE_CANCELLED)
    late = [
        ended.outcome(result=b"1"), failed.outcome(pb.OUTCOME_FAILED, error=FINAL),
        tried.outcome(pb.OUTCOME_FAILED, error=pb.Error(type="Oops")), over.outcome(), broke.outcome(),
    ]  # fmt: skip

    for _ in range(2):  # the same again is answered alike
        refused = back.report(*late)
        assert refused == {h.task.exec_id: "OUTCOME_RECORDED" for h in (tried, over, broke)}

    assert (api.get(well).state, api.get(well).result) == (pb.JOB_STATE_SUCCEEDED, b"1")
    assert (api.get(bad).state, api.get(bad).error.type) == (pb.JOB_STATE_FAILED, "Fail")
    assert attempts(api, well) == [pb.OUTCOME_LOST, pb.OUTCOME_SUCCEEDED]
    assert attempts(api, bad) == [pb.OUTCOME_LOST, pb.OUTCOME_FAILED]
    assert api.get(poor).state == pb.JOB_STATE_FAILED and attempts(api, poor) == [pb.OUTCOME_LOST]
    assert api.get(out).state == pb.JOB_STATE_CANCELLED
    assert back.report(ended.outcome(pb.OUTCOME_FAILED, error=FINAL)) == {ended.task.exec_id: "OUTCOME_RECORDED"}
    assert [rows.shown(h.task.job_id) for h in back.poll(most=5, seconds=0.5)] == [again], "nothing else runs again"
    waiting = "select count(*) from taskflow.deferred where job_id = any(%s::uuid[])"
    assert rows.found(database, waiting, [well, bad, out, poor]) == [(0,)]


@pytest.mark.feature("A8", "R1")
def test_a_late_outcome_is_refused_once_the_next_attempt_was_handed_out(api: Api, back: RawWorker, queue: str) -> None:
    [(job, lost)] = lose(api, queue, 1)
    present = back.take()

    assert back.report(lost.outcome(result=b"1")) == {lost.task.exec_id: "OUTCOME_RECORDED"}

    assert back.report(present.outcome(result=b"2")) == {}
    assert (api.get(job).result, attempts(api, job)) == (b"2", [pb.OUTCOME_LOST, pb.OUTCOME_SUCCEEDED])
    assert back.report(lost.outcome(result=b"1")) == {lost.task.exec_id: "OUTCOME_RECORDED"}


@pytest.mark.feature("A8")
def test_a_late_outcome_stands_for_an_attempt_that_waits_in_postgres_alone(
    cluster: ServiceCluster, api: Api, database: str, queue: str
) -> None:
    [(job, lost)] = lose(api, queue, 1)
    moved = "update taskflow.deferred set due_at = due_at + interval '1 hour' where job_id = %s returning attempt"
    assert rows.found(database, moved, job) == [(2,)]
    cluster.restart("coordinator")  # it reads what is due

    with RawWorker(api, queues=[queue]) as back:
        eventually(lambda: back.acknowledged >= 2)
        assert back.report(lost.outcome(result=b"1")) == {}

    assert (api.get(job).state, attempts(api, job)) == (
        pb.JOB_STATE_SUCCEEDED, [pb.OUTCOME_LOST, pb.OUTCOME_SUCCEEDED],
    )  # fmt: skip
    assert rows.found(database, "select count(*) from taskflow.deferred where job_id = %s", job) == [(0,)]
