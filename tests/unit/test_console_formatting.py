"""How the console shows values, and what it refuses to be led to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.gateway.console import formatting
from taskflow_server.gateway.console.page import local, pairs_of
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.guard import known_host

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"), (0.00002, "< 0.1 ms"), (0.0004, "0.4 ms"), (0.012, "12 ms"), (0.9, "900 ms"), (1.25, "1.2 s"),
        (9.96, "10.0 s"), (59.4, "59 s"), (60, "1 min"), (245, "4 min 5 s"), (3600, "1 h"), (7260, "2 h 1 min"),
        (90_000, "1 d 1 h"), (86_400 * 400 + 7200, "400 d"),
    ],
)  # fmt: skip
def test_a_duration_is_told_in_its_greatest_units(seconds: float, shown: str) -> None:
    assert formatting.span(seconds) == shown


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        (0.3, "now"),
        (5, "5 s ago"),
        (90, "90 s ago"),
        (7100, "118 min ago"),
        (7300, "2 h ago"),
        (-40, "in 40 s"),
        (-86_400 * 3 + 5, "in 3 d"),
        (86_400 * 400, "400 d ago"),
        (-86_400 * 26_481, "in 73 y"),
    ],
)
def test_an_instant_is_told_by_how_far_it_is(before: float, shown: str) -> None:
    assert formatting.ago(NOW - timedelta(seconds=before), NOW) == shown


def test_an_instant_that_was_never_set_is_none() -> None:
    assert formatting.moment(Timestamp()) is None
    assert formatting.between(Timestamp(), Timestamp(seconds=5)) == ""
    assert formatting.between(Timestamp(seconds=5), Timestamp(seconds=7)) == "2.0 s"


@pytest.mark.parametrize(
    ("data", "encoding", "text", "kind"),
    [
        (b'{"b":1,"a":[]}', pb.ENCODING_JSON, '{\n  "b": 1,\n  "a": []\n}', "JSON"),
        (b"", pb.ENCODING_JSON, "null", "JSON"),
        (b"{half", pb.ENCODING_JSON, "{half", "JSON"),
        ("grüße".encode(), pb.ENCODING_TEXT, "grüße", "text"),
        (b"\x00\x01AZ", pb.ENCODING_BYTES, f"000000  {'00 01 41 5a':<47}  ..AZ", "bytes"),
        (b"[" * 100_000, pb.ENCODING_JSON, "[" * formatting.MOST_SHOWN, "JSON"),
    ],
)
def test_a_value_is_shown_as_text(data: bytes, encoding: int, text: str, kind: str) -> None:
    shown = formatting.value(data, encoding)

    assert (shown.text, shown.kind, shown.size) == (text, kind, len(data))


@pytest.mark.parametrize("encoding", [pb.ENCODING_JSON, pb.ENCODING_TEXT, pb.ENCODING_BYTES])
@pytest.mark.parametrize("size", [20_000, 600_000])
def test_a_large_value_is_cut_and_says_so(encoding: int, size: int) -> None:
    shown = formatting.value(b'"' + b"x" * size + b'"', encoding)

    assert shown.cut and len(shown.text) <= formatting.MOST_SHOWN
    assert not formatting.value(b'"small"', encoding).cut


def test_states_are_told_in_words_and_unknown_ones_by_number() -> None:
    assert formatting.job_state(pb.JOB_STATE_RETRYING) == "retrying"
    assert formatting.outcome(pb.OUTCOME_TIMED_OUT) == "timed out"
    assert formatting.outcome(0) == "running"
    assert formatting.job_state(99) == "99"


@pytest.mark.parametrize("path", ["", "jobs", "//evil.example", "https://evil.example", "/\\evil.example", "/a\nb"])
def test_a_form_leads_nowhere_but_here(path: str) -> None:
    assert local(path, "/queues") == "/queues"
    assert local("/jobs?state=failed", "/queues") == "/jobs?state=failed"


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8080", True), ("127.0.0.1:8080", True), ("[::1]:8080", True), ("gateway", True), ("10.1.2.3", True),
        ("console.localhost", True), ("tasks.example.org", True), ("TASKS.example.org:443", True),
        ("evil.example", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example:8080", False), ("", False),
    ],
)  # fmt: skip
def test_only_addresses_plain_names_and_those_of_the_setting_are_known(host: str, known: bool) -> None:
    assert known_host(host, frozenset({"tasks.example.org"})) is known
    assert known_host(host, frozenset({"*"}))


def test_pairs_are_read_and_what_is_none_is_named() -> None:
    assert pairs_of(" user = u1, plan=pro=x ,", "metadata") == {"user": "u1", "plan": "pro=x"}
    with pytest.raises(Failure) as refused:
        pairs_of("user", "metadata")
    assert refused.value.status == 400 and refused.value.field == "metadata"
