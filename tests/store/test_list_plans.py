"""No list scans history: its plan on many rows (docs/protocol.md, D). TASKFLOW_TEST_ROWS=1000000 for the whole size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow_server.store.queries import sql
from tests.support.tier import size
from tests.support.waiting import eventually

ROWS = int(os.environ.get("TASKFLOW_TEST_ROWS", size(50_000, 300_000)))
BIG = ("jobs_p", "attempts_p", "job_tags", "task_logs", "deferred", "leases")

# 20 queues; of each ten jobs one failed, one is retrying, one is ready; every 1,000th has a tag; nearly all are old.
FILL = """
with made as (
    insert into taskflow.jobs (id, queue, task, priority, payload, options, deferred)
    select (lpad(to_hex((extract(epoch from now() - (n * 5 || ' ms')::interval) * 1000)::bigint), 12, '0')
            || '7' || lpad(to_hex(n % 4096), 3, '0') || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
        'q' || n % 20, case when n % 3 = 0 then 't' || n % 7 else '' end, 5, '1',
        case when n % 1000 = 0 then '{"tags": ["rare"]}'::jsonb end, false
    from generate_series(1, %(rows)s) n
    returning id, queue, task, ('x' || substr(id::text, 25))::bit(48)::bigint as n
), ended as (
    insert into taskflow.attempts (job_id, started_at, finished_at, attempt, tries, outcome, final, error)
    select id, now(), now(), 1, 1, case when n %% 10 < 2 then 2 else 1 end, n %% 10 <> 1,
        case when n %% 10 < 2 then '{"type": "ValueError", "message": "no"}'::jsonb end
    from made where n %% 10 <> 2
), waiting as (
    insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select id, now() + interval '1 day', 0, 5, 2, 1, 2, queue, task from made where n %% 10 = 1
)
insert into taskflow.job_tags (word, job_id) select 'tag rare', id from made where n %% 1000 = 0
"""
LANES = """
insert into taskflow.lanes (queue, task, priority, shard)
select queue, task, 5, 0 from taskflow.jobs group by queue, task on conflict do nothing
"""

# Three named tasks; all jobs but a few are runs of the first, of which one in 10,000 fails. 5,000 jobs run.
TASKS = """
with named as (
    insert into taskflow.tasks (id, name, target, queue)
    select ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'named' || n, 't' || n, 'q'
    from generate_series(1, 3) n
)
insert into taskflow.task_logs (task_id, job_id, attempt, started_at, finished_at, outcome, final)
select case when n > 100 then '00000000-0000-0000-0000-000000000001'::uuid
        else '00000000-0000-0000-0000-000000000002' end,
    id, 1, at, at, case when n % 10000 = 0 then 2 else 1 end, true
from (select id, row_number() over (order by id) as n, now() - random() * interval '9 days' as at from taskflow.jobs) j;
insert into taskflow.leases (job_id, exec_id, shard, priority, attempt, tries, started, started_at, queue, task)
select id, id, 0, 5, 1, 0, true, now(), queue, case when task = '' then 't9' else task end
from taskflow.jobs order by id limit 5000
"""
FIRST, SECOND = (UUID(int=n) for n in (1, 2))

BOUNDS = {"after": UUID(int=0), "before": UUID(int=(1 << 128) - 1), "limit": 200}
LISTS: list[tuple[str, dict[str, Any]]] = [
    ("all_jobs", BOUNDS),
    ("jobs_of_lanes", BOUNDS | {"queue": "q7", "task": ""}),
    ("jobs_of_lanes", BOUNDS | {"queue": "q7", "task": "t3"}),
    ("jobs_of_lanes", BOUNDS | {"queue": "", "task": "t3"}),
    ("deferred_jobs", BOUNDS),
    ("deferred_jobs_of_queue", BOUNDS | {"queue": "q11"}),
    ("unsuccessful_jobs", BOUNDS),
    ("jobs_beyond_marks", {"queue": "q7", "task": "", "limit": 2_000}),
    ("tagged_jobs", BOUNDS | {"word": "tag rare"}),
    ("rarest_word", BOUNDS | {"words": ["tag rare", "tag none"]}),
    ("task_logs", {"task": FIRST, "outcomes": [1], "limit": 50}),
    ("task_logs", {"task": FIRST, "outcomes": [2, 3, 4], "limit": 50}),
    ("task_logs", {"task": SECOND, "outcomes": [1, 2, 3, 4], "limit": 50}),
    ("task_logs", {"task": None, "outcomes": [1, 2, 3, 4], "limit": 1000}),
    ("get_tasks", {"names": ["named1"], "ids": [], "after": "", "limit": 1}),
    ("get_tasks", {"names": [], "ids": [], "after": "", "limit": 100}),
]


@pytest.fixture(scope="module")
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as opened:
        opened.execute("set synchronous_commit = off")
        opened.execute(FILL.replace("%%", "%").replace("%(rows)s", str(ROWS)))
        opened.execute(LANES)
        opened.execute(TASKS)
        opened.execute("vacuum (analyze)")  # as autovacuum does after so many inserts
        eventually(lambda: _all_visible(opened, "taskflow.task_logs"), 60)
        yield opened


def _all_visible(conn: psycopg.Connection[Any], table: str) -> bool:
    """Whether an index-only scan need not read the table: a vacuum leaves out what another session may still see, as
    the autovacuum's."""
    conn.execute(f"vacuum {table}")
    found = conn.execute("select relallvisible >= relpages from pg_class where oid = %s::regclass", [table]).fetchone()
    return found == (True,)


def plan(conn: psycopg.Connection[Any], name: str, values: dict[str, Any]) -> dict[str, Any]:
    row = conn.execute("explain (analyze, buffers, format json) " + sql(name), values).fetchone()
    assert row is not None
    return dict(row[0][0])


def nodes(of: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield of
    for child in of.get("Plans", ()):
        yield from nodes(child)


def scanned(found: dict[str, Any]) -> list[str]:
    """Big tables that are read from one end to the other."""
    return [
        node["Relation Name"]
        for node in nodes(found["Plan"])
        if node["Node Type"] == "Seq Scan" and node["Relation Name"].startswith(BIG) and node["Actual Rows"] > 1000
    ]


@pytest.mark.feature("X.19", "M.3")
@pytest.mark.parametrize(("name", "values"), LISTS, ids=[f"{name}-{n}" for n, (name, _) in enumerate(LISTS)])
def test_a_source_of_a_list_reads_what_it_gives(
    conn: psycopg.Connection[Any], name: str, values: dict[str, Any]
) -> None:
    found = plan(conn, name, values)

    assert not scanned(found)
    assert found["Plan"]["Actual Rows"] > 0
    assert found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"] < 12_000, found["Execution Time"]


@pytest.mark.feature("S4.4", "X.19")
@pytest.mark.parametrize("task", [FIRST, None], ids=["of-a-task", "of-all"])
def test_a_count_of_logs_reads_those_that_it_counts(conn: psycopg.Connection[Any], task: UUID | None) -> None:
    few = plan(conn, "count_task_logs", {"task": task, "outcomes": [2, 3, 4]})
    all_ = plan(conn, "count_task_logs", {"task": task, "outcomes": [1, 2, 3, 4]})

    assert not scanned(few)
    assert not scanned(all_)
    assert few["Plan"]["Shared Hit Blocks"] + few["Plan"]["Shared Read Blocks"] < 200
    assert all_["Plan"]["Shared Hit Blocks"] + all_["Plan"]["Shared Read Blocks"] < ROWS / 50, "130 ms a million"


@pytest.mark.parametrize("count", [200, 5_000])
def test_the_decision_reads_the_candidates_alone(conn: psycopg.Connection[Any], count: int) -> None:
    candidates = conn.execute(sql("all_jobs"), BOUNDS | {"limit": count}).fetchall()
    wish = {"queue": "q10", "task": "", "states": [7], "error": "no", "tags": [], "metadata": "{}"}

    found = plan(conn, "matching_jobs", wish | {"ids": [row[0] for row in candidates]})

    assert not [name for name in scanned(found) if name not in ("deferred", "leases")], "those may be the smaller side"
    assert found["Plan"]["Actual Rows"] > 0
    assert found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"] < 40 * count


def test_a_day_that_is_not_asked_for_is_not_read(conn: psycopg.Connection[Any]) -> None:
    later = (datetime.now(UTC) + timedelta(days=2)).timestamp()
    bounds = BOUNDS | {"after": UUID(int=int(later * 1000) << 80)}

    found = plan(conn, "all_jobs", bounds)

    today = f"jobs_p{datetime.now(UTC):%Y%m%d}"
    assert today not in [node.get("Relation Name") for node in nodes(found["Plan"])]
