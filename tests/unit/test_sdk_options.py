"""Options of a job are checked before anything is sent, and the message says what would be right."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow import Constant, Exponential, InvalidArgument, JobOptions, NewJob, TaskFlow
from taskflow._messages.options import build_spec, options_of
from taskflow.v1 import jobs_pb2

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


def spec(**options: Any) -> jobs_pb2.JobSpec:
    return build_spec("emails", {"to": "ada"}, options_of(options, None))


def test_a_plain_job_leaves_out_what_most_leave_out() -> None:
    made = spec()

    assert made.queue == "emails"
    assert made.payload == b'{"to":"ada"}'
    assert len(made.id) == 16
    assert not made.HasField("options")
    assert not made.HasField("priority")


def test_every_option_is_sent() -> None:
    made = spec(
        retries=3,
        task="mails/send",
        priority=0,
        run_at=NOON,
        key="welcome-42",
        timeout=timedelta(minutes=1),
        heartbeat_timeout=2.5,
        backoff=Exponential(first=2, factor=3, limit=60, jitter=0.0),
        start_by=NOON,
        metadata={"user": "u1"},
        tags=["a", "b"],
    )

    assert (made.retries, made.task, made.priority, made.key) == (3, "mails/send", 0, "welcome-42")
    assert made.run_at.ToDatetime(UTC) == made.options.start_by.ToDatetime(UTC) == NOON
    assert made.options.timeout.seconds == 60
    assert made.options.heartbeat_timeout.ToMilliseconds() == 2500
    assert made.options.backoff.first.seconds == 2
    assert made.options.backoff.factor == 3
    assert made.options.backoff.HasField("jitter")
    assert dict(made.options.metadata) == {"user": "u1"}
    assert list(made.options.tags) == ["a", "b"]


def test_a_constant_backoff_is_one_that_does_not_grow() -> None:
    backoff = spec(backoff=Constant(5)).options.backoff

    assert (backoff.first.seconds, backoff.factor, backoff.limit.seconds) == (5, 1.0, 5)


def test_the_more_particular_options_win() -> None:
    base = JobOptions(retries=5, priority=2, timeout=30)

    merged = JobOptions(priority=7, key="k").over(base)

    assert merged == JobOptions(retries=5, priority=7, timeout=30, key="k")


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"retries": -1}, "retries", "whole number from 0"),
    ({"retries": 1.5}, "retries", "whole number"),
    ({"retries": True}, "retries", "whole number"),
    ({"retries": 10**9}, "retries", "from 0 to 1,000,000"),
    ({"priority": 10}, "priority", "from 0 to 9"),
    ({"delay": -1}, "delay", "seconds from 0"),
    ({"delay": "soon"}, "delay", "number of seconds"),
    ({"delay": float("nan")}, "delay", "number of seconds"),
    ({"delay": 1, "run_at": NOON}, "run_at", "not both"),
    ({"run_at": NOON.replace(tzinfo=None)}, "run_at", "no time zone"),
    ({"run_at": "2026-05-04"}, "run_at", "not a datetime"),
    ({"timeout": 0}, "timeout", "more than 0"),
    ({"heartbeat_timeout": -5}, "heartbeat_timeout", "seconds from 0"),
    ({"task": "no spaces"}, "task", "letters, digits"),
    ({"key": ""}, "key", "1 to 255 characters"),
    ({"key": "é" * 256}, "key", "1 to 255 characters"),
    ({"key": "a\x00b"}, "key", "NUL"),
    ({"key": "a\ud800b"}, "key", "half a surrogate pair"),
    ({"label": "\ud800"}, "label", "surrogate pair"),
    ({"label": "\x00"}, "label", "NUL"),
    ({"metadata": {"a": "\udfff"}}, "metadata", "surrogate pair"),
    ({"metadata": {"\ud800": "a"}}, "metadata", "surrogate pair"),
    ({"metadata": {"a": "\x00"}}, "metadata", "NUL"),
    ({"tags": ["\ud800"]}, "tags", "surrogate pair"),
    ({"tags": ["a\x00"]}, "tags", "NUL"),
    ({"requester": {"a": "\ud800"}}, "requester", "surrogate pair"),
    ({"requester": {"a": float("inf")}}, "requester", "JSON"),
    ({"backoff": 5}, "backoff", "Exponential"),
    ({"backoff": Exponential(factor=0.5)}, "backoff.factor", "between 1"),
    ({"backoff": Exponential(jitter=2)}, "backoff.jitter", "share"),
    ({"backoff": Exponential(first=-1)}, "backoff.first", "seconds"),
    ({"metadata": {"a": 1}}, "metadata", "text"),
    ({"tags": [""]}, "tags", "characters"),
    ({"retrys": 3}, "retrys", "there are retries, task"),
]


@pytest.mark.parametrize(("options", "field", "says"), WRONG, ids=[f"{w[1]}-{n}" for n, w in enumerate(WRONG)])
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        spec(**options)

    assert refused.value.field == field
    assert says in str(refused.value)


@pytest.mark.parametrize("queue", ["", "no spaces", "a" * 129, "a/b/c", None, 7, "ä", "a.b"])
def test_a_wrong_queue_is_refused(queue: Any) -> None:
    with pytest.raises(InvalidArgument, match="letters, digits") as refused:
        build_spec(queue, None, None)

    assert refused.value.field == "queue"


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (NewJob("q", {1: 2}), "jobs[1].payload"),
        (("bad name", None), "jobs[1].queue"),
        ({"queue": "q", "retries": -1}, "jobs[1].retries"),
        ({"queue": "q", "retrys": 1}, "jobs[1].retrys"),
        ({"payload": 1}, "jobs[1]"),
        ("q", "jobs[1]"),
    ],
)
def test_of_many_jobs_the_wrong_one_is_named(job: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        TaskFlow("localhost:1").new_jobs([("q", 1), job])

    assert refused.value.field == field


@pytest.mark.parametrize("address", ["localhost", "localhost:", ":9003", "localhost:x", "http://a:1/", "a:99999", 9003])
def test_a_wrong_address_is_refused_at_once(address: Any) -> None:
    with pytest.raises(InvalidArgument, match="host:port"):
        TaskFlow(address)


def test_jobs_that_say_the_same_are_equal_and_shown_with_what_they_say() -> None:
    one = NewJob("emails", {"to": "ada"}, retries=2)

    assert one == NewJob("emails", {"to": "ada"}, JobOptions(retries=2))
    assert one not in (NewJob("emails", {"to": "bob"}, retries=2), NewJob("emails", {"to": "ada"}), "emails")
    assert repr(one).startswith("NewJob(queue='emails', payload={'to': 'ada'}, options=JobOptions(")
