"""Every field of every request with wrong values: the code, the field, what would be right; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from taskflow.v1 import cluster_pb2, queues_pb2
from taskflow.v1 import jobs_pb2 as pb
from tests.support import rows
from tests.support.api import TIMEOUT, Api, refusal, spec

YEAR = 366 * 86_400
HOUR_MS = 3_600_000
AN_INSTANT = "between 1970-01-01 and 9999-01-01"
NAME = "1 to 128 letters, digits"

Row = tuple[str, dict[str, Any], str, str]  # what is wrong, fields of the spec, path, words of the message

SPECS: list[Row] = [
    ("no queue", {"queue": ""}, "queue", NAME),
    ("a queue with a space", {"queue": "a b"}, "queue", NAME),
    ("a queue with NUL", {"queue": "a\0"}, "queue", NAME),
    ("a queue with a dot", {"queue": "a.b"}, "queue", NAME),
    ("a queue in another script", {"queue": "почта"}, "queue", NAME),
    ("a queue of 129 letters", {"queue": "q" * 129}, "queue", NAME),
    ("a queue of a megabyte", {"queue": "q" * (1 << 20)}, "queue", NAME),
    ("a queue with a line end", {"queue": "q\n"}, "queue", NAME),
    ("a namespace alone", {"queue": "ns/"}, "queue", NAME),
    ("an empty namespace", {"queue": "/q"}, "queue", "not a valid name of a namespace"),
    ("two namespaces", {"queue": "a/b/q"}, "queue", "not a valid name of a namespace"),
    ("a task with a space", {"task": "a b"}, "task", NAME),
    ("a task with NUL", {"task": "\0"}, "task", NAME),
    ("a task of 129 letters", {"task": "t" * 129}, "task", NAME),
    ("an id of 3 bytes", {"id": b"abc"}, "id", "16 bytes of a UUIDv7"),
    ("an id of 17 bytes", {"id": rows.new_id() + b"x"}, "id", "16 bytes of a UUIDv7"),
    ("a random UUID", {"id": uuid4().bytes}, "id", "16 bytes of a UUIDv7"),
    ("zeroes for an id", {"id": bytes(16)}, "id", "16 bytes of a UUIDv7"),
    ("an id of the future", {"id": rows.new_id(2 * HOUR_MS)}, "id", "ahead of the database's"),
    ("an id of the past", {"id": rows.new_id(-2 * HOUR_MS)}, "id", "behind the database's"),
    ("half a JSON value", {"payload": b"{"}, "payload", "not JSON"),
    ("NaN", {"payload": b"NaN"}, "payload", "not JSON"),
    ("a list with Infinity", {"payload": b"[1, -Infinity]"}, "payload", "not JSON"),
    ("two JSON values", {"payload": b"1 2"}, "payload", "not JSON"),
    ("JSON that is no UTF-8", {"payload": b'"\xff"'}, "payload", "not JSON"),
    ("JSON nested too deeply", {"payload": b"[" * 200_000}, "payload", "not JSON"),
    ("JSON of 501 levels", {"payload": b"[" * 501 + b"]" * 501}, "payload", "more than 500 levels deep"),
    ("a number that is no double", {"payload": b'{"a": [1e400]}'}, "payload", "the number 1e400 is too large"),
    ("an integer of 5,000 digits", {"payload": b"9" * 5000}, "payload", "limit (4300 digits)"),
    ("half a surrogate pair", {"payload": b'["\\ud800"]'}, "payload", "surrogates not allowed"),
    ("text that is no UTF-8", {"payload": b"ab\xff", "encoding": 2}, "payload", "not UTF-8 at byte 2"),
    ("text with NUL", {"payload": b"a\0", "encoding": 2}, "payload", "send it as bytes"),
    ("encoding 4", {"encoding": 4}, "encoding", "JSON (1), TEXT (2), BYTES (3)"),
    ("encoding -1", {"encoding": -1, "payload": b"1"}, "encoding", "JSON (1), TEXT (2), BYTES (3)"),
    ("-1 retries", {"retries": -1}, "retries", "between 0 and 1000"),
    ("1001 retries", {"retries": 1001}, "retries", "between 0 and 1000"),
    ("priority -1", {"priority": -1}, "priority", "between 0 and 9"),
    ("priority 10", {"priority": 10}, "priority", "between 0 and 9"),
    ("run_at before 1970", {"run_at": Timestamp(seconds=-1)}, "run_at", AN_INSTANT),
    ("run_at in the year 10000", {"run_at": Timestamp(seconds=253_402_300_800)}, "run_at", AN_INSTANT),
    ("run_at with bad nanos", {"run_at": Timestamp(seconds=1, nanos=-1)}, "run_at", AN_INSTANT),
    ("a negative delay", {"delay": Duration(seconds=-1)}, "delay", "between 0 s and ten years"),
    ("a delay of 11 years", {"delay": Duration(seconds=11 * YEAR)}, "delay", "between 0 s and ten years"),
    ("both times", {"delay": Duration(), "run_at": Timestamp(seconds=1)}, "delay", "either run_at or delay"),
    ("a key of 256 letters", {"key": "k" * 256}, "key", "1 to 255 characters"),
    ("a key with NUL", {"key": "\0"}, "key", "none of them NUL"),
]
DURATION = "is not between"
OPTIONS: list[Row] = [
    ("no time at all", {"timeout": Duration()}, "timeout", DURATION),
    ("a negative timeout", {"timeout": Duration(seconds=-5)}, "timeout", DURATION),
    ("a timeout of 11 years", {"timeout": Duration(seconds=11 * YEAR)}, "timeout", DURATION),
    ("heartbeats without a pause", {"heartbeat_timeout": Duration(nanos=1)}, "heartbeat_timeout", DURATION),
    ("a negative first delay", {"backoff": pb.Backoff(first=Duration(seconds=-1))}, "backoff.first", DURATION),
    ("a negative limit", {"backoff": pb.Backoff(limit=Duration(seconds=-1))}, "backoff.limit", DURATION),
    ("a factor of a half", {"backoff": pb.Backoff(factor=0.5)}, "backoff.factor", "between 1 and 1000"),
    ("a factor of NaN", {"backoff": pb.Backoff(factor=float("nan"))}, "backoff.factor", "between 1 and 1000"),
    ("an infinite factor", {"backoff": pb.Backoff(factor=float("inf"))}, "backoff.factor", "between 1 and 1000"),
    ("a negative jitter", {"backoff": pb.Backoff(jitter=-0.1)}, "backoff.jitter", "between 0 and 1"),
    ("a jitter of NaN", {"backoff": pb.Backoff(jitter=float("nan"))}, "backoff.jitter", "between 0 and 1"),
    ("start_by before 1970", {"start_by": Timestamp(seconds=-1)}, "start_by", AN_INSTANT),
    ("NUL in metadata", {"metadata": {"a": "\0"}}, "", "the character NUL"),
    ("NUL in a name of metadata", {"metadata": {"\0": "a"}}, "", "the character NUL"),
    ("NUL in a tag", {"tags": ["\0"]}, "", "the character NUL"),
    ("metadata of 20 kB", {"metadata": {"a": "x" * 20_000}}, "", "16,384 at most"),
    ("a thousand tags", {"tags": ["x" * 20] * 1000}, "", "16,384 at most"),
    ("a requester of 5 kB", {"requester": b'{"a":"%s"}' % (b"x" * 5000)}, "requester", "exceed the limit of 4096"),
    ("half a requester", {"requester": b'{"a":'}, "requester", "not JSON"),
    ("a list for a requester", {"requester": b"[1]"}, "requester", "not a JSON object"),
    ("a requester with NUL", {"requester": b'{"a":"\\\\\\u0000"}'}, "requester", "the character NUL"),
    ("a requester with half a pair", {"requester": b'{"a":"\\ud800"}'}, "requester", "surrogates not allowed"),
    ("a requester without end", {"requester": b'{"a":1e999}'}, "requester", "not JSON"),
    ("a requester too deep", {"requester": b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}"}, "requester", "not JSON"),
    ("a label of 257 letters", {"label": "x" * 257}, "label", "256 characters"),
    ("a label with NUL", {"label": "\0"}, "label", "none of them NUL"),
    ("a task's id that is none", {"task_id": "report"}, "task_id", "is not a valid id"),
]


def everything(database: str) -> list[tuple[Any, ...]]:
    return rows.found(
        database,
        "select (select count(*) from taskflow.jobs), (select count(*) from taskflow.deferred),"
        " (select count(*) from taskflow.job_keys), (select count(*) from taskflow.queues),"
        " (select count(*) from taskflow.lanes), (select count(*) from taskflow.cancels)",
    )


def refused(call: Callable[[], object]) -> Any:
    with pytest.raises(grpc.RpcError) as error:
        call()
    return refusal(error.value)


@pytest.mark.feature("R10", "R13", "R14", "A9")
@pytest.mark.parametrize("way", ["alone", "among others"])
@pytest.mark.parametrize(
    ("fields", "path", "words"),
    [
        *(pytest.param(fields, path, words, id=name) for name, fields, path, words in SPECS),
        *(
            pytest.param({"options": fields}, f"options.{path}".rstrip("."), words, id=f"options: {name}")
            for name, fields, path, words in OPTIONS
        ),
    ],
)
def test_a_bad_job_is_refused_by_field(
    api: Api, database: str, way: str, fields: dict[str, Any], path: str, words: str
) -> None:
    before = everything(database)
    given = {"queue": "never-made", **fields}
    if isinstance(given.get("options"), dict):
        given["options"] = pb.JobOptions(**given["options"])
    bad = spec(**given)

    if way == "alone":
        said, where = refused(lambda: api.create(bad)), "job"
    else:
        request = pb.CreateJobsRequest(jobs=[spec("never-made"), bad, spec("never-made")])
        said, where = refused(lambda: api.jobs.CreateJobs(request, timeout=TIMEOUT)), "jobs[1]"

    assert (said.code, said.field) == (grpc.StatusCode.INVALID_ARGUMENT, f"{where}.{path}")
    assert said.message.startswith(f"{where}.{path}: ") and words in said.message
    assert len(said.message) < 400, "what was wrong is not repeated at length"
    assert everything(database) == before


@pytest.mark.feature("X.4")
@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("count", [0, 5001])
def test_a_call_of_no_job_or_of_too_many_is_refused(api: Api, database: str, partial: bool, count: int) -> None:
    before = everything(database)
    request = pb.CreateJobsRequest(jobs=[spec("never-made") for _ in range(count)], allow_partial=partial)

    said = refused(lambda: api.jobs.CreateJobs(request, timeout=TIMEOUT))

    assert (said.code, said.field) == (grpc.StatusCode.INVALID_ARGUMENT, "jobs")
    assert str(count) in said.message and "1 to 5000" in said.message
    assert everything(database) == before


@pytest.mark.feature("X.4", "R14")
def test_a_message_over_the_limit_is_refused_and_the_connection_lives(api: Api, database: str) -> None:
    before = everything(database)
    request = pb.CreateJobsRequest(jobs=[spec("never-made", payload=b"0" * (1 << 20), encoding=3) for _ in range(9)])

    said = refused(lambda: api.jobs.CreateJobs(request, timeout=TIMEOUT))

    assert said.code == grpc.StatusCode.RESOURCE_EXHAUSTED and "8388608" in said.message
    assert everything(database) == before
    assert refused(lambda: api.get("0198c0de-0000-7000-8000-000000000000")).code == grpc.StatusCode.NOT_FOUND


ANY_ID = "0198c0de-0000-7000-8000-000000000000"
IDS = ["", "1", "0198c0de", ANY_ID[:-1] + "g", ANY_ID + "0", "\0", "x" * 100_000]
CALLS: list[tuple[str, Any, str, str]] = [
    *(("GetJob", pb.GetJobRequest(id=id), "id", "is not a valid id") for id in IDS),
    *(("CancelJob", pb.CancelJobRequest(id=id), "id", "is not a valid id") for id in IDS[:2]),
    *(("RetryJob", pb.RetryJobRequest(id=id), "id", "is not a valid id") for id in IDS[:2]),
    *(("AwaitJob", pb.AwaitJobRequest(id=id), "id", "is not a valid id") for id in IDS[:2]),
    *(("ListAttempts", pb.ListAttemptsRequest(job_id=id), "job_id", "is not a valid id") for id in IDS[:2]),
    *(("ListJobLogs", pb.ListJobLogsRequest(job_id=id), "job_id", "is not a valid id") for id in IDS[:2]),
    ("AwaitJob", pb.AwaitJobRequest(id=ANY_ID, timeout=Duration(seconds=-1)), "timeout", DURATION),
    ("AwaitJob", pb.AwaitJobRequest(id=ANY_ID, timeout=Duration(seconds=11 * YEAR)), "timeout", DURATION),
    *(("ListJobs", pb.ListJobsRequest(page_size=size), "page_size", "between 1 and 1000") for size in (-1, 1001)),
    *(("ListJobs", pb.ListJobsRequest(states=[state]), "states", "not a valid state") for state in (0, 9, -1)),
    *(("ListJobs", pb.ListJobsRequest(queue=name), "queue", NAME) for name in ("a b", "\0", "q" * 129)),
    *(("ListJobs", pb.ListJobsRequest(task=name), "task", NAME) for name in ("a b", "\0")),
    *(("ListJobs", pb.ListJobsRequest(page_token=t), "page_token", "not a valid token") for t in ("x", "\0", "1" * 40)),
    ("ListJobLogs", pb.ListJobLogsRequest(job_id=ANY_ID, page_size=-1), "page_size", "between 1 and 1000"),
    *(
        ("ListJobLogs", pb.ListJobLogsRequest(job_id=ANY_ID, page_token=token), "page_token", "not a valid token")
        for token in ("x", "-1", "\0", "²", "9" * 30, "١")
    ),
    *(("ListQueues", queues_pb2.ListQueuesRequest(page_size=n), "page_size", "between 1 and 1000") for n in (-5, 9999)),
    *(
        ("ListQueues", queues_pb2.ListQueuesRequest(page_token=token), "page_token", "not a valid token")
        for token in ("\0", "a b", "q" * 1000)
    ),
    *(("GetQueue", queues_pb2.GetQueueRequest(name=name), "name", NAME) for name in ("", "a b", "\0", "a/")),
    ("ListWorkers", cluster_pb2.ListWorkersRequest(page_size=-1), "page_size", "between 1 and 1000"),
    *(
        ("ListWorkers", cluster_pb2.ListWorkersRequest(page_token=token), "page_token", "not a valid token")
        for token in ("x", "~", f"2026-01-01T00:00:00+00:00~{'x' * 36}", f"~{ANY_ID}",
                      "\0", f"9999-12-31T23:59:59-23:00~{ANY_ID}", f"0001-01-01T00:00:00+23:00~{ANY_ID}")
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "request_", "path", "words"), CALLS, ids=[f"{m}-{p}-{n}" for n, (m, _, p, _) in enumerate(CALLS)]
)
def test_a_bad_question_is_refused_by_field(
    api: Api, database: str, method: str, request_: Any, path: str, words: str
) -> None:
    before = everything(database)
    stub = next(s for s in (api.jobs, api.queues, api.cluster) if hasattr(s, method))

    said = refused(lambda: getattr(stub, method)(request_, timeout=TIMEOUT))

    assert (said.code, said.field) == (grpc.StatusCode.INVALID_ARGUMENT, path)
    assert said.message.startswith(f"{path}: ") and words in said.message
    assert len(said.message) < 400
    assert everything(database) == before


@pytest.mark.feature("R7")
def test_the_reason_of_a_cancel_may_hold_anything(api: Api, database: str) -> None:
    job = api.new("reasons")

    api.jobs.CancelJob(pb.CancelJobRequest(id=job.id, reason="a\0b" + "x" * 10_000), timeout=TIMEOUT)

    found = rows.found(database, "select reason from taskflow.cancels where job_id = %s", job.id)
    assert found == [("ab" + "x" * 998,)]


def test_a_method_that_is_not_there_is_unimplemented(api: Api) -> None:
    call = api.channel.unary_unary("/taskflow.v1.JobService/DropEverything")

    assert refused(lambda: call(b"", timeout=TIMEOUT)).code == grpc.StatusCode.UNIMPLEMENTED
