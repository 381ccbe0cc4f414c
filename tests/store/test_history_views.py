"""The views of docs/reference/sql-views.md on a real Postgres: their columns stay, their plans read few rows, and a
role reads them and nothing else."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql as composed
from typer.testing import CliRunner

from taskflow_server.cli.db import db
from taskflow_server.store.migrate import migrate
from taskflow_server.store.paths import data_dir
from tests.support import postgres as pg
from tests.support.docs import ROOT
from tests.support.tier import size

PAGE = ROOT / "docs" / "reference" / "sql-views.md"
ROWS = int(os.environ.get("TASKFLOW_TEST_ROWS", size(50_000, 300_000)))
BIG = ("jobs_p", "attempts_p")

# As version 0.1.0 has them. Add at the end; a line that is here never goes.
COLUMNS = {
    "task_instances": """
        id uuid, task_name text, queue text, status text, state text, priority smallint, attempts integer,
        max_attempts integer, scheduled boolean, schedule_id uuid, workflow_instance_id uuid, step text,
        created_at timestamptz, run_at timestamptz, started_at timestamptz, ended_at timestamptz, worker text,
        error_type text, error text, requester jsonb, label text, key text, metadata jsonb, tags jsonb""",
    "task_attempts": """
        job_id uuid, attempt integer, outcome text, final boolean, started_at timestamptz, ended_at timestamptz,
        ran interval, tries integer, worker text, exec_id uuid, error_type text, error text""",
    "workflow_instances": """
        id uuid, workflow_name text, version integer, status text, state text, scheduled boolean, schedule_id uuid,
        trigger text, parent_instance_id uuid, parent_step text, created_at timestamptz, started_at timestamptz,
        ended_at timestamptz, sla_missed boolean, error_type text, error text, label text, metadata jsonb""",
    "workflow_steps": """
        workflow_instance_id uuid, step text, iteration integer, status text, state text, due_at timestamptz,
        started_at timestamptz, ended_at timestamptz, error_type text, error text, after text[]""",
    "schedule_firings": """
        schedule_id uuid, task_name text, workflow_name text, instant timestamptz, first timestamptz, count bigint,
        state text, reason text, trigger text, job_id uuid, workflow_instance_id uuid, decided_at timestamptz""",
    "events": """
        at timestamptz, job_id uuid, workflow_instance_id uuid, event text, actor text, attempt integer,
        detail jsonb""",
}

# One job in ten has failed once and waits for its retry; the others have succeeded. One in 5,000 was cancelled by hand.
FILL = """
with made as (
    insert into taskflow.jobs (id, queue, task, priority, payload, created_at, options)
    select (lpad(to_hex((extract(epoch from now() - (n * 20 || ' ms')::interval) * 1000)::bigint), 12, '0')
            || '7' || lpad(to_hex(n % 4096), 3, '0') || '8000' || lpad(to_hex(n), 12, '0'))::uuid,
        'q' || n % 20, 't' || n % 7, 5, '1', now() - (n * 20 || ' ms')::interval,
        '{"requester": {"user": "u1"}, "metadata": {"taskflow.run": "no id"}}'
    from generate_series(rows, 1, -1) n
    returning id, queue, task, created_at, ('x' || substr(id::text, 25))::bit(48)::bigint as n
), ended as (
    insert into taskflow.attempts (job_id, started_at, finished_at, attempt, tries, outcome, final, worker)
    select id, created_at + interval '1 ms', created_at + interval '2 ms', 1, 1, case when n % 10 = 1 then 2 else 1 end,
        n % 10 <> 1, 'w1' from made order by id
), waiting as (
    insert into taskflow.deferred (job_id, due_at, shard, priority, attempt, tries, reason, queue, task)
    select id, now() + interval '1 day', 0, 5, 2, 1, 2, queue, task from made where n % 10 = 1
), acted as (
    insert into taskflow.job_actions (job_id, at, action, actor)
    select id, created_at, 'cancel_requested', 'ann@laptop' from made where n % 5000 = 0
)
insert into taskflow.task_logs (task_id, job_id, attempt, finished_at, outcome, final)
select id, id, 1, now(), 1, true from made where n % 50000 = 0
"""
JOB = "(select id from taskflow.jobs order by id desc limit 1)"
SECOND = "at between now() - interval '3 minutes' and now() - interval '179 seconds'"
IDS = "between taskflow.uuid_at(now() - interval '3 minutes') and taskflow.uuid_at(now() - interval '179 seconds')"
QUESTIONS = {
    "an instance": "select * from taskflow.task_instances where id = {job}",
    "instances of a second": "select * from taskflow.task_instances where id {ids}",
    "its attempts": "select * from taskflow.task_attempts where job_id = {job}",
    "attempts of a second": "select * from taskflow.task_attempts where job_id {ids}",
    "its time line": "select * from taskflow.events where job_id = {job} order by at",
    "events of a second": "select * from taskflow.events where {second} order by at",
    "submissions of a second": "select * from taskflow.events where event = 'submitted' and {second}",
}


def columns(conn: psycopg.Connection[Any], view: str) -> list[str]:
    found = conn.execute(
        "select attname || ' ' || replace(format_type(atttypid, atttypmod), 'timestamp with time zone', 'timestamptz')"
        " from pg_attribute where attrelid = %s::regclass and attnum > 0 order by attnum",
        [f"taskflow.{view}"],
    )
    return [row[0] for row in found]


@pytest.mark.feature("S1.2")
@pytest.mark.parametrize("view", COLUMNS)
def test_a_view_keeps_each_column_its_place_and_its_type(database: str, view: str) -> None:
    promised = [" ".join(words.split()) for words in COLUMNS[view].split(",")]

    with psycopg.connect(database) as conn:
        found = columns(conn, view)

    assert found[: len(promised)] == promised


@pytest.mark.feature("S1.2")
@pytest.mark.parametrize("view", COLUMNS)
def test_the_page_names_every_column_of_a_view_of_history(database: str, view: str) -> None:
    section = PAGE.read_text().partition(f"## `taskflow.{view}`")[2].partition("\n## ")[0]
    section = section.partition("| `event` | when")[0]  # a table of events follows
    named = {name for line in section.splitlines() if line.startswith("| `")
             for name in re.findall(r"`(\w+)`", line.split("|")[1])}  # fmt: skip

    with psycopg.connect(database) as conn:
        found = columns(conn, view)

    assert named == {column.split()[0] for column in found}


@pytest.mark.feature("S1.2", "X.28")
def test_days_that_are_there_get_their_index_unless_somebody_holds_them(postgres: str, tmp_path: Path) -> None:
    """From the version before, while an app's transaction that has stored jobs is open: it is not waited for."""
    for file in (data_dir() / "migrations").glob("*.sql"):
        if file.name < "0020":
            shutil.copy(file, tmp_path)
    name = f"days_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f"create database {name}".encode())
    try:
        dsn = pg.with_database(postgres, name)
        pg.run(lambda: migrate(dsn, tmp_path))
        with psycopg.connect(dsn) as conn:
            conn.execute("insert into taskflow.jobs (id, queue) values (taskflow.uuid_at(now()), 'q')")
            held = conn.execute("select tableoid::regclass::text from taskflow.jobs").fetchone()

            applied = pg.run(lambda: migrate(dsn))

            indexed = conn.execute(
                "select inhrelid::regclass::text, to_regclass(inhrelid::regclass || '_times') is not null"
                " from pg_inherits where inhparent in ('taskflow.jobs'::regclass, 'taskflow.attempts'::regclass)"
            ).fetchall()
        assert applied[0].startswith("0020")
        assert held is not None
        assert {part for part, there in indexed if not there} == {held[0]}
        assert len(indexed) == 2 * 9
    finally:
        pg.drop_database(postgres, name)


