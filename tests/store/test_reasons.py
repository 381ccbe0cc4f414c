"""Why a database cannot be had is one line: what is wrong, the cure, and never the password."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from taskflow_server.core.errors import Unavailable
from taskflow_server.store.database import Database
from taskflow_server.store.migrate import MigrationError, migrate, migrations
from taskflow_server.store.reasons import BadUrl, place
from tests.support import forkserver
from tests.support import postgres as pg
from tests.support.pgbouncer import pgbouncer

# None of these may be shown.
PARTS = ("xyzzy", "plugh")


async def refusal(url: str, timeout: float = 0.3) -> str:
    """The error of opening the database."""
    db = Database(url, timeout=timeout)
    try:
        with pytest.raises(Unavailable) as refused:
            await db.open()
    finally:
        await db.close()
    said = str(refused.value)
    assert "\n" not in said
    assert not [part for part in PARTS if part in said]
    return said


UNREADABLE = {
    "postgresql+psycopg://me:xyzzyplugh@db/shop": "its scheme is 'postgresql+psycopg', not 'postgresql'",
    "mysql://me:xyzzyplugh@db/shop": "its scheme is 'mysql', not 'postgresql'",
    "postgresql//me:xyzzyplugh@db/shop": "not a valid URL of Postgres",
    "xyzzyplugh": "not a valid URL of Postgres",
    "": "it is empty",
    "postgresql://me:xyzzyplugh@db/shop\n": "a space or a line break at an end",
    " postgresql://me:xyzzyplugh@db/shop": "a space or a line break at an end",
    "postgresql://me:xyzzy\tplugh@db/shop": "a control character",
    "postgresql://me:xyzzy@plugh@db/shop": "must be percent-encoded",
    "postgresql://me:xyzzy/plugh@db/shop": "must be percent-encoded",
    "postgresql://me:xyzzy%plugh@db/shop": "must be percent-encoded",
    "postgresql://me:xyzzy@plugh/x@db/shop": "must be percent-encoded",
    "postgresql://me:xyzzyplugh@db:none/shop": "its port must be a number",
    "postgresql://me:xyzzyplugh@db:99999/shop": "its port must be a number",
    "postgresql://me@db:none/shop": "its port must be a number",
    "postgresql://me:x@db/shop?xyzzyplugh=1": "Postgres does not know a parameter",
    "jdbc:postgresql://db/shop?user=me&password=xyzzyplugh": "its scheme is 'jdbc:postgresql', not 'postgresql'",
    "'postgresql://me:xyzzyplugh@db/shop'": "it begins with a quotation mark",
    "host=db password=xyzzyplugh port=none": "its port must be a number",
    "host=db password=xyzzy plugh": "not a valid URL of Postgres",
}


@pytest.mark.parametrize("url", UNREADABLE)
async def test_a_url_that_names_no_database_is_refused_without_its_password(url: str) -> None:
    assert UNREADABLE[url] in await refusal(url)


@pytest.mark.parametrize("url", ["postgresql://me:p%40ss%2Fw%25rd@db/shop", "postgresql://me:a?b#c[d&e@db/shop"])
def test_a_password_with_any_character_can_be_written(url: str) -> None:
    assert str(place(url)) == "db:5432/shop"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@[::1]:6000/shop", "[::1]:6000/shop"),
        ("postgresql://me:pw@a:6000,b:6000/shop", "a:6000,b:6000/shop"),
        ("postgresql:///shop", "localhost:5432/shop"),
        ("host=db dbname=shop password=pw", "db:5432/shop"),
    ],
)
def test_what_is_shown_of_a_url_is_where_it_leads(url: str, shown: str) -> None:
    assert str(place(url)) == shown


def test_a_url_with_a_part_that_is_secret_is_no_place() -> None:
    with pytest.raises(BadUrl):
        place("postgresql://me:p@ss@db/shop")


async def test_each_refusal_of_postgres_has_its_line(postgres: str) -> None:
    info = conninfo_to_dict(postgres)
    at = f"{info['host']}:{info['port']}"
    good = f"postgresql://{info['user']}:{info.get('password') or ''}@{at}"

    wrong = await refusal(f"postgresql://{info['user']}:xyzzyplugh@{at}/{info['dbname']}")
    later = await refusal(f"postgresql://{info['user']}:xyzzyplugh@{at},127.0.0.1:1/{info['dbname']}")
    absent = await refusal(f"{good}/no_such_database")
    tls = await refusal(f"{good}/{info['dbname']}?sslmode=require")
    mode = await refusal(f"{good}/{info['dbname']}?sslmode=none")

    assert wrong.startswith("the user or the password is wrong (FATAL:  password authentication failed")
    assert later == wrong, "of several hosts, the one that answered"
    assert absent == (
        'FATAL:  database "no_such_database" does not exist; create it: `create database "no_such_database"'
        " encoding 'UTF8' template template0`"
    )
    assert tls.startswith("the server has no TLS, and the URL wants it (server does not support SSL")
    assert "not a valid URL of Postgres" in mode


@asynccontextmanager
async def answering(said: str) -> AsyncIterator[str]:
    """A server that lets nobody in, with these words; the URL of it."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if await reader.readexactly(size - 4) == (80877103).to_bytes(4, "big"):  # whether it speaks TLS
            writer.write(b"N")
            size = int.from_bytes(await reader.readexactly(4), "big")
            await reader.readexactly(size - 4)
        fields = b"SFATAL\0VFATAL\0C08P01\0M" + said.encode() + b"\0\0"
        writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        yield f"postgresql://me:xyzzyplugh@127.0.0.1:{server.sockets[0].getsockname()[1]}/shop?gssencmode=disable"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            'no pg_hba.conf entry for host "10.0.0.1", user "me", database "shop", no encryption',
            "the server wants TLS",
        ),
        (
            'no pg_hba.conf entry for host "10.0.0.1", user "me", database "shop", SSL encryption',
            "the server's pg_hba.conf does not admit this connection",
        ),
        ("no such database: shop", "a pooler in front of Postgres refuses"),
        ("unsupported startup parameter: options", "a pooler in front of Postgres refuses"),
        ("no more connections allowed (max_client_conn)", "a pooler in front of Postgres refuses"),
        ("sorry, too many clients already", "Postgres has no connection left"),
        ('role "me" does not exist', 'create it: `create role "me"'),
        ("something new", "refuses: FATAL:  something new"),
    ],
)
async def test_each_refusal_of_servers_that_are_not_here_has_its_line(answer: str, words: str) -> None:
    async with answering(answer) as url:
        said = await refusal(url)

    assert words in said
    assert "no Postgres answers" not in said


