"""A coordinator's repeated reads cost by what they return, not by what waits. TASKFLOW_TEST_ROWS=1000000."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow_server.store.lane_reader import NO_SCANS
from taskflow_server.store.queries import sql
from tests.store.test_lane_plans import nodes

ROWS = int(os.environ.get("TASKFLOW_TEST_ROWS", "50000"))
NOW = datetime.now(UTC)
DUE, LATER = NOW - timedelta(hours=1), NOW + timedelta(days=1)
HALF, NOBODY = UUID(int=ROWS // 2), UUID(int=0)
FILL = """
with big as (
    select n, ('00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid as id from generate_series(1, {rows}) n
), due as (
    insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select id, '{due}', 3, 5, 1, 0, 1, 'due', '' from big
), later as (
    insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select ('1' || substr(id::text, 2))::uuid, '{later}', 4, 5, 1, 0, 1, 'later', '' from big
), few as (
    insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select ('2' || substr(id::text, 2))::uuid, '{due}', 4, 5, 1, 0, 1, 'later-' || n, 't' from big where n <= 20
), wishes as (
    insert into taskflow.cancels (job_id, shard, done) select id, n % 16, n % 2 = 0 from big
), starts as (
    insert into taskflow.start_bys (shard, start_by, job_id) select 3, '{later}', id from big
), starts_due as (
    insert into taskflow.start_bys (shard, start_by, job_id) select 3, '{due}', id from big where n <= 10
), jobs as (
    insert into taskflow.jobs (id, queue, payload)
    select (left(taskflow.uuid_at(now())::text, 14) || '7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
        'done-' || n % 100, '1'
    from big
)
insert into taskflow.lanes (queue, task, priority, shard, tx, id)
select 'done-' || n, '', 5, 3, pg_current_xact_id(), 'ffffffff-ffff-ffff-ffff-ffffffffffff'
from generate_series(0, 99) n
"""
SHARDS = list(range(16))
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
DUE_LIMITS = {"limit": 500, "seconds": 1.0}
KEYS = {"queues": [""] * 16, "tasks": [""] * 16, "priorities": [-1] * 16}

# what is asked, with what, how many rows come, and how many pages may be touched for them
LOOKS: list[tuple[str, dict[str, Any], int, int]] = [
    ("newly_due", {"shards": SHARDS, "sinces": [BEGINNING] * 16, "ids": [NOBODY] * 16, **DUE_LIMITS}, 521, 2_000),
    ("newly_due", {"shards": [3], "sinces": [DUE], "ids": [HALF], **DUE_LIMITS}, 501, 1_600),
    ("newly_due", {"shards": [4], "sinces": [DUE], "ids": [UUID(int=(1 << 128) - 1)], **DUE_LIMITS}, 1, 60),
    (
        "due_of_lanes",
        {
            "shards": [3, 4], "queues": ["due", "later"], "tasks": ["", ""], "priorities": [5, 5],
            "sinces": [DUE, BEGINNING], "ids": [HALF, NOBODY], "limits": [200, 200],
        },
        200, 800,
    ),
    ("lanes_with_due", {"shards": SHARDS, **KEYS, "limit": 500}, 22, 400),
    ("lanes_with_news", {"queue": "", "task": "", "priority": -1, "shards": SHARDS, "limit": 1000}, 1, 4_000),
    ("open_cancels", {"shards": SHARDS, "sinces": [BEGINNING] * 16, "ids": [NOBODY] * 16, "limit": 50}, 400, 1_600),
    ("late_starts", {"shards": SHARDS, "sinces": [BEGINNING] * 16, "ids": [NOBODY] * 16, "limit": 200}, 10, 400),
]  # fmt: skip


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    options = " ".join(f"-c {name}={value}" for name, value in NO_SCANS.items())
    with psycopg.connect(database, autocommit=True, options=options) as opened:
        opened.execute("set synchronous_commit = off")
        opened.execute(FILL.format(rows=ROWS, due=DUE, later=LATER))
        yield opened


@pytest.mark.feature("A4", "B3", "B8", "M.3")
@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
@pytest.mark.parametrize("known", [False, True], ids=["looks-empty", "analyzed"])
@pytest.mark.parametrize(("name", "values", "brings", "pages"), LOOKS, ids=[f"{n}-{x[0]}" for n, x in enumerate(LOOKS)])
def test_a_look_reads_no_more_than_it_brings(
    conn: psycopg.Connection[Any], name: str, values: dict[str, Any], brings: int, pages: int, known: bool, mode: str
) -> None:
    if known:
        conn.execute("analyze")
    conn.execute(f"set plan_cache_mode = {mode}")

    row = conn.execute("explain (analyze, buffers, format json) " + sql(name), values, prepare=True).fetchone()

    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Actual Rows"] == brings
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < pages, row[0][0]["Execution Time"]
    assert not [n for n in nodes(plan) if n["Node Type"] == "Seq Scan" and n["Actual Rows"] > 1000]