@pytest.fixture(scope="module")
def filled(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("set synchronous_commit = off")
        conn.execute(FILL.replace("rows", str(ROWS), 1))
        conn.execute("vacuum (analyze)")
        yield conn


def nodes(of: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield of
    for child in of.get("Plans", ()):
        yield from nodes(child)


@pytest.mark.feature("S1.2", "X.19")
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_about_a_job_or_a_range_of_time_reads_few_rows(
    filled: psycopg.Connection[Any], name: str
) -> None:
    row = filled.execute(f"select {JOB}").fetchone()
    assert row is not None
    query = QUESTIONS[name].format(job=f"'{row[0]}'", ids=IDS, second=SECOND)

    ((found,),) = filled.execute("explain (analyze, buffers, format json) " + query).fetchall()  # type: ignore[operator]

    plan = found[0]["Plan"]
    scanned = [
        node["Relation Name"]
        for node in nodes(plan)
        if node["Node Type"] == "Seq Scan" and node["Relation Name"].startswith(BIG) and node["Actual Rows"] > 0
    ]
    assert scanned == []
    assert plan["Actual Rows"] > 0
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 2_000, found[0]["Execution Time"]


@pytest.mark.feature("S1.2")
def test_an_id_in_metadata_that_is_none_is_not_an_error(filled: psycopg.Connection[Any]) -> None:
    assert filled.execute("select count(workflow_instance_id) from taskflow.task_instances").fetchone() == (0,)


@pytest.mark.feature("S1.2")
def test_an_instance_has_the_state_that_job_states_has(filled: psycopg.Connection[Any]) -> None:
    (one, two, three, *_) = filled.execute("select id from taskflow.jobs order by id desc limit 3").fetchall()
    lease = (
        "insert into taskflow.leases (job_id, exec_id, started, started_at, shard, priority, attempt, tries, queue,"
        " task) values (%s, %s, %s, now(), 0, 5, 2, 1, 'q', '')"
    )
    filled.execute(lease, [one[0], one[0], True])
    filled.execute(lease, [two[0], two[0], False])
    filled.execute("delete from taskflow.deferred where job_id = %s", [three[0]])

    found = filled.execute(
        "select i.state, i.status, count(*) from taskflow.task_instances i group by 1, 2 order by 1"
    ).fetchall()
    differing = filled.execute(
        "select count(*) from taskflow.task_instances i join taskflow.job_states s using (id)"
        " where (i.state, i.attempts, i.started_at, i.ended_at) is distinct from"
        " (s.state, s.attempt, s.started_at, s.finished_at)"
    ).fetchone()

    assert differing == (0,)
    assert {(state, status) for state, status, _ in found} == {
        ("running", "running"), ("requested", "running"), ("retrying", "retry"), ("succeeded", "success"),
    }  # fmt: skip


# -- the role ------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(database: str, filled: psycopg.Connection[Any]) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database) as conn:
        conn.execute("set role taskflow_reader")
        yield conn
        conn.rollback()


@pytest.mark.feature("S1.2")
@pytest.mark.parametrize("view", COLUMNS)
def test_the_role_reads_a_view_of_history(reader: psycopg.Connection[Any], view: str) -> None:
    """Every value of every row: what a view calls is asked for its rights when it is called."""
    whole = composed.SQL("select count(v::text) from taskflow.{} v").format(composed.Identifier(view))
    ((count,),) = reader.execute(whole).fetchall()

    assert count > 0 or view.startswith(("workflow", "schedule"))


@pytest.mark.feature("S1.2")
def test_the_role_reads_and_writes_nothing_else(database: str, reader: psycopg.Connection[Any]) -> None:
    names = (
        "select relname from pg_class where relnamespace = 'taskflow'::regnamespace and relkind in ('r', 'p', 'v', 'S')"
        " and has_table_privilege(oid, 'select, insert, update, delete, truncate')"
    )
    assert sorted(row[0] for row in reader.execute(names)) == sorted(COLUMNS)

    for statement in ("select * from taskflow.jobs", "select * from taskflow.job_states",
                      "delete from taskflow.task_attempts", "create table taskflow.mine ()"):  # fmt: skip
        with pytest.raises(psycopg.errors.InsufficientPrivilege), reader.transaction():
            reader.execute(statement)
    assert reader.execute("select rolcanlogin from pg_roles where rolname = 'taskflow_reader'").fetchone() == (False,)


@pytest.mark.feature("S1.2", "X.28")
def test_a_user_who_may_not_make_roles_migrates_and_is_told_who_must(postgres: str) -> None:
    """On this server the role is there: it is renamed meanwhile, as on one where no administrator has made it."""
    if os.environ.get("TASKFLOW_TEST_DATABASE_URL"):
        pytest.skip("a role is of the whole server, which others may use, too")
    name, owner = f"plain_{os.getpid()}", f"plain_owner_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as admin:
        if admin.execute("select to_regrole('taskflow_reader')").fetchone() == (None,):
            admin.execute("create role taskflow_reader nologin")
        admin.execute(f"create role {owner} login password 'plain' nocreaterole".encode())
        admin.execute(f"create database {name} owner {owner}".encode())
        admin.execute("alter role taskflow_reader rename to taskflow_reader_away")
    try:
        host = psycopg.conninfo.conninfo_to_dict(postgres)
        dsn = f"postgresql://{owner}:plain@{host.get('host')}:{host.get('port', 5432)}/{name}"

        first = CliRunner().invoke(db, ["migrate", "--database-url", dsn])
        with psycopg.connect(postgres, autocommit=True) as admin:
            admin.execute("create role taskflow_reader nologin")
        second = CliRunner().invoke(db, ["migrate", "--database-url", dsn])

        assert (first.exit_code, second.exit_code) == (0, 0), first.output + second.output
        assert "applied 0021" in first.stdout
        assert "administrator run `create role taskflow_reader nologin;`" in first.stderr
        assert (second.stdout, second.stderr) == ("nothing to do\n", "")
        with psycopg.connect(pg.with_database(postgres, name)) as conn:
            conn.execute("set role taskflow_reader")
            assert conn.execute("select count(*) from taskflow.events").fetchone() == (0,)
    finally:
        pg.drop_database(postgres, name)
        with psycopg.connect(postgres, autocommit=True) as admin:
            admin.execute("drop role if exists taskflow_reader")
            admin.execute("alter role taskflow_reader_away rename to taskflow_reader")
            admin.execute(f"drop role if exists {owner}".encode())


@pytest.mark.feature("S1.2")
def test_the_time_line_says_nothing_of_a_job_twice(filled: psycopg.Connection[Any]) -> None:
    row = filled.execute("select job_id from taskflow.job_actions order by job_id limit 1").fetchone()
    assert row is not None and isinstance(row[0], UUID)

    found = filled.execute(
        "select event, actor, attempt from taskflow.events where job_id = %s order by at, attempt", [row[0]]
    ).fetchall()

    assert sorted(found) == sorted([
        ("cancel_requested", "ann@laptop", 0), ("started", "w1", 1), ("submitted", '{"user": "u1"}', 0),
        ("succeeded", "w1", 1),
    ])  # fmt: skip