async def test_a_server_that_is_not_postgres_is_named() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(8)  # the question for TLS
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        at = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        said = await refusal(f"postgresql://me:xyzzyplugh@{at}/shop?gssencmode=disable")

    assert said.startswith(f"the server at {at}/shop is not Postgres (")


async def test_only_where_nothing_answers_no_postgres_answers() -> None:
    silent = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    async with silent:
        hangs = await refusal(f"postgresql://me:xyzzyplugh@127.0.0.1:{silent.sockets[0].getsockname()[1]}/shop")

    assert (await refusal("postgresql://me:xyzzyplugh@127.0.0.1:1/shop")).startswith(
        "no Postgres answers at 127.0.0.1:1/shop: Connection refused"
    )
    assert "no answer of Postgres at 127.0.0.1" in hangs


@pytest.fixture
def weak(database: str, postgres: str) -> Iterator[str]:
    """The dsn of a role without any right in the module's database."""
    name = f"weak_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login password 'xyzzyplugh'").format(sql.Identifier(name)))
    info = conninfo_to_dict(database)
    yield f"postgresql://{name}:xyzzyplugh@{info['host']}:{info['port']}/{info['dbname']}"
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
        conn.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


async def test_a_right_that_lacks_is_named_with_the_grant_that_gives_it(weak: str, database: str) -> None:
    role = conninfo_to_dict(weak)["user"]

    def granted(statement: str) -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute(statement.encode())

    schema = await refusal(weak)
    assert schema.endswith(f'GRANT usage ON schema taskflow TO "{role}"')
    granted(schema.rpartition("; ")[2])
    tables = await refusal(weak)
    assert tables.endswith(f'GRANT select, insert, update, delete ON all tables in schema taskflow TO "{role}"')
    granted(tables.rpartition("; ")[2])
    db = Database(weak)
    await db.open()
    await db.close()

    granted(f'revoke insert on taskflow.queues from "{role}"')
    db = Database(weak)
    await db.open()
    try:
        with pytest.raises(
            Unavailable, match=r"GRANT .* ON all tables in schema taskflow TO the role of TASKFLOW_DATA"
        ):
            await db.run("create_queues", names=["q"], shards=[1])
    finally:
        await db.close()


