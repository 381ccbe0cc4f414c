"""Connections: a pool for reads, and dedicated ones for the writers that commit in batches.

Invariants: no wait is unbounded (timeouts for connect, statement, lock and TCP), every error that is not the fault of a
row becomes Unavailable (see errors.py), and a connection that failed is not used again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import AsyncRowFactory, dict_row, tuple_row
from psycopg.types.json import set_json_loads
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from taskflow_server.core.errors import NotOwner, Unavailable
from taskflow_server.store.errors import (
    FENCED,
    FENCED_OPEN,
    Fault,
    FencedOpen,
    bad_query,
    count,
    fault_of,
    short,
    unavailable,
)
from taskflow_server.store.migrate import check_schema
from taskflow_server.store.queries import sql
from taskflow_server.store.reasons import BadUrl, Unusable, place, why
from taskflow_server.store.session import check_own_sessions, configure, of_a_session

PROBE_PAUSE = 0.1  # seconds between two attempts at the first connection
# Seconds after which the pool restarts its attempts to connect, because the pauses between them would otherwise grow to
# the length of the outage; and seconds that a query waits for a connection while no attempt has succeeded.
RECONNECT, AWAY_PATIENCE = 1.0, 1.0


class Unreadable:
    """Stands for a JSON value that Python cannot hold, as one nested too deep: only the code that uses it fails."""

    def __init__(self, why: str) -> None:
        self.why = why

    def __repr__(self) -> str:
        return f"a value that cannot be read ({self.why})"


def _loads(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as fault:
        return Unreadable(f"{type(fault).__name__}: {fault}")


set_json_loads(_loads)  # for every connection: one such value must not fail the whole query
Row = dict[str, Any]


class CommitUnknown(Unavailable):
    """The connection broke during COMMIT: the commit may have happened, or may still happen."""


def _parameters(timeout: float) -> dict[str, Any]:
    seconds = max(2, round(timeout))
    return {
        "autocommit": True,
        "connect_timeout": seconds,
        "keepalives": 1,
        "keepalives_idle": seconds,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": seconds * 1000,
        "application_name": "taskflow",
    }


def _settings(timeout: float, /, **more: str) -> dict[str, str]:
    return of_a_session(max(2, round(timeout)), **more)


async def _connect(
    url: str, timeout: float, factory: AsyncRowFactory[Any] = tuple_row, /, **settings: str
) -> tuple[AsyncConnection[Any], int]:
    """A new connection with its session's settings, and the number of its backend. It is closed if they cannot be set
    in time."""
    try:
        conn = await AsyncConnection.connect(url, **_parameters(timeout), row_factory=factory)
    except psycopg.ProgrammingError as error:  # the URL is not valid, and the text repeats it with its password
        raise psycopg.OperationalError(short(error)) from None
    try:
        async with asyncio.timeout(max(2, round(timeout))):
            return conn, await configure(conn, _settings(timeout, **settings))
    except BaseException:
        await conn.close()
        raise


@contextmanager
def translated() -> Iterator[None]:
    """Translates errors of Postgres: NotOwner for a fence, FencedOpen for attempts that transactions hold, Unavailable
    for an outage, InternalFault for a query that cannot be sent. An error that is the fault of a row passes
    unchanged."""
    try:
        yield
    except (psycopg.Error, TimeoutError) as error:
        if getattr(error, "sqlstate", None) == FENCED:
            raise NotOwner(str(error)) from error
        if isinstance(error, psycopg.Error) and error.sqlstate == FENCED_OPEN:
            jobs = (error.diag.message_detail or "").split(",")
            raise FencedOpen(frozenset(UUID(job).bytes for job in jobs if job)) from error
        fault = fault_of(error)
        if fault is Fault.ROW:
            raise
        raise (bad_query(error) if fault is Fault.OURS else unavailable(error)) from error


class Database:
    """One Postgres, for one service."""

    def __init__(self, url: str, *, timeout: float = 5.0, pool_size: int = 4) -> None:
        self.url = url
        self.timeout = timeout
        self._pool: AsyncConnectionPool[AsyncConnection[Row]] = AsyncConnectionPool(
            url,
            kwargs={**_parameters(timeout), "row_factory": dict_row},
            min_size=1,
            max_size=pool_size,
            timeout=timeout,
            configure=self._configure,
            open=False,
            reconnect_timeout=RECONNECT,
            reconnect_failed=self._lost,
        )
        self._away = False  # connections were lost, and none has been made since

    def _lost(self, pool: AsyncConnectionPool[AsyncConnection[Row]]) -> None:
        self._away = True

    async def _configure(self, conn: AsyncConnection[Row]) -> None:
        async with asyncio.timeout(max(2, round(self.timeout))):
            await configure(conn, _settings(self.timeout))
        self._away = False

    async def open(self) -> None:
        """Unavailable, with the reason, when no session of this database can be opened within the timeout, and at once
        when its schema is not that of this code."""
        try:
            place(self.url)
        except BadUrl as fault:
            raise Unavailable(str(fault)) from None
        await self._probe()
        await self._pool.open()
        try:
            await self._pool.wait(self.timeout)
        except PoolTimeout as error:
            await self._pool.close()
            raise Unavailable(why(error, self.url).text) from None

    async def _probe(self) -> None:
        """Makes one connection before the pool does, because the pool reports only that it waited. Retries until the
        timeout: a server that starts at the same time refuses connections for a while."""
        deadline = asyncio.get_running_loop().time() + self.timeout
        while True:
            try:
                return await self._examine()
            except Unusable as error:
                raise Unavailable(str(error)) from None
            except (psycopg.Error, TimeoutError) as error:
                reason = why(error, self.url)
                if reason.answered or asyncio.get_running_loop().time() >= deadline:
                    raise Unavailable(reason.text) from None
            await asyncio.sleep(PROBE_PAUSE)

    async def _examine(self) -> None:
        """Checks that sessions of this database can be used; Unusable has the reason."""
        conn, mine = await _connect(self.url, self.timeout)
        async with conn, asyncio.timeout(max(2, round(self.timeout))):
            if mine != conn.info.backend_pid:  # a pooler is in between and invents such numbers
                other, _ = await _connect(self.url, self.timeout)
                async with other:
                    await check_own_sessions(conn, other, mine)
            await check_schema(conn)

    async def close(self) -> None:
        await self._pool.close()

    def pool(self, number: str) -> int:
        """A statistic of psycopg_pool: `pool_size`, `pool_available` or `requests_waiting`. Safe in any thread."""
        return self._pool.get_stats().get(number, 0)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Row]]:
        with translated():
            try:
                async with self._pool.connection(AWAY_PATIENCE if self._away else None) as conn:
                    yield conn
            except psycopg.errors.ReadOnlySqlTransaction:
                # The server was demoted, or the sessions date from when it was read-only: new ones may reach a primary.
                await self._pool.drain()
                raise
            except psycopg.OperationalError as error:
                self._away = self._away or error.sqlstate is None or error.sqlstate.startswith("57P")
                await self._pool.check()  # after a restart every idle connection is stale: find all of them now
                raise

    async def rows(self, query: str, /, **parameters: Any) -> list[Row]:
        """Runs a named query that may be repeated; retries once after a stale connection."""
        for last in (False, True):
            try:
                async with self.connection() as conn:
                    cursor = await conn.execute(sql(query), parameters)
                    return await cursor.fetchall() if cursor.description else []
            except Unavailable as error:
                if last or isinstance(error.__cause__, PoolTimeout):
                    raise
        raise AssertionError

    async def run(self, query: str, /, **parameters: Any) -> int:
        """Runs a named statement once and returns the number of affected rows. A read-only session has changed nothing,
        so the statement then runs on a new one."""
        for last in (False, True):
            try:
                async with self.connection() as conn:
                    return (await conn.execute(sql(query), parameters)).rowcount
            except Unavailable as error:
                if last or not isinstance(error.__cause__, psycopg.errors.ReadOnlySqlTransaction):
                    raise
        raise AssertionError


class Writer:
    """A dedicated connection for one writer; connects at its first use and after a failure."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        settings: Mapping[str, str] | None = None,
        prepare: Callable[[AsyncConnection[Any]], None] = lambda conn: None,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._settings = settings or {}
        self._prepare = prepare
        self._conn: AsyncConnection[Any] | None = None
        self._backend = 0  # the number of its backend

    async def connection(self, factory: AsyncRowFactory[Any] = tuple_row) -> AsyncConnection[Any]:
        if self._conn is None or self._conn.closed or self._conn.broken:
            self._conn, self._backend = await _connect(self._url, self._timeout, factory, **self._settings)
            self._prepare(self._conn)
        return self._conn

    async def reset(self) -> None:
        """Ends the open transaction: rolls it back, or drops the connection."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()

    async def end_blockers(self) -> list[str]:
        """Terminates the backends that hold a lock for which this connection waits. Returns those that its role may not
        terminate, each as `backend 4711 of role alice`."""
        assert self._conn is not None
        spared = []
        other, _ = await _connect(self._url, self._timeout)
        async with other:
            for blocker, role in await (await other.execute(sql("blockers"), {"pid": self._backend})).fetchall():
                try:
                    await other.execute(sql("end_backend"), {"pid": blocker})
                except psycopg.errors.InsufficientPrivilege:
                    spared.append(f"backend {blocker} of role {role}")
        return spared

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection on which the caller sends BEGIN and COMMIT; it is dropped after any error."""
        with translated():
            conn = await self.connection()
            try:
                yield conn
            except BaseException:
                await self.reset()
                raise


async def commit(
    conn: AsyncConnection[Any], statements: list[tuple[str, dict[str, Any]]], *, begin: bool = False
) -> list[int]:
    """Sends `statements` and COMMIT, optionally with BEGIN first, in one pipeline. Returns the rows affected by each.

    COMMIT of a failed transaction answers ROLLBACK without an error, so the tag is checked. CommitUnknown when the
    connection broke here.
    """
    try:
        cursors = []
        async with conn.pipeline():
            if begin:
                await conn.execute("begin")
            for name, parameters in statements:
                cursors.append(await conn.execute(sql(name), parameters))
            end = await conn.execute("commit")
        if end.statusmessage != "COMMIT":
            raise CommitUnknown(f"COMMIT answered {end.statusmessage}", "COMMIT_UNKNOWN")
        return [cursor.rowcount for cursor in cursors]
    except psycopg.OperationalError as error:
        if error.sqlstate is None or error.sqlstate.startswith(("57", "08")):
            count(error)
            raise CommitUnknown(f"the answer to COMMIT was lost ({short(error)})", "COMMIT_UNKNOWN") from error
        raise
