"""Forward-only migrations: data/migrations/NNNN_name.sql, each applied once, in order, in a transaction of its own.

Invariants: `taskflow.migrations` has one row for each applied file, with the checksum of its text. A file that was
changed after it was applied is refused, and so is a database with a migration that this code does not have. One
migrator runs at a time (an advisory lock of the session). A migration that does not get a lock within `LOCK_TIMEOUT`
fails and leaves nothing behind, so that the services' queries never queue behind it.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from taskflow_server.store.paths import data_dir
from taskflow_server.store.reasons import Unusable
from taskflow_server.store.session import check_own_sessions, configure, of_a_session

LOCK_TIMEOUT = "10s"
CONNECT_TIMEOUT = 10  # seconds
PARTITION_DAYS = 9  # yesterday, today, and a week ahead
_ADVISORY_KEY = 0x7461736B  # "task"
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_BOOKKEEPING = """
create schema if not exists taskflow;
create table if not exists taskflow.migrations (
    name       text primary key,
    checksum   text not null,
    applied_at timestamptz not null default now()
);
"""


_FOREIGN = (
    "the schema taskflow of database {database!r} belongs to another application, because it lacks TaskFlow's table of"
    " migrations: give TaskFlow a database of its own, or rename that schema"
)


class MigrationError(Exception):
    """The database and data/migrations do not match, or a migration failed; the text has the reason."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its text, in hex, with line ends as LF."""

    name: str
    text: str
    checksum: str


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """One migration, known to the code or to the database. `applied_at` is None while it is pending."""

    name: str
    applied_at: datetime | None
    problem: str | None = None

    @property
    def state(self) -> str:
        """`applied`, `pending`, or the problem in words."""
        return self.problem or ("applied" if self.applied_at else "pending")


def migrations(folder: Path | None = None) -> list[Migration]:
    """The files of data/migrations in order. Raises MigrationError for a wrong or doubled number."""
    found: list[Migration] = []
    numbers: set[str] = set()
    for path in sorted((folder or data_dir() / "migrations").glob("*.sql")):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            raise MigrationError(f"{path.name}: a migration's name is NNNN_words.sql")
        if match[1] in numbers:
            raise MigrationError(f"{path.name}: the number {match[1]} is taken twice")
        numbers.add(match[1])
        text = path.read_text(encoding="utf-8")  # universal newlines: the checksum is the same everywhere
        found.append(Migration(path.stem, text, hashlib.sha256(text.encode()).hexdigest()))
    return found


async def migrate(dsn: str, folder: Path | None = None) -> list[str]:
    """Applies pending migrations, then makes the partitions of the coming days. Returns the applied names, in order.

    Raises MigrationError when the database does not match the files, is not in UTF-8, or a statement fails (the failed
    file leaves nothing behind); psycopg.OperationalError when Postgres cannot be reached.
    """
    files = migrations(folder)
    async with session(dsn) as conn:
        await conn.execute("select pg_advisory_lock(%s)", (_ADVISORY_KEY,))  # before the timeout: another may take long
        await limit_waits(conn)
        if not await _has_bookkeeping(conn):
            await _refuse_foreign(conn)
            await conn.execute(_BOOKKEEPING)
        applied = await _applied(conn)
        pending = [file for file in files if _checked(file, applied, files)]
        for file in pending:
            await _apply(conn, file)
        await _make_partitions(conn)
        return [file.name for file in pending]


async def grant_roles(dsn: str) -> str:
    """Creates the roles taskflow_reader and taskflow_app if they are missing and this user may, with their grants.

    Returns the statements that an administrator must run first; empty when all is granted. psycopg.Error as `migrate`.
    """
    async with session(dsn) as conn:
        await limit_waits(conn)
        missing = [str(await _one(conn, f"select taskflow.{grant}()")) for grant in ("grant_reader", "grant_app")]
        return "; ".join(statement for statement in missing if statement)