# -- the schema -----------------------------------------------------------------------------------------------


@pytest.fixture
def empty(postgres: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The dsn of a database without anything."""
    name = f"reasons_{os.getpid()}_{abs(hash(request.node.name)) % 10**6}"
    pg.drop_database(postgres, name)
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    yield pg.with_database(postgres, name)
    pg.drop_database(postgres, name)


def change(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement.encode())


async def test_a_service_refuses_a_schema_that_is_not_its_own(empty: str) -> None:
    last = migrations()[-1].name

    assert "has no schema of TaskFlow yet; run `taskflow db migrate`" in await refusal(empty)
    await migrate(empty)
    change(
        empty,
        "update taskflow.migrations set name = '9999_later' where name = (select max(name) from taskflow.migrations)",
    )
    assert "has migration 9999_later, which this version does not know: upgrade TaskFlow" in await refusal(empty)
    change(empty, "delete from taskflow.migrations where name = '9999_later'")
    assert f"is older than this version: 1 migrations are pending, from {last} on; run `taskflow db m" in await refusal(
        empty
    )
    change(empty, "update taskflow.migrations set checksum = 'x'")
    assert "0001_" in (said := await refusal(empty))
    assert "was changed after it was applied" in said


@pytest.mark.parametrize("service", ["scheduler", "coordinator"])
def test_a_service_on_an_empty_database_says_so_in_one_line(service: str, empty: str) -> None:
    env = {**os.environ, "TASKFLOW_DATABASE_URL": empty, "TASKFLOW_PORT": "1", "TASKFLOW_METRICS_PORT": "0"}
    command = [sys.executable, "-m", "taskflow_server.cli", service]

    done = forkserver.run(command, env=env)

    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("TASKFLOW_DATABASE_URL: database 'reasons_")
    assert done.stderr.endswith("run `taskflow db migrate`\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "statement", ["create table taskflow.migrations (id integer)", "create view taskflow.x as select 1"]
)
async def test_a_schema_of_another_application_is_left_alone(empty: str, statement: str) -> None:
    change(empty, f"create schema taskflow; {statement}")

    with pytest.raises(MigrationError, match="belongs to another application"):
        await migrate(empty)
    assert "belongs to another application" in await refusal(empty)
    with psycopg.connect(empty) as conn:
        count = "select count(*) from pg_class where relnamespace = 'taskflow'::regnamespace"
        assert conn.execute(count).fetchone() == (1,)


async def test_a_schema_that_an_administrator_made_for_us_is_taken(empty: str) -> None:
    change(empty, "create schema taskflow")

    assert len(await migrate(empty)) == len(migrations())


# -- poolers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transaction", "statement"])
async def test_a_pooler_of_transactions_is_refused_at_the_start(database: str, mode: str) -> None:
    with pgbouncer(database, mode) as pooled:
        said = await refusal(pooled, timeout=5)
        with pytest.raises((MigrationError, psycopg.Error), match=r"pooler|pooling"):
            await migrate(pooled)

    assert "a pooler in front of Postgres pools" in said
    assert "docs/operations/poolers.md" in said


async def test_a_pooler_s_own_refusals_are_told(database: str) -> None:
    with pgbouncer(database, "session") as pooled:
        said = await refusal(pooled.rpartition("/")[0] + "/none")

    assert said.startswith("a pooler in front of Postgres refuses (FATAL:  no such database: none)")


async def test_migrations_run_through_a_pooler_of_sessions(empty: str) -> None:
    with pgbouncer(empty, "session") as pooled:
        assert len(await migrate(pooled)) == len(migrations())
        db = Database(pooled)
        await db.open()
        assert await db.rows("paused_queues", shards=[0]) == []
        await db.close()
