"""Checks of `taskflow verify` that are decided in Python: a schedule's ledger, and attempts at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from taskflow_server.core.timing import parse_timing
from taskflow_server.verify.checks import CHECKS
from taskflow_server.verify.ledger import BACKFILL, LedgerRow, Reading
from taskflow_server.verify.limits import BLUR, Running

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2026, 5, 4, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOURLY = timedelta(hours=1)


def row(instant: int, first: int | None = None, count: int = 1, trigger: str = "schedule") -> LedgerRow:
    """A row from one hour after the start to another."""
    first = instant if first is None else first
    return LedgerRow(START + instant * HOURLY, START + first * HOURLY, count, "fired", trigger)


def faults(rows: Sequence[LedgerRow], cursor: int, pages: int = 1) -> list[tuple[str, int, int]]:
    """Each fault, with its first hour and how many instants."""
    reading = Reading(parse_timing(cron="0 * * * *", at=None, time_zone="UTC"), START, START + cursor * HOURLY)
    size = -(-len(rows) // pages)
    found = [fault for n in range(pages) for fault in reading.read(rows[n * size : (n + 1) * size])]
    found += reading.end()
    return [(fault.what, round((fault.first - START) / HOURLY), fault.instants) for fault in found]


@pytest.mark.feature("M.14", "M.7")
def test_a_ledger_with_a_row_for_each_instant_has_no_fault() -> None:
    rows = [row(1), row(4, first=2, count=3), row(5)]

    assert faults(rows, 5) == []
    assert faults(rows, 5, pages=3) == []


@pytest.mark.feature("M.14", "M.7")
@pytest.mark.parametrize(
    ("rows", "cursor", "found"),
    [
        ([row(1), row(3)], 3, [("missing", 2, 1)]),
        ([row(2)], 2, [("missing", 1, 1)]),
        ([row(1)], 4, [("missing", 2, 3)]),
        ([], 2, [("missing", 1, 2)]),
        ([row(3, first=1, count=2)], 3, [("not nominal", 1, -1)]),
        ([row(1), row(2), row(3, first=2, count=2)], 3, [("doubled", 2, 1)]),
    ],
)
def test_a_fault_of_a_ledger_is_named(rows: list[LedgerRow], cursor: int, found: list[tuple[str, int, int]]) -> None:
    assert faults(rows, cursor) == found


@pytest.mark.feature("M.14")
def test_a_time_that_is_no_instant_is_named() -> None:
    stray = LedgerRow(START + 1.5 * HOURLY, START + 1.5 * HOURLY, 1, "fired", "schedule")

    assert [what for what, _, _ in faults([row(1), stray, row(2)], 2)] == ["not nominal"]


@pytest.mark.feature("M.14")
def test_instants_that_a_backfill_has_fired_may_be_in_a_row_for_many_too() -> None:
    assert faults([row(2, trigger=BACKFILL), row(3, trigger=BACKFILL), row(5, first=1, count=5), row(6)], 6) == []
    assert faults([row(1), row(2, trigger=BACKFILL), row(5, first=2, count=4)], 5) == []
    assert faults([row(1), row(2, trigger=BACKFILL)], 2) == []
    assert faults([row(1), row(3, trigger=BACKFILL), row(4)], 4) == [("missing", 2, 1)]


@pytest.mark.feature("M.14")
def test_attempts_at_once_are_those_that_have_not_ended() -> None:
    running = Running()

    assert running.start(START, START + MINUTE, "a") == ["a"]
    assert sorted(running.start(START + MINUTE / 2, START + 3 * MINUTE, "b")) == ["a", "b"]
    assert sorted(running.start(START + MINUTE, START + 2 * MINUTE, "c")) == ["b", "c"]
    assert sorted(running.start(START + 2 * MINUTE - BLUR, START + 4 * MINUTE, "d")) == ["b", "d"]


@pytest.mark.feature("M.14")
def test_each_promise_has_an_id_and_a_place_in_the_docs() -> None:
    ids = [check.id for check in CHECKS]
    page, guarantees = (ROOT / name for name in ("docs/operations/verify.md", "docs/concepts/guarantees.md"))

    assert len(set(ids)) == len({check.promise for check in CHECKS}) == len(ids)
    assert re.findall(r'<a id="([a-z-]+)"></a>`\1`', page.read_text()) == ids
    assert sorted(re.findall(r"verify\.md#([a-z-]+)\)", guarantees.read_text())) == sorted(ids)