@asynccontextmanager
async def session(dsn: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A session without a statement timeout: a migration of a large table takes its time."""
    async with await _connect(dsn) as conn:
        try:
            mine = await configure(conn, of_a_session(client_min_messages="warning"))
            if mine != conn.info.backend_pid:  # a pooler is in between
                async with await _connect(dsn) as other, asyncio.timeout(CONNECT_TIMEOUT):
                    await check_own_sessions(conn, other, mine)
        except Unusable as error:
            raise MigrationError(str(error)) from None
        yield conn


async def _connect(dsn: str) -> psycopg.AsyncConnection[tuple[object, ...]]:
    return await psycopg.AsyncConnection.connect(dsn, autocommit=True, connect_timeout=CONNECT_TIMEOUT)


async def check_schema(conn: psycopg.AsyncConnection[Any]) -> None:
    """Raises Unusable when the database's migrations are not exactly those of this code, which could then damage the
    data. The message names the cure."""
    files = migrations()
    database = conn.info.dbname
    try:
        if not await _has_bookkeeping(conn):
            await _refuse_foreign(conn)
            raise Unusable(f"database {database!r} has no schema of TaskFlow yet; run `taskflow db migrate`")
        applied = await _applied(conn)
        pending = [file.name for file in files if _checked(file, applied, files)]
    except MigrationError as error:
        raise Unusable(str(error)) from None
    if pending:
        raise Unusable(
            f"the schema of database {database!r} is older than this version: {len(pending)} migrations are pending,"
            f" from {pending[0]} on; run `taskflow db migrate`"
        )


async def status(dsn: str, folder: Path | None = None) -> list[MigrationStatus]:
    """All migrations of the code or the database, in order. Writes nothing."""
    files = {file.name: file for file in migrations(folder)}
    async with session(dsn) as conn:
        rows = await _applied(conn) if await _has_bookkeeping(conn) else {}
    found = []
    for name in sorted(files.keys() | rows.keys()):
        checksum, applied_at = rows.get(name, ("", None))
        problem = None
        if name not in files:
            problem = "applied, but missing in this version"
        elif applied_at and checksum != files[name].checksum:
            problem = "changed after it was applied"
        found.append(MigrationStatus(name, applied_at, problem))
    return found


async def limit_waits(conn: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    await conn.execute(sql.SQL("set lock_timeout = {}").format(LOCK_TIMEOUT))


async def _has_bookkeeping(conn: psycopg.AsyncConnection[Any]) -> bool:
    """Whether TaskFlow's table of migrations exists; another application's does not count."""
    columns = await _one(
        conn,
        "select count(*) from pg_attribute where attrelid = to_regclass('taskflow.migrations') and attnum > 0"
        " and not attisdropped and attname in ('name', 'checksum', 'applied_at')",
    )
    return columns == 3


async def _refuse_foreign(conn: psycopg.AsyncConnection[Any]) -> None:
    """Raises MigrationError when another application has a schema `taskflow` that is not empty."""
    if await _one(conn, "select exists (select from pg_class where relnamespace = to_regnamespace('taskflow'))"):
        raise MigrationError(_FOREIGN.format(database=conn.info.dbname))


async def _one(conn: psycopg.AsyncConnection[Any], query: LiteralString) -> object:
    """The only value of the only row."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query)
        row = await cursor.fetchone()
    return row[0] if row else None


async def _applied(conn: psycopg.AsyncConnection[Any]) -> dict[str, tuple[str, datetime]]:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("select name, checksum, applied_at from taskflow.migrations order by name")
        return {name: (checksum, at) for name, checksum, at in await cursor.fetchall()}


def _checked(file: Migration, applied: dict[str, tuple[str, datetime]], files: list[Migration]) -> bool:
    """Whether `file` is pending; raises when the applied migrations are not the first of this code's."""
    unknown = sorted(applied.keys() - {known.name for known in files})
    if unknown:
        raise MigrationError(
            f"the database has migration {unknown[-1]}, which this version does not know: upgrade TaskFlow"
        )
    if file.name in applied:
        if applied[file.name][0] != file.checksum:
            raise MigrationError(f"{file.name} was changed after it was applied: add a new migration instead")
        return False
    later = [name for name in applied if name > file.name]
    if later:
        raise MigrationError(f"{file.name} is pending, but {max(later)} is applied: give it a higher number")
    return True


async def _apply(conn: psycopg.AsyncConnection[tuple[object, ...]], file: Migration) -> None:
    try:
        async with conn.transaction():
            await conn.execute(file.text.encode())
            await conn.execute(
                "insert into taskflow.migrations (name, checksum) values (%s, %s)", (file.name, file.checksum)
            )
    except psycopg.OperationalError as error:
        if conn.broken:
            raise
        raise MigrationError(f"{file.name}: {_first_line(error)}") from error
    except psycopg.Error as error:
        raise MigrationError(f"{file.name}: {_first_line(error)}") from error


async def _make_partitions(conn: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    await conn.execute("select taskflow.create_partitions((now() at time zone 'UTC')::date - 1, %s)", (PARTITION_DAYS,))


def _first_line(error: psycopg.Error) -> str:
    return str(error).partition("\n")[0]
