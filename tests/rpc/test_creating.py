"""CreateJob and CreateJobs: what is answered is on disk, whole calls or good parts, keys, payloads as they were."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from google.rpc import code_pb2

from taskflow import Job, TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal, spec
from tests.support.workers import working

READY, SUCCEEDED = pb.JOB_STATE_READY, pb.JOB_STATE_SUCCEEDED
MIB = 1 << 20


def create(api: Api, *jobs: pb.JobSpec, partial: bool = False) -> pb.CreateJobsResponse:
    request = pb.CreateJobsRequest(jobs=jobs, allow_partial=partial)
    answer: pb.CreateJobsResponse = api.jobs.CreateJobs(request, timeout=TIMEOUT)
    return answer


def stored(database: str, queue: str) -> int:
    return int(rows.found(database, "select count(*) from taskflow.jobs where queue = %s", queue)[0][0])


@pytest.mark.feature("S3.1")
def test_a_job_is_in_postgres_before_the_answer(api: Api, database: str, queue: str) -> None:
    options = pb.JobOptions(metadata={"a": "b"}, tags=["x", "y"])
    options.timeout.FromMilliseconds(1500)
    wanted = spec(queue, task="mail", payload=b'{"to":"ada"}', retries=3, priority=7, options=options)

    job = api.create(wanted)

    assert (job.id, job.queue, job.task, job.namespace) == (str(UUID(bytes=wanted.id)), queue, "mail", "default")
    assert (job.state, job.priority, job.retries, job.attempt) == (READY, 7, 3, 0)
    assert (job.payload, job.encoding, job.options) == (b'{"to":"ada"}', pb.ENCODING_JSON, options)
    assert abs(job.create_time.ToMicroseconds() - rows.now_us()) < 5e6
    assert not any(job.HasField(name) for name in ("run_time", "start_time", "finish_time", "error", "progress"))
    there = rows.found(database, "select queue, task, payload from taskflow.jobs where id = %s", job.id)
    assert there == [(queue, "mail", b'{"to":"ada"}')]
    assert api.get(job.id) == job


@pytest.mark.feature("A9")
def test_the_server_makes_an_id_where_the_caller_has_none(api: Api, queue: str) -> None:
    job = api.create(pb.JobSpec(queue=queue))

    made = UUID(job.id)
    assert made.version == 7
    assert abs((made.int >> 80) - time.time() * 1000) < 5000


@pytest.mark.feature("X.4", "S3.1")
def test_many_jobs_are_one_commit_with_their_ids_in_order(api: Api, database: str, queue: str) -> None:
    jobs = [spec(queue, payload=str(n).encode()) for n in range(5000)]

    answer = create(api, *jobs)

    assert list(answer.ids) == [job.id for job in jobs]
    assert not answer.errors and not answer.existing
    committed = rows.found(
        database, "select count(*), count(distinct tx::text) from taskflow.jobs where queue = %s", queue
    )
    assert committed == [(5000, 1)]


@pytest.mark.feature("S3.1", "X.4")
def test_a_call_with_a_bad_job_stores_nothing(api: Api, database: str, queue: str) -> None:
    jobs = [spec(queue) for _ in range(10)]
    jobs[3].retries = -1

    with pytest.raises(grpc.RpcError) as refused:
        create(api, *jobs)

    assert refusal(refused.value).field == "jobs[3].retries"
    assert stored(database, queue) == 0


@pytest.mark.feature("S3.1", "X.4")
def test_a_call_with_the_id_of_another_job_stores_nothing(api: Api, database: str, queue: str) -> None:
    taken = api.new(f"{queue}-other", payload=b"1")
    jobs = [spec(queue), spec(queue, id=UUID(taken.id).bytes), spec(queue, key=f"{queue}-k")]

    with pytest.raises(grpc.RpcError) as refused:
        create(api, *jobs)

    assert refusal(refused.value).code == grpc.StatusCode.ALREADY_EXISTS
    assert refusal(refused.value).reason == "ID_IN_USE" and taken.id in refusal(refused.value).message
    assert stored(database, queue) == 0


@pytest.mark.feature("S3.1", "X.4")
def test_a_call_that_allows_parts_stores_the_good_ones_and_names_the_others(
    api: Api, database: str, queue: str
) -> None:
    taken = api.new(f"{queue}-other", payload=b"1")
    jobs = [spec(queue) for _ in range(6)]
    jobs[1].priority = 12
    jobs[2].id = UUID(taken.id).bytes
    jobs[4].payload = b"{"

    answer = create(api, *jobs, partial=True)

    assert [(e.index, e.code, e.field, e.reason) for e in answer.errors] == [
        (1, code_pb2.INVALID_ARGUMENT, "jobs[1].priority", ""),
        (2, code_pb2.ALREADY_EXISTS, "", "ID_IN_USE"),
        (4, code_pb2.INVALID_ARGUMENT, "jobs[4].payload", "BAD_PAYLOAD"),
    ]
    assert list(answer.ids) == [job.id for job in jobs]
    assert stored(database, queue) == 3


@pytest.mark.feature("X.4", "A9")
def test_requests_of_a_stream_are_answered_in_order_from_disk_and_may_be_made_again(
    api: Api, database: str, queue: str
) -> None:
    specs = [spec(queue, payload=b"%d" % n) for n in range(4)]
    good = [pb.CreateJobsRequest(jobs=specs[:2]), pb.CreateJobsRequest(jobs=[specs[2]], allow_partial=True)]
    partly = pb.CreateJobsRequest(jobs=[specs[3], pb.JobSpec(queue="no name")], allow_partial=True)
    seen: list[int] = []

    answers = []
    for answer in api.jobs.StreamCreateJobs(iter([*good, partly, good[0]]), timeout=TIMEOUT):
        answers.append(answer)
        seen.append(stored(database, queue))

    assert [list(answer.ids) for answer in answers] == [
        [s.id for s in specs[:2]], [specs[2].id], [specs[3].id, b""], [s.id for s in specs[:2]],
    ]  # fmt: skip
    assert [e.field for e in answers[2].errors] == ["jobs[1].queue"]
    assert all(now >= answered for now, answered in zip(seen, [2, 3, 4, 4], strict=True)) and seen[-1] == 4


@pytest.mark.feature("X.4", "B6")
def test_what_a_call_may_not_bring_ends_a_stream_and_what_was_answered_stays(
    api: Api, database: str, queue: str
) -> None:
    bad = pb.CreateJobsRequest(jobs=[spec(queue, priority=17)])
    stream = api.jobs.StreamCreateJobs(iter([pb.CreateJobsRequest(jobs=[spec(queue)]), bad]), timeout=TIMEOUT)

    first = next(stream)
    with pytest.raises(grpc.RpcError) as refused:
        next(stream)

    said = refusal(refused.value)
    assert (said.code, said.field) == (grpc.StatusCode.INVALID_ARGUMENT, "jobs[0].priority")
    assert len(first.ids) == stored(database, queue) == 1


@pytest.mark.feature("A9")
def test_a_call_that_is_made_again_makes_no_second_job(api: Api, database: str, queue: str) -> None:
    jobs = [spec(queue) for _ in range(50)]

    answers = [create(api, *jobs), create(api, *jobs)]

    assert answers[0] == answers[1]
    assert stored(database, queue) == 50


@pytest.mark.feature("X.3", "B5")
def test_a_key_answers_with_the_first_job_and_says_so(api: Api, database: str, queue: str) -> None:
    first = api.new(queue, key=f"{queue}-welcome", payload=b"1")

    again = api.new(queue, key=f"{queue}-welcome", payload=b"2")
    many = create(api, spec(queue, key=f"{queue}-welcome"), spec(queue, key=f"{queue}-new"), spec(queue))

    assert (again.id, again.payload, again.key) == (first.id, b"1", f"{queue}-welcome")
    assert many.ids[0] == UUID(first.id).bytes and list(many.existing) == [0]
    assert stored(database, queue) == 3


@pytest.mark.feature("X.3", "B5")
def test_callers_with_one_key_at_once_all_get_the_same_job(api: Api, database: str, queue: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        jobs = list(pool.map(lambda n: api.new(queue, key=f"{queue}-{n % 4}"), range(64)))

    assert len({job.id for job in jobs}) == 4
    assert all(len({job.id for job in jobs[n::4]}) == 1 for n in range(4))
    assert stored(database, queue) == 4


@pytest.mark.feature("B5")
def test_a_key_in_somebody_s_open_transaction_holds_up_nobody_else(api: Api, database: str, queue: str) -> None:
    with psycopg.connect(database) as holder, ThreadPoolExecutor(12) as pool:
        holder.execute(
            "insert into taskflow.job_keys (namespace, key, job_id) values ('default', %s, %s)",
            (f"{queue}-busy", UUID(bytes=rows.new_id())),
        )

        def timed(key: str | None) -> tuple[float, Any]:
            begun = time.monotonic()
            try:
                answer: Any = api.new(queue, **({"key": key} if key else {}))
            except grpc.RpcError as error:
                answer = refusal(error)
            return time.monotonic() - begun, answer

        busy = pool.submit(timed, f"{queue}-busy")
        others = [pool.submit(timed, f"{queue}-{n}") for n in range(6)]
        plain = [pool.submit(timed, None) for _ in range(4)]
        answer = busy.result()[1]
        assert (answer.code, answer.reason) == (grpc.StatusCode.UNAVAILABLE, "KEY_BUSY")
        assert answer.retry_after > 0
        assert max(future.result()[0] for future in others) < 2.0
        assert max(future.result()[0] for future in plain) < 0.45, "they never wait for a key"
        holder.rollback()
    assert stored(database, queue) == 10


# -- payloads (R14) ----------------------------------------------------------------------------------------------------

VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 1e308, 2**53 + 1, -(2**63), 2**200, "", "text", "Ünïcödé \U0001f600", "1", "null",
    b"", b"\0\xff\xfe", b"text", [], {}, [None, [1, "a", {"b": []}]], {"ключ": {"deep": [1.0, 2, "3"]}}, " \n\t",
    {"": ""}, "\u2028\ufeff", {"text": "with \\u0000 and \0 in it"},
]  # fmt: skip


@pytest.mark.feature("R14", "X.11", "S3.2")
def test_payloads_and_results_arrive_as_the_values_that_were_given(tf: TaskFlow, queue: str) -> None:
    seen: dict[str, Any] = {}

    async def echo(job: Job) -> Any:
        seen[job.id] = job.payload
        return job.payload

    with working(tf, queue, echo):
        handles = tf.new_jobs([(queue, value) for value in VALUES])
        results = [handle.wait(timeout=20).result for handle in handles]

    for values in (results, [seen[handle.id] for handle in handles], [tf.jobs.get(h.id).payload for h in handles]):
        assert [(type(value), value) for value in values] == [(type(value), value) for value in VALUES]


@pytest.mark.feature("R14")
@pytest.mark.parametrize(
    "text",
    [
        b"1" * 300, b"1" * 400, b'{"a":1,"a":2}', b'"\\u0000"', b" [ ] ", b"[" * 500 + b"]" * 500,
        b"[" + b"[]," * 600 + b"[]]", b'"' + b"[" * 600 + b'"', b'"\\ud83d\\ude00"',
    ],
    ids=lambda text: repr(text)[:20],
)  # fmt: skip
def test_json_that_other_languages_write_is_kept_byte_for_byte(api: Api, queue: str, text: bytes) -> None:
    assert api.new(queue, payload=text).payload == text


@pytest.mark.feature("R14")
@pytest.mark.parametrize(
    ("encoding", "make"),
    [
        (pb.ENCODING_JSON, lambda size: b'"' + b"x" * (size - 2) + b'"'),
        (pb.ENCODING_TEXT, lambda size: b"x" * size),
        (pb.ENCODING_BYTES, lambda size: b"\0" * size),
    ],
)
def test_a_payload_may_have_one_mebibyte_and_not_a_byte_more(
    api: Api, database: str, queue: str, encoding: int, make: Callable[[int], bytes]
) -> None:
    assert len(api.new(queue, payload=make(MIB), encoding=encoding).payload) == MIB

    with pytest.raises(grpc.RpcError) as refused:
        api.new(queue, payload=make(MIB + 1), encoding=encoding)

    said = refusal(refused.value)
    assert (said.code, said.field, said.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "job.payload", "TOO_LARGE")
    assert "1048577" in said.message and "1048576" in said.message
    assert stored(database, queue) == 1


@pytest.mark.feature("R14")
def test_people_read_payloads_and_results_in_sql(tf: TaskFlow, database: str, queue: str) -> None:
    async def echo(job: Job) -> Any:
        return job.payload

    with working(tf, queue, echo):
        for value in ({"a": "ä"}, "text", b"\xff"):
            tf.new_job(queue, value).wait(timeout=20)

    found = rows.found(
        database, "select payload, result, state from taskflow.job_states where queue = %s order by id", queue
    )
    assert found == [(shown, shown, "succeeded") for shown in ('{"a":"ä"}', "text", "ff")]
