"""Nothing that a worker or an executor says stops a coordinator or a queue service, or wedges a job."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import queue_pb2, worker_pb2
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import Handed, RawWorker
from tests.support.waiting import eventually

HUGE = 2**62
NAN, INF = float("nan"), float("inf")


@pytest.fixture(autouse=True)
def services_live(cluster: ServiceCluster) -> Iterator[None]:
    """Nobody starts them again here."""
    yield
    assert cluster.alive("coordinator") and cluster.alive("queue")


@pytest.fixture
def worker(api: Api, queue: str) -> Iterator[RawWorker]:
    with RawWorker(api, queues=[queue]) as running:
        yield running


def works(api: Api, worker: RawWorker, queue: str) -> bool:
    """Whether a job still goes through."""
    job = api.new(queue)
    worker.have.clear()
    return worker.report(worker.take().outcome()) == {} and api.get(job.id).state == pb.JOB_STATE_SUCCEEDED


def works_with(api: Api, queue: str) -> bool:
    with RawWorker(api, queues=[f"{queue}-sound"]) as sound:
        return works(api, sound, f"{queue}-sound")


# -- reports -----------------------------------------------------------------------------------------------------------

TOLD: dict[str, dict[str, Any]] = {
    "ran for ever": {"run_us": HUGE},
    "ran backwards": {"run_us": -HUGE},
    "ended in another age": {"age_us": HUGE},
    "ends in the future": {"age_us": -HUGE},
    "wishes to wait for ever": {"outcome": pb.OUTCOME_FAILED, "delay_ms": HUGE},
    "wishes to have waited": {"outcome": pb.OUTCOME_FAILED, "delay_ms": -HUGE},
    "snoozes for ever": {"outcome": pb.OUTCOME_SNOOZED, "delay_ms": HUGE},
    "NUL in its error": {"outcome": pb.OUTCOME_FAILED, "error": pb.Error(type="\0", message="a\0b", traceback="\0")},
    "NUL spelt out": {"outcome": pb.OUTCOME_FAILED, "error": pb.Error(type="E", message="a \\u0000 b \\")},
    "details that are no text": {"outcome": pb.OUTCOME_FAILED, "error": pb.Error(type="E", details=b"\xff\0{")},
    "an error without end": {"outcome": pb.OUTCOME_FAILED, "error": pb.Error(type="E" * 10**6, message="m" * 10**6,
                                                                             traceback="t" * 10**6)},
    "a result of a failure": {"outcome": pb.OUTCOME_FAILED, "result": b"\xff", "encoding": 2},
    "a worker's own loss": {"outcome": pb.OUTCOME_LOST},
}  # fmt: skip


@pytest.mark.feature("R14", "A8")
@pytest.mark.parametrize("told", TOLD.values(), ids=TOLD.keys())
def test_an_outcome_told_out_of_all_measure_is_recorded_and_the_others_beside_it(
    api: Api, worker: RawWorker, database: str, queue: str, told: dict[str, Any]
) -> None:
    strange, plain = api.new(queue, retries=1), api.new(queue)
    first, second = worker.take(), worker.take()

    assert worker.report(first.outcome(**told), second.outcome(result=b"1")) == {}

    outcome = told.get("outcome", pb.OUTCOME_SUCCEEDED)
    job = api.get(strange.id)
    assert (job.last_outcome, job.attempt) == (outcome, 1)
    assert api.get(plain.id).result == b"1"
    if "error" in told:
        said = job.error
        assert "\0" not in said.message + said.type and len(said.SerializeToString()) < 200_000
        assert "\\u0000" not in told["error"].message or said.message == told["error"].message
    times = rows.found(
        database, "select finished_at between '2000-01-01' and '2100-01-01' from taskflow.attempts where job_id = %s",
        strange.id,
    )  # fmt: skip
    assert times == [(True,)]
    assert rows.found(database, "select count(*) from taskflow.job_states where id = %s", strange.id) == [(1,)]
    assert works_with(api, queue)


def changed(handed: Handed, **values: Any) -> worker_pb2.AttemptOutcome:
    outcome = handed.outcome()
    for name, value in values.items():
        setattr(outcome, name, value)
    return outcome


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"exec_id": b""}, "outcomes[1]"),
        ({"exec_id": b"x" * 17}, "outcomes[1]"),
        ({"job_id": b""}, "outcomes[1]"),
        ({"job_id": b"x" * 15}, "outcomes[1]"),
        ({"outcome": 0}, "outcomes[1].outcome"),
        ({"outcome": 99}, "outcomes[1].outcome"),
        ({"outcome": -1}, "outcomes[1].outcome"),
    ],
    ids=str,
)
def test_a_report_that_cannot_be_read_is_refused_by_field_and_nothing_of_it_is_recorded(
    api: Api, worker: RawWorker, queue: str, values: dict[str, Any], field: str
) -> None:
    jobs = [api.new(queue) for _ in range(2)]
    handed = [worker.take() for _ in jobs]

    with pytest.raises(grpc.RpcError) as refused:
        worker.report(handed[0].outcome(), changed(handed[1], **values))

    assert (refusal(refused.value).code, refusal(refused.value).field) == (grpc.StatusCode.INVALID_ARGUMENT, field)
    assert [api.get(job.id).attempt for job in jobs] == [1, 1]
    assert [api.get(job.id).state >= pb.JOB_STATE_SUCCEEDED for job in jobs] == [False, False]
    assert worker.report(*(h.outcome() for h in handed)) == {}


@pytest.mark.feature("R1")
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"exec_id": b"\0\3\0\0\0\1" + b"x" * 10}, "STALE_EXEC_ID"),
        ({"exec_id": b"\xff" * 16}, "STALE_EXEC_ID"),
        ({"exec_id": b"\xff" * 16, "shard": 99}, "NOT_OWNER"),
        ({"exec_id": b"\xff" * 16, "shard": -1}, "NOT_OWNER"),
        ({"exec_id": b"\xff" * 16, "attempt": 2**31 - 1}, "STALE_EXEC_ID"),
        ({"exec_id": b"\xff" * 16, "attempt": -1}, "STALE_EXEC_ID"),
        ({"exec_id": b"\xff" * 16, "job_id": b"\xff" * 16}, "STALE_EXEC_ID"),
    ],
    ids=str,
)
def test_an_outcome_of_nobody_s_attempt_is_refused_and_the_others_are_recorded(
    api: Api, worker: RawWorker, queue: str, values: dict[str, Any], reason: str
) -> None:
    job = api.new(queue)
    handed = worker.take()
    strange = changed(handed, **values)

    assert worker.report(strange, handed.outcome()) == {strange.exec_id: reason}
    assert api.get(job.id).state == pb.JOB_STATE_SUCCEEDED
    assert works(api, worker, queue)


def test_a_report_of_too_many_outcomes_is_refused(api: Api, worker: RawWorker, queue: str) -> None:
    api.new(queue)
    handed = worker.take()

    with pytest.raises(grpc.RpcError) as refused:
        worker.report(*[handed.outcome()] * 5001)

    assert (refusal(refused.value).field, "5000" in refusal(refused.value).message) == ("outcomes", True)
    assert worker.report(*[handed.outcome()] * 100) == {}, "the same one, many times"


# -- notes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "progress",
    [
        pb.Progress(current=NAN), pb.Progress(total=INF), pb.Progress(current=-INF, unit="\0", message="\0"),
        pb.Progress(current=1, unit="u" * 10**6, message="\\u0000 \\" + "m" * 10**6), pb.Progress(current=1e308),
    ],
    ids=["NaN", "infinite", "minus infinity", "endless", "large"],
)  # fmt: skip
def test_progress_of_any_kind_ends_up_in_a_lease_or_nowhere(
    api: Api, worker: RawWorker, database: str, queue: str, progress: pb.Progress
) -> None:
    job = api.new(queue)
    handed = worker.take()
    assert worker.notify(handed, progress=progress) == []

    leased = "select progress is null or length(progress::text) < 10000 from taskflow.leases where job_id = %s"
    assert eventually(lambda: rows.found(database, leased, job.id)) == [(True,)]
    assert worker.report(handed.outcome()) == {}
    assert works(api, worker, queue)


@pytest.mark.parametrize(
    "line",
    [
        {"age_us": HUGE, "message": "old"}, {"age_us": -HUGE, "message": "new"}, {"message": "\0", "level": "\0"},
        {"message": "m" * 10**6, "level": "l" * 10**6}, {},
    ],
    ids=["old", "new", "NUL", "endless", "empty"],
)  # fmt: skip
def test_log_lines_of_any_kind_are_kept_within_measure(
    api: Api, worker: RawWorker, queue: str, line: dict[str, Any]
) -> None:
    job = api.new(queue)
    handed = worker.take()
    worker.notify(handed, logs=[worker_pb2.LogLine(**line), worker_pb2.LogLine(message="after")])

    def lines() -> list[pb.JobLog]:
        return list(api.jobs.ListJobLogs(pb.ListJobLogsRequest(job_id=job.id), timeout=TIMEOUT).logs)

    found = eventually(lambda: found if len(found := lines()) == 2 else None)
    assert found[1].message == "after"
    assert len(found[0].message) <= 8192 and len(found[0].level) <= 20
    assert abs(found[0].time.ToMicroseconds() - rows.now_us()) < 2 * 86_400e6
    worker.report(handed.outcome())


# -- sessions ----------------------------------------------------------------------------------------------------------


def session(worker: RawWorker, first: worker_pb2.SessionRequest) -> worker_pb2.SessionResponse:
    """The answer to the first message of a stream."""
    call = worker.coordinator.Session(iter([first]), timeout=TIMEOUT)
    answer: worker_pb2.SessionResponse = next(call)
    call.cancel()
    return answer


@pytest.mark.parametrize(
    ("register", "field"),
    [
        (None, "register"),
        ({"worker_id": b""}, "register.worker_id"),
        ({"worker_id": b"x" * 17}, "register.worker_id"),
        ({"queues": ["a b"]}, "register.queues"),
        ({"queues": ["\0"]}, "register.queues"),
        ({"tasks": ["a/b/c"]}, "register.tasks"),
    ],
    ids=str,
)
def test_a_session_that_begins_wrongly_is_refused_by_field(
    worker: RawWorker, register: dict[str, Any] | None, field: str
) -> None:
    first = worker_pb2.SessionRequest(heartbeat=worker_pb2.Heartbeat(sequence=1))
    if register is not None:
        first = worker_pb2.SessionRequest(register=worker_pb2.Register(**{"worker_id": b"w" * 16, **register}))

    with pytest.raises(grpc.RpcError) as refused:
        session(worker, first)

    assert (refusal(refused.value).code, refusal(refused.value).field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


def test_a_worker_may_call_itself_anything(api: Api, worker: RawWorker) -> None:
    names = {"name": "\0n" * 1000, "host": "\0h" * 1000, "sdk": "\0s" * 1000, "pid": -(2**31), "concurrency": -(2**31)}
    register = worker_pb2.Register(worker_id=rows.new_id(), **names)

    assert session(worker, worker_pb2.SessionRequest(register=register)).HasField("welcome")


@pytest.mark.feature("A5")
@pytest.mark.parametrize("after", ["at rest", "a takeover"])
def test_a_heartbeat_that_names_what_nobody_gave_it_is_heard_without_harm(
    cluster: ServiceCluster, api: Api, queue: str, after: str
) -> None:
    strange = [
        worker_pb2.Held(exec_id=exec_id, job_id=job_id, attempt=attempt, shard=shard)
        for exec_id in (b"", b"x", b"\xff" * 16, rows.new_exec(3, 0))
        for job_id in (b"", b"y" * 17, b"\xff" * 16, rows.new_id())
        for attempt in (0, -1, 2**31 - 1)
        for shard in (-1, 3, 10**6)
    ]
    with RawWorker(api, queues=[queue]) as worker:
        worker.have[:] = strange
        worker.void[:], worker.give_back = [b"", b"x" * 16, b"z" * 5000], True
        if after == "a takeover":
            cluster.restart("queue")  # its owner takes its shards over anew, and asks every worker what it has
        assert eventually(lambda: works_with(api, queue), 20)


# -- polls -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"worker_id": b""}, "worker_id"),
        ({"worker_id": b"x" * 15}, "worker_id"),
        ({"queue_handlers": []}, "tasks"),
        ({"max": -1}, "max"),
        ({"max": 1001}, "max"),
        ({"prefetch": -1}, "prefetch"),
        ({"prefetch": 2}, "prefetch"),
        ({"max": 5, "prefetch": 6}, "prefetch"),
        ({"timeout_ms": -1}, "timeout_ms"),
        ({"timeout_ms": 60_001}, "timeout_ms"),
    ],
    ids=str,
)
def test_a_poll_that_cannot_be_answered_is_refused_by_field(
    worker: RawWorker, queue: str, values: dict[str, Any], field: str
) -> None:
    request = queue_pb2.PollRequest(**{"worker_id": worker.worker_id, "queue_handlers": [queue], **values})

    with pytest.raises(grpc.RpcError) as refused:
        worker.queue_service.Poll(request, timeout=TIMEOUT)

    assert (refusal(refused.value).code, refusal(refused.value).field) == (grpc.StatusCode.INVALID_ARGUMENT, field)


@pytest.mark.feature("R4", "A6")
def test_a_job_taken_by_somebody_who_never_registered_goes_to_another_and_uses_no_try(
    api: Api, worker: RawWorker, queue: str
) -> None:
    job = api.new(queue)
    request = queue_pb2.PollRequest(worker_id=b"stranger........", queue_handlers=[queue], timeout_ms=5000)
    taken = worker.queue_service.Poll(request, timeout=TIMEOUT).lanes[0].tasks[0]

    again = worker.take()

    assert (rows.shown(again.task.job_id), again.task.attempt, again.task.tries) == (job.id, 1, 0)
    assert again.task.exec_id != taken.exec_id
    assert worker.report(again.outcome()) == {}
