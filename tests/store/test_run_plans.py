"""No list of runs, and nothing that their owner reads, scans all runs: plans on many rows (docs/protocol.md, D)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow_server.store.queries import sql
from tests.support.tier import size

ROWS = int(os.environ.get("TASKFLOW_TEST_ROWS", size(50_000, 300_000)))
BIG = ("runs", "run_jobs", "run_steps", "run_inbox", "run_timers", "run_slas")
# Nearly all have succeeded, long ago; one in 1,000 waits, and has an attribute of its own. All have something to hear.
FILL = """
with made as (
    insert into taskflow.runs
        (id, workflow, version, shard, status, context, metadata, trigger, created_at, finished_at, waiting)
    select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'w' || n % 20, 1, n % 16,
        case when n % 1000 = 0 then 'running' else 'succeeded' end, '{}',
        case when n % 1000 = 0 then jsonb_build_object('user', 'u' || n) else '{}'::jsonb end, 'manual', now(),
        case when n % 1000 > 0 then now() - interval '60 days' end, n % 1000 = 0
    from generate_series(1, %(rows)s) n
    returning id, shard, status
), steps as (
    insert into taskflow.run_steps (run_id, step, iteration, status) select id, 's', 1, 'succeeded' from made
), jobs as (
    insert into taskflow.run_jobs (run_id, step, iteration, index, job_id) select id, 's', 1, 0, id from made
), slas as (
    insert into taskflow.run_slas (shard, due_at, run_id) select shard, now() + interval '1 day', id from made
), timers as (
    insert into taskflow.run_timers (run_id, name, iteration, due_at, shard)
    select id, 's', 1, now() + interval '1 day', shard from made
)
insert into taskflow.run_inbox (run_id, shard, event) select id, shard, '{}' from made
"""


@pytest.fixture(scope="module")
def filled(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(FILL.replace("%(rows)s", str(ROWS)))
        conn.execute("vacuum analyze taskflow.runs")
        for table in BIG[1:]:
            conn.execute(f"vacuum analyze taskflow.{table}")
        conn.execute("set plan_cache_mode = force_generic_plan")
        conn.execute("set jit = off")
        yield conn


LAST, RUN = UUID(int=(1 << 128) - 1), UUID("00000000-0000-7000-8000-0000000003e8")
KEYS = {"run_id": [RUN], "step": ["s"], "iteration": [1], "place": [0]}
CASES: list[tuple[str, dict[str, Any], int]] = [
    ("list_runs", {"before": LAST, "limit": 100}, 500),
    ("list_runs_of_workflow", {"workflow": "w3", "before": LAST, "limit": 100}, 500),
    ("list_runs_by_state", {"states": ["running", "failed"], "before": LAST, "limit": 100}, 500),
    ("list_runs_of_workflow_by_state", {"workflow": "w0", "states": ["running"], "before": LAST, "limit": 100}, 500),
    (
        "list_runs_by_metadata",
        {"metadata": '{"user": "u5000"}', "workflow": "", "states": [], "before": LAST, "limit": 100},
        500,
    ),
    ("runs_with_news", {"shards": list(range(16)), "limit": 50, "after": UUID(int=0), "left_out": []}, 2000),
    ("runs_with_news", {"shards": list(range(16)), "limit": 50, "after": RUN, "left_out": [RUN]}, 2000),
    ("missed_slas", {"shards": list(range(16)), "limit": 500}, 50),
    ("any_held", {}, 50),
    ("held_workflows", {"shards": list(range(16))}, 50),
    ("cancel_jobs_of_runs", {"ids": [RUN]}, 50),
    ("cancel_children_of_runs", {"ids": [RUN]}, 50),
    ("delete_timers_of_runs", {"ids": [RUN]}, 50),
    ("cancel_steps_of_runs", {"ids": [RUN]}, 50),
    ("runs_unchanged", {"ids": [RUN], "turns": [0]}, 50),
    ("load_runs", {"ids": [RUN], "bytes": 1 << 20}, 50),
    ("events_of_runs", {"ids": [RUN], "limit": 100, "bytes": 1 << 20}, 50),
    ("due_timers", {"ids": [RUN]}, 50),
    ("active_runs", {"workflows": ["w0"]}, 500),
    ("tell_of_jobs", {"job_id": [RUN], "attempt": [1]}, 50),
    ("steps_of_run", {"id": RUN, "limit": 100}, 50),
    ("jobs_of_run", {"id": RUN, "limit": 100}, 50),
    ("cancel_run_jobs", KEYS, 50),
    ("cancel_child_runs", KEYS, 50),
]


@pytest.mark.feature("S1.4", "S0.7")
@pytest.mark.parametrize(("name", "parameters", "most"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)])
def test_a_query_about_runs_reads_few_rows(
    filled: psycopg.Connection[Any], name: str, parameters: dict[str, Any], most: int
) -> None:
    found = filled.execute("explain (analyze, format json) " + sql(name), parameters).fetchone()

    assert found is not None
    nodes = list(every(found[0][0]["Plan"]))
    scans = [n for n in nodes if n["Node Type"] == "Seq Scan" and n["Relation Name"] in BIG]
    read = max(
        (n["Actual Rows"] + n.get("Rows Removed by Filter", 0)) * n["Actual Loops"]
        for n in nodes
        if n.get("Relation Name", "") in BIG or n["Node Type"] in ("Result", "Nested Loop", "Function Scan", "Insert")
    )
    assert scans == []
    assert read <= most


def every(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for inner in node.get("Plans", ()):
        yield from every(inner)
