"""A worker that was declared lost and is back: its claims are revoked, its grace outlasts its handlers (A6, R6)."""

from __future__ import annotations

import time

import pytest

from taskflow._policy import SOFT
from taskflow.v1 import jobs_pb2 as pb
from tests.rpc.conftest import SETTINGS
from tests.support.api import Api
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually

LEASE = float(SETTINGS["coordinator"]["TASKFLOW_LEASE"])


@pytest.mark.feature("A6", "R6")
def test_a_claim_of_what_is_not_the_present_attempt_is_revoked_and_no_other(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as lost:
        api.new(queue, retries=1)
        old = lost.take()
        lost.start(old)
        lost.vanish()
        broken = time.monotonic()
        with RawWorker(api, queues=[queue]) as other:
            present = other.take()
            waited = time.monotonic() - broken
            other.have.append(old.held(started=True))
            eventually(lambda: old.task.exec_id in other.revoked)
            finished = RawWorker(api, queues=[f"{queue}-else"])
            finished.have.append(old.held(started=True, finished=True))
            with finished:
                eventually(lambda: finished.acknowledged >= 2)
            assert set(other.revoked) == {old.task.exec_id} and finished.revoked == []
            assert other.report(present.outcome()) == {}

    assert (present.task.attempt, present.task.tries) == (2, 1)
    assert waited > LEASE * SOFT, "not before its handlers would have stopped"


@pytest.mark.feature("A6")
def test_a_worker_whose_stream_breaks_and_is_back_within_the_grace_keeps_what_it_has(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue, retries=0)
        handed = worker.take()
        worker.start(handed)
        worker.vanish()
    with RawWorker(api, queues=[queue], worker_id=worker.worker_id, have=[handed.held(started=True)]) as back:
        eventually(lambda: back.acknowledged >= 2)
        assert back.revoked == []
        assert back.report(handed.outcome()) == {}

    assert api.get(job.id).state == pb.JOB_STATE_SUCCEEDED
