"""A page of `taskflow verify` costs by its rows, not by the history. TASKFLOW_TEST_ROWS=1000000."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow_server.store.queries import sql
from taskflow_server.store.verify import SETTINGS
from taskflow_server.verify.checks import CHECKS, Rows
from tests.store.test_lane_plans import nodes

ROWS = int(os.environ.get("TASKFLOW_TEST_ROWS", "30000"))
PAGE = 500
PAGES_A_ROW = 40  # of Postgres, that a job of a page may cost
FILL = """
with made as (
    insert into taskflow.jobs (id, queue, key, options)
    select (left(taskflow.uuid_at(date_trunc('day', now()))::text, 14) || '7000-8000-'
            || lpad(to_hex(n), 12, '0'))::uuid,
        'verified', 'key-' || n, '{{"task_id": "00000000-0000-7000-8000-000000000000"}}'
    from generate_series(1, {rows}) n
    returning id, key, options
), ended as (
    insert into taskflow.attempts (job_id, started_at, finished_at, exec_id, attempt, tries, outcome, final)
    select id, now(), now(), id, 1, 1, 1, true from made
), logged as (
    insert into taskflow.task_logs (task_id, job_id, attempt, started_at, finished_at, outcome, final)
    select (options ->> 'task_id')::uuid, id, 1, now(), now(), 1, true from made
), lines as (
    insert into taskflow.job_logs (job_id, attempt, logged_at, level, message)
    select id, 1, now(), 'info', 'x' from made
), cancelled as (
    insert into taskflow.cancels (job_id, shard, done) select id, 0, true from made
), keyed as (
    insert into taskflow.job_keys (namespace, key, job_id) select 'default', key, id from made
), deferred as (
    insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select id, now(), 0, 5, 2, 0, 5, 'verified', '' from made
), leased as (
    insert into taskflow.leases (job_id, exec_id, shard, priority, attempt, tries, started, queue, task)
    select id, id, 0, 5, 2, 1, true, 'verified', '' from made
), lane as (
    insert into taskflow.lanes (queue, task, priority, shard) values ('verified', '', 5, 0)
)
insert into taskflow.queues (name, shard) values ('verified', 0)
"""
QUERIES = ["verify_jobs_page", "verify_ends", *(check.query for check in CHECKS if check.rows is Rows.JOBS)]


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    options = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items() if "read_only" not in name)
    with psycopg.connect(database, autocommit=True, options=options) as opened:
        opened.execute("set synchronous_commit = off")
        opened.execute(FILL.format(rows=ROWS))
        yield opened


@pytest.fixture(scope="module")
def page(conn: psycopg.Connection[Any]) -> dict[str, Any]:
    """The parameters of a page in the midst of all."""
    middle = "select id from taskflow.jobs order by id offset %s limit 1"
    low, high = (conn.execute(middle, [ROWS // 2 + n]).fetchone() for n in (0, PAGE))
    assert low is not None and high is not None
    return {"low": low[0], "high": high[0], "limit": PAGE, "kept_from": "2020-01-01", "since": None, "until": None}


@pytest.mark.feature("M.14", "M.3")
@pytest.mark.parametrize("known", [False, True], ids=["looks-empty", "analyzed"])
@pytest.mark.parametrize("name", QUERIES)
def test_a_page_reads_what_belongs_to_its_rows(
    conn: psycopg.Connection[Any], page: dict[str, Any], name: str, known: bool
) -> None:
    if known:
        conn.execute("analyze")
    assert isinstance(page["low"], UUID)

    row = conn.execute("explain (analyze, buffers, format json) " + sql(name), page).fetchone()

    assert row is not None
    plan = row[0][0]["Plan"]
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < PAGES_A_ROW * PAGE, row[0][0]["Execution Time"]
    assert not [n for n in nodes(plan) if n["Actual Rows"] > 10 * PAGE], "read much more than the page"
