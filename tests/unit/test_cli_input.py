"""Arguments typed on the command line: those accepted, and the text of refusals."""

import io
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskflow._cli import _input
from taskflow._cli._input import BadInput

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES)
def test_every_json_value_is_taken_as_it_is(value: object) -> None:
    import json

    assert _input.parse_json(json.dumps(value)) == value


def test_without_a_payload_it_is_null() -> None:
    assert _input.payload(None) is None


def test_a_payload_is_read_from_a_file_and_from_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mail.json").write_text('{"to": "ada@example.org"}')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[1, 2]")))

    assert _input.payload(f"@{tmp_path}/mail.json") == {"to": "ada@example.org"}
    assert _input.payload("-") == [1, 2]


def test_text_is_taken_as_it_stands() -> None:
    assert _input.payload("{not json", text=True) == "{not json"


@pytest.mark.feature("M.5")
@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ('{"to" "ada"}', ("PAYLOAD is not JSON", "line 1, column 7", "--text")),
        ("{'to': 1}", ("line 1, column 2", "double quotes")),
        ('{\n "a": 1,\n b}', ("line 3, column 2",)),  # a comma before the } has its place from Python 3.13 on only
        ("", ("line 1, column 1",)),
        ("NaN", ("NaN", "not a JSON number")),
        ("[" * 100_000, ("nested too deeply",)),
        ("@/nowhere/x.json", ("/nowhere/x.json", "no such file")),
        ("@/", ("is a directory",)),
    ],
)
def test_a_malformed_payload_is_refused_with_its_place(argument: str, words: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as refused:
        _input.payload(argument)

    assert "\n" not in str(refused.value)
    for word in words:
        assert word in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BadInput, match=r"not UTF-8 text \(byte 0\)"):
        _input.payload(f"@{tmp_path}/x")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("0.5", 0.5), ("250ms", 0.25), ("1m30s", 90), ("2h", 7200), ("1d", 86400), ("1.5h", 5400)],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert _input.seconds(text, "--delay") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "soon", "5 minutes", "1m 30s", "nan", "inf", "10x", "1e400"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--delay"):
        _input.seconds(text, "--delay")


def test_an_instant_without_a_zone_is_utc() -> None:
    assert _input.instant("2026-12-24T18:00:00", "--at") == datetime(2026, 12, 24, 18, tzinfo=UTC)
    east = timezone(timedelta(hours=5, minutes=30))
    assert _input.instant("2026-12-24T18:00:00+05:30", "--at") == datetime(2026, 12, 24, 18, tzinfo=east)


@pytest.mark.parametrize("text", ["tomorrow", "2026-13-01", "18:00", ""])
def test_what_is_no_instant_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"--at .*2026-12-24T18:00:00Z"):
        _input.instant(text, "--at")


def test_states_by_commas_and_by_repetition() -> None:
    assert _input.states(["failed,Running", "canceled", "failed"]) == ["failed", "running", "cancelled"]


def test_an_unknown_state_names_the_known_and_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"«fialed».*did you mean failed\?.*scheduled, ready"):
        _input.states(["fialed"])


def test_states_are_those_of_the_sdk() -> None:
    from taskflow import JobState

    assert tuple(JobState) == _input.STATES


@pytest.mark.parametrize(
    ("text", "number"), [("0", 0), ("9", 9), ("low", 2), ("normal", 5), ("HIGH", 7), ("critical", 9)]
)
def test_priorities(text: str, number: int) -> None:
    assert _input.priority(text) == number


@pytest.mark.parametrize("text", ["10", "-1", "urgent", "5.0", ""])
def test_what_is_no_priority_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="0 to 9"):
        _input.priority(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, ...),
        ("none", None),
        ("10s", {"first": 10.0}),
        ("1s:2", {"first": 1.0, "factor": 2.0}),
        ("1s:1.5:10m", {"first": 1.0, "factor": 1.5, "limit": 600.0}),
        ("1s::10m", {"first": 1.0, "limit": 600.0}),
    ],
)
def test_a_backoff_is_first_factor_and_limit(text: str | None, found: object) -> None:
    assert _input.backoff(text, "--backoff") == found


@pytest.mark.parametrize("text", ["", "soon", "1s:x", "1s:2:never", "1s:2:3:4"])
def test_what_is_no_backoff_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="--backoff"):
        _input.backoff(text, "--backoff")


@pytest.mark.parametrize(("text", "found"), [(None, ...), ("none", None), ("1m30s", 90.0)])
def test_a_limit_is_a_time_or_none(text: str | None, found: object) -> None:
    assert _input.limit(text, "--timeout") == found


def test_a_requester_is_a_json_object() -> None:
    assert _input.requester('{"user": "u1"}') == {"user": "u1"}
    assert _input.requester(None) is None
    for wrong in ("[1]", "u1", '{"user": NaN}'):
        with pytest.raises(BadInput, match="--requester"):
            _input.requester(wrong)
