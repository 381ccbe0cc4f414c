"""Output of the commands."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from taskflow._cli import _output


def test_a_list_for_programs_is_a_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    _output.documents([{"id": 1, "at": at}, {"id": 2, "data": b"\x00"}])

    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": 1, "at": "2026-01-02T03:04:05Z"},
        {"id": 2, "data": {"base64": "AA=="}},
    ]


@pytest.mark.feature("R14")
def test_what_is_no_json_number_is_text_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    """A worker of an older version may have kept `1e400`, which Python reads as an infinity."""
    _output.document({"payload": [json.loads("1e400"), float("nan"), "é"]})

    shown = capsys.readouterr().out
    assert json.loads(shown, parse_constant=lambda word: pytest.fail(word)) == {"payload": ["Infinity", "NaN", "é"]}


def test_a_table_in_a_pipe_has_columns_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    _output.table(("id", "error"), [("a" * 36, "x" * 300), ("b", "y")], empty="nothing")

    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["ID", "ERROR"]
    assert first.split() == ["a" * 36, "x" * 300]
    assert second.index("y") == first.index("x")


def test_an_empty_table_says_so_where_it_disturbs_no_program(capsys: pytest.CaptureFixture[str]) -> None:
    _output.table(("id",), [], empty="no such jobs")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no such jobs\n")


def test_fields_leave_out_what_has_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    _output.fields([("id", "7"), ("error", None), ("payload", {"a": [1]}), ("tags", [])])

    assert capsys.readouterr().out == 'id       7\npayload  {"a": [1]}\n'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25s"), (42, "42s"), (190, "3m10s"), (18_120, "5h02m"), (277_200, "3d5h"), (59.7, "1m00s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert _output.duration(seconds) == text
    assert _output.cell(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("amount", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5120.0 GiB")])
def test_sizes(amount: int, text: str) -> None:
    assert _output.size(amount) == text


def test_control_characters_of_others_do_not_reach_the_terminal() -> None:
    assert _output.cell("a\x1b[2Jb\x07") == "a?[2Jb?"
