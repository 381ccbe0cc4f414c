"""Daily partitions of jobs and attempts: created ahead, attached without stopping anybody, no default one."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from taskflow_server.store.migrate import PARTITION_DAYS

CREATE = "select taskflow.create_partitions(%s::date, %s)"
NAMES = "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass order by 1"


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(database, autocommit=True) as opened:
        opened.execute("set lock_timeout = '2s'")
        yield opened


def uuid7_at(instant: datetime) -> uuid.UUID:
    return uuid.UUID(int=int(instant.timestamp() * 1000) << 80 | 0x7 << 76 | 0x8 << 60)


def partition_of(conn: psycopg.Connection[Any], instant: datetime) -> str:
    row = conn.execute(
        "insert into taskflow.jobs (id, queue) values (%s, 'q') returning tableoid::regclass::text",
        (uuid7_at(instant),),
    ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.mark.feature("B7")
def test_a_new_database_has_yesterday_today_and_a_week_ahead(conn: psycopg.Connection[Any]) -> None:
    row = conn.execute("select (now() at time zone 'UTC')::date").fetchone()
    assert row is not None

    for parent in ("jobs", "attempts"):
        names = [name for (name,) in conn.execute(NAMES, (f"taskflow.{parent}",))]
        days = [row[0] + timedelta(days=offset) for offset in range(-1, PARTITION_DAYS - 1)]
        assert set(names) >= {f"taskflow.{parent}_p{day:%Y%m%d}" for day in days}


def test_a_day_ends_at_midnight_utc_exactly(conn: psycopg.Connection[Any]) -> None:
    conn.execute(CREATE, ("2031-03-30", 2))

    before = partition_of(conn, datetime(2031, 3, 30, 23, 59, 59, 999000, tzinfo=UTC))
    after = partition_of(conn, datetime(2031, 3, 31, tzinfo=UTC))

    assert (before, after) == ("taskflow.jobs_p20310330", "taskflow.jobs_p20310331")


def test_a_session_in_another_time_zone_makes_the_same_days(conn: psycopg.Connection[Any]) -> None:
    conn.execute("set timezone = 'Pacific/Kiritimati'")
    conn.execute(CREATE, ("2031-05-01", 1))

    assert partition_of(conn, datetime(2031, 5, 1, tzinfo=UTC)) == "taskflow.jobs_p20310501"
    with pytest.raises(psycopg.errors.CheckViolation):
        partition_of(conn, datetime(2031, 5, 2, tzinfo=UTC))


def test_making_them_twice_makes_them_once(conn: psycopg.Connection[Any]) -> None:
    first = conn.execute(CREATE, ("2031-07-01", 3)).fetchone()
    second = conn.execute(CREATE, ("2031-07-01", 4)).fetchone()

    assert (first, second) == ((6,), (2,))


@pytest.mark.feature("B7")
def test_there_is_no_default_partition(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        partition_of(conn, datetime(2099, 1, 1, tzinfo=UTC))


@pytest.mark.feature("B7")
def test_a_partition_is_attached_while_a_reader_and_a_writer_of_the_parent_are_open(
    conn: psycopg.Connection[Any], database: str
) -> None:
    with psycopg.connect(database) as reader, psycopg.connect(database) as writer:
        reader.execute("select count(*) from taskflow.jobs")
        writer.execute("insert into taskflow.jobs (id, queue) values (%s, 'q')", (uuid7_at(datetime.now(UTC)),))

        made = conn.execute(CREATE, ("2031-09-01", 1)).fetchone()

        assert made == (2,)
        writer.execute("insert into taskflow.jobs (id, queue) values (%s, 'q')", (uuid7_at(datetime.now(UTC)),))


def test_a_partition_has_the_indexes_of_its_parent_and_no_leftover_check(conn: psycopg.Connection[Any]) -> None:
    conn.execute(CREATE, ("2031-11-01", 1))

    indexes = [
        definition
        for (definition,) in conn.execute(
            "select indexdef from pg_indexes where schemaname = 'taskflow' and tablename = 'jobs_p20311101'"
        )
    ]
    checks = conn.execute(
        "select conname from pg_constraint"
        " where conrelid = 'taskflow.jobs_p20311101'::regclass and conname like '%_day'"
    ).fetchall()

    assert len(indexes) == 4, "the parent's three, and that of its times"
    assert any("(id)" in definition for definition in indexes)
    assert checks == []
