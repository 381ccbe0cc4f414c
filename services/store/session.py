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
    "search_path": "pg_catalog",  # TaskFlow's queries name their schema; no other schema may come first
    "client_encoding": ENCODING,
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
    "extra_float_digits": "1",  # the shortest text that represents the same number
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
    """Whether the URL is not valid for the driver. The error's text repeats the password: show BAD_URL instead."""
    return isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None


class WrongEncoding(Unusable):
    """The database's encoding cannot hold every text of a job; the message says how to create one that can."""


class SharedSessions(Unusable):
    """A pooler gives each transaction another session."""

    def __init__(self) -> None:
        super().__init__(
            "a pooler in front of Postgres pools transactions, and TaskFlow needs sessions of its own: set its"
            f" pool_mode to session, or give the URL of Postgres itself ({POOLERS})"
        )


def of_a_session(seconds: float = 0.0, /, **more: str) -> dict[str, str]:
    """The settings of a session with a statement timeout of `seconds` (0: no limit), and further settings."""
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
    """Applies the settings to a new connection. Returns the number of its backend, which `conn.info` lacks behind a
    pooler. WrongEncoding when the database cannot be used."""
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

    A pooler in transaction mode gives the session that became free last: `second`, inside a transaction, has that of
    `first`, or `first` now has another one.
    """
    await second.execute("begin")
    if mine == await backend(second) or mine != await backend(first):
        raise SharedSessions
