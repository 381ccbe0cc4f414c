"""Sessions mean the same on every server: whatever a database, or a role, says about times, texts and names."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskflow_server.core.errors import Unavailable
from taskflow_server.store import session
from taskflow_server.store.database import Database, Writer
from taskflow_server.store.migrate import MigrationError, migrate
from taskflow_server.store.prune import prune
from tests.support import forkserver
from tests.support import postgres as pg
from tests.support.hostile import make_hostile


@pytest.fixture(scope="module")
def hostile(database: str) -> str:
    """A migrated database whose defaults are not ours."""
    make_hostile(database)
    return database


@pytest.fixture
def other_encoding(postgres: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The dsn of an empty database in another encoding."""
    name = f"encoding_{os.getpid()}_{request.param.lower()}"
    pg.drop_database(postgres, name)
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"create database {name} encoding '{request.param}' locale 'C' template template0")
    yield pg.with_database(postgres, name)
    pg.drop_database(postgres, name)


async def pool_session(dsn: str, query: str) -> Any:
    db = Database(dsn)
    await db.open()
    try:
        async with db.connection() as conn:
            row = await (await conn.execute(query.encode())).fetchone()
            assert row is not None
            return tuple(row.values())
    finally:
        await db.close()


async def writer_session(dsn: str, query: str) -> Any:
    writer = Writer(dsn, settings={"enable_seqscan": "off"})
    try:
        async with writer.transaction() as conn:
            return await (await conn.execute(query.encode())).fetchone()
    finally:
        await writer.reset()


async def test_every_kind_of_session_has_the_same_settings(hostile: str) -> None:
    names = [name for name in session.of_a_session() if name != "statement_timeout"]
    query = "select array[" + ", ".join(f"current_setting('{name}')" for name in names) + "]"
    with psycopg.connect(hostile) as conn:
        theirs = dict(zip(names, (conn.execute(query).fetchone() or ([],))[0], strict=True))
    assert theirs["DateStyle"] == "SQL, DMY"
    assert theirs["TimeZone"] == "Asia/Tokyo"

    found = [await pool_session(hostile, query), await writer_session(hostile, query)]

    ours = session.of_a_session()
    assert [dict(zip(names, each, strict=True)) for (each,) in found] == [{name: ours[name] for name in names}] * 2


async def test_a_setting_of_one_writer_is_for_it_alone(hostile: str) -> None:
    assert await writer_session(hostile, "select current_setting('enable_seqscan')") == ("off",)
    assert await pool_session(hostile, "select current_setting('enable_seqscan')") == ("on",)


async def test_times_and_names_are_read_as_they_are_written(hostile: str) -> None:
    """`shadow.now()` would answer a time of the year 2000, if it stood in front of ours."""
    query = (
        "select taskflow.now() > '2020-01-01' as moved, interval '1 day 2 hours' as length,"
        " 0.1::float8 + 0.2::float8 as number, 'ö\\n' = E'ö\\\\n' as plain"
    )

    moved, length, number, plain = await pool_session(hostile, query)

    assert (moved, length.total_seconds(), number, plain) == (True, 93_600, 0.1 + 0.2, True)


async def test_migrations_and_a_prune_run_where_the_defaults_are_others(hostile: str) -> None:
    assert await migrate(hostile) == []
    report = await prune(hostile, keep=timedelta(days=30))

    assert len(report.days) >= 2


@pytest.mark.parametrize("other_encoding", ["SQL_ASCII", "LATIN1"], indirect=True)
async def test_a_database_that_is_not_in_utf8_is_refused_by_migrate_and_by_every_service(other_encoding: str) -> None:
    words = r"the encoding of database .* is (SQL_ASCII|LATIN1), not UTF8; create it with: create database"
    with pytest.raises(MigrationError, match=words):
        await migrate(other_encoding)
    with pytest.raises(Unavailable, match=words):
        await Database(other_encoding).open()


async def test_the_startup_asks_for_nothing_that_a_pooler_refuses() -> None:
    """PgBouncer ends a connection whose startup message has `options`."""
    asked: list[bytes] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        asked.append(await reader.readexactly(size - 4))
        writer.close()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unavailable):
            url = f"postgresql://me@127.0.0.1:{port}/db?sslmode=disable&gssencmode=disable"
            await Database(url, timeout=0.1).open()

    words = asked[0][4:].strip(b"\0").split(b"\0")
    assert set(words[::2]) <= {b"user", b"database", b"application_name", b"client_encoding"}


WRONG = [
    pytest.param("wrong-password", "password", id="a wrong password"),
    pytest.param("no-database", "does not exist", id="no such database"),
    pytest.param("sqlalchemy", "URL", id="a URL of another library"),
]


@pytest.mark.parametrize(("kind", "words"), WRONG)
def test_a_service_says_in_one_line_why_it_cannot_have_its_database(postgres: str, kind: str, words: str) -> None:
    info = psycopg.conninfo.conninfo_to_dict(postgres)
    where = f"{info['host']}:{info['port']}"
    url = {
        "wrong-password": f"postgresql://{info['user']}:swordfish@{where}/{info['dbname']}",
        "no-database": pg.with_database(postgres, "no_such_database"),
        "sqlalchemy": f"postgresql+psycopg://{info['user']}:swordfish@{where}/{info['dbname']}",
    }[kind]
    env = {**os.environ, "TASKFLOW_DATABASE_URL": url, "TASKFLOW_DATABASE_TIMEOUT": "0.5", "TASKFLOW_PORT": "1"}
    env["TASKFLOW_METRICS_PORT"] = "0"

    for service in ("scheduler", "coordinator"):
        done = forkserver.run([sys.executable, "-m", "taskflow_server.cli", service], env=env)

        assert done.returncode == 2, done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert done.stderr.startswith("TASKFLOW_DATABASE_URL: ")
        assert words in done.stderr
        assert "swordfish" not in done.stderr


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:xyzzyplugh@db/taskflow", "postgresql://me:xyzzy@plugh@db/x"])
@pytest.mark.parametrize("command", ["db migrate", "db status", "db doctor", "db prune", "db url", "up --free-ports"])
def test_no_command_shows_the_password_of_a_url_that_cannot_be_read(command: str, url: str, tmp_path: Path) -> None:
    words = [*command.split(), "--database-url", url, "--data-dir", str(tmp_path)]

    done = forkserver.run([sys.executable, "-m", "taskflow_server.cli", *words])

    assert done.returncode == 2
    assert "TASKFLOW_DATABASE_URL: not a valid URL of Postgres" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "xyzzy" not in done.stdout + done.stderr
    assert "plugh" not in done.stdout + done.stderr


def test_the_states_of_the_migrations_stand_below_each_other(database: str) -> None:
    words = [sys.executable, "-m", "taskflow_server.cli", "db", "status", "--database-url", database]
    lines = forkserver.run(words).stdout.splitlines()

    assert len({len(line) for line in lines}) == 1
    assert {line.split()[-1] for line in lines} == {"applied"}
    assert len({line.index(" 20") for line in lines}) == 1
