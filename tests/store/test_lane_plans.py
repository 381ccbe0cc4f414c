"""A page costs what it brings, however much waits behind it, also where the planner takes the lane for empty."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow_server.store.lane_reader import NO_SCANS
from taskflow_server.store.queries import sql

WAITING, PAGE = 20_000, 200
TODAY = "select to_char(now() at time zone 'UTC', '\"taskflow.jobs_p\"YYYYMMDD')"
FILL = """
insert into taskflow.jobs (id, queue, payload)
select (left(taskflow.uuid_at(now())::text, 14) || '7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'long', '1'
from generate_series(1, %s) n
"""


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    options = " ".join(f"-c {name}={value}" for name, value in NO_SCANS.items())
    with psycopg.connect(database, autocommit=True, options=options) as opened:
        row = opened.execute(TODAY).fetchone()
        assert row is not None
        opened.execute(f"alter table {row[0]} set (autovacuum_enabled = false)")  # the test says what the planner knows
        opened.execute(FILL, (WAITING,))
        yield opened


@pytest.mark.feature("A2")
@pytest.mark.parametrize("late", [[], ["3"]], ids=["nothing-late", "a-transaction-late"])
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("known", [False, True], ids=["looks-empty", "analyzed"])
def test_a_page_reads_no_more_of_a_long_lane_than_it_brings(
    conn: psycopg.Connection[Any], known: bool, mode: str, late: list[str]
) -> None:
    if known:
        conn.execute("analyze")
    conn.execute(f"set plan_cache_mode = {mode}")
    start = {"queues": ["long"], "tasks": [""], "priorities": [5], "txs": ["0"], "ids": [UUID(int=0)]}
    wanted = start | {"limits": [PAGE], "catch_tos": ["0"], "late_of": [1] * len(late), "late": late}

    row = conn.execute("explain (analyze, buffers, format json) " + sql("read_lanes"), wanted, prepare=True).fetchone()

    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Actual Rows"] == PAGE + 1, "the page, and the snapshot"
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 10 * PAGE, row[0][0]["Execution Time"]
    jobs = [node for node in nodes(plan) if "jobs_p" in node.get("Relation Name", "")]
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in jobs) <= 2 * PAGE


def nodes(of: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield of
    for child in of.get("Plans", ()):
        yield from nodes(child)
