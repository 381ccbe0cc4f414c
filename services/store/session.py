"""The settings of a session that results depend on, set for every connection in one place.

The defaults of a server, a database or a role may differ from them: after `alter database … set datestyle` the driver
misreads a time. They are set by the first statement of a connection, never by `options` of its startup: a
pooler such as PgBouncer refuses options that it does not know. A pooler must give each connection a session of its own
(`pool_mode = session`): advisory locks, prepared statements and these settings belong to the session.

`synchronous_commit` and `default_transaction_read_only` are the operator's, and are left as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from taskflow_server.store.queries import sql
from taskflow_server.store.reasons import POOLERS, Unusable

ENCODING: Final = "UTF8"

_RESULTS: Final[Mapping[str, str]] = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "search_path": "pg_catalog",  # every name of ours says its schema; no other schema may stand in front
    "client_encoding": ENCODING,
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",  # the shortest text that gives the same number
    "array_nulls": "on",
    "transform_null_equals": "off",
    "default_transaction_isolation": "read committed",  # fences and takeovers read what others have committed since
    "default_transaction_deferrable": "off",
}
_LIMITS: Final[Mapping[str, str]] = {
    "lock_timeout": "0",  # 0: the statement timeout alone limits a wait for a lock
    "idle_session_timeout": "0",  # connections of a pool, and of a writer without work, stay open
    "idle_in_transaction_session_timeout": "30s",
    "jit": "off",
}


def is_bad_url(error: BaseException) -> bool:
    """Whether the driver could not read a URL. Its text repeats the password: say BAD_URL instead."""
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None


class WrongEncoding(Unusable):
    """The database cannot hold every text that a job may have; the message says how to create one that can."""


class SharedSessions(Unusable):
    """A pooler gives a connection another session for each transaction."""

    def __init__(self) -> None:
        super().__init__(
            "a pooler in front of Postgres pools transactions, and TaskFlow needs sessions of its own: set its"
            f" pool_mode to session, or give the URL of Postgres itself ({POOLERS})"
        )


def of_a_session(seconds: float = 0.0, /, **more: str) -> dict[str, str]:
    """The settings of a session whose statements may take `seconds` (0: without limit), and `more` for it alone."""
    return {**_RESULTS, **_LIMITS, "statement_timeout": f"{round(seconds * 1000)}ms", **more}


def check_encoding(conn: psycopg.Connection[Any] | AsyncConnection[Any]) -> None:
    """Raises WrongEncoding for a database that is not in UTF-8."""
    found = conn.info.parameter_status("server_encoding")
    if found != ENCODING:
        raise WrongEncoding(
            f"the encoding of database {conn.info.dbname!r} is {found}, not {ENCODING}; "
            f"create it with: create database … encoding '{ENCODING}' template template0"
        )


async def configure(conn: AsyncConnection[Any], settings: Mapping[str, str]) -> int:
    """Makes a new connection one of ours; the number of its backend, which `conn.info` does not know behind a pooler.
    WrongEncoding when its database cannot be used."""
    check_encoding(conn)
    names_and_values = {"names": list(settings), "values": list(settings.values())}
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sql("set_session"), names_and_values, prepare=False)
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def backend(conn: AsyncConnection[Any]) -> int:
    """The number of the backend that serves `conn` now."""
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sql("backend"), prepare=False)
        row = await cursor.fetchone()
    assert row is not None
    return int(row[0])


async def check_own_sessions(first: AsyncConnection[Any], second: AsyncConnection[Any], mine: int) -> None:
    """Raises SharedSessions when two connections share sessions. `mine`: the backend that `first` had at its start.

    A pooler of transactions gives the session that became free last: `second`, inside a transaction, has that of
    `first`, or has made `first` move to another.
    """
    await second.execute("begin")
    if mine == await backend(second) or mine != await backend(first):
        raise SharedSessions
