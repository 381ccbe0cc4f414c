"""Connections: a pool for reads, and dedicated ones for the writers that commit in batches.

What holds: no wait is unbounded (connect, statement, lock and TCP time-outs), every OperationalError becomes
Unavailable, and a connection that failed is not used again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import AsyncRowFactory, dict_row, tuple_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from services.core.errors import NotOwner, Unavailable
from services.store.queries import sql

FENCED = "TF001"
Row = dict[str, Any]


class CommitUnknown(Unavailable):
    """The connection broke while COMMIT was under way: it may have happened, or may yet happen."""


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
        "options": f"-c statement_timeout={seconds * 1000} -c jit=off -c idle_in_transaction_session_timeout=30000",
    }


@contextmanager
def translated() -> Iterator[None]:
    """Postgres being away, or the fence, in our own words."""
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout, TimeoutError) as error:
        if getattr(error, "sqlstate", None) == FENCED:
            raise NotOwner(str(error)) from error
        message = f"the database does not answer ({_short(error)}); try again"
        raise Unavailable(message, "DATABASE_UNAVAILABLE") from error
    except psycopg.Error as error:
        if error.sqlstate == FENCED:
            raise NotOwner(str(error)) from error
        raise


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
            open=False,
            reconnect_timeout=60,
        )

    async def open(self) -> None:
        """Unavailable when Postgres does not answer within the time-out; the message names where it was sought."""
        await self._pool.open()
        try:
            await self._pool.wait(self.timeout)
        except PoolTimeout:
            await self._pool.close()
            where = psycopg.conninfo.conninfo_to_dict(self.url)
            raise Unavailable(
                f"no Postgres answers at {where.get('host', 'localhost')}:{where.get('port', 5432)}"
                f" as {where.get('user', '')!r}, database {where.get('dbname', '')!r}"
            ) from None

    async def close(self) -> None:
        await self._pool.close()

    def pool(self, number: str) -> int:
        """One of psycopg_pool's numbers: `pool_size`, `pool_available`, `requests_waiting`. From any thread."""
        return self._pool.get_stats().get(number, 0)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[Row]]:
        with translated():
            try:
                async with self._pool.connection() as conn:
                    yield conn
            except psycopg.OperationalError:
                await self._pool.check()  # after a restart every idle connection is stale: find all of them now
                raise

    async def rows(self, query: str, /, **parameters: Any) -> list[Row]:
        """Runs a named query that may be repeated; tries once more on a stale connection."""
        for last in (False, True):
            try:
                async with self.connection() as conn:
                    cursor = await conn.execute(sql(query), parameters)
                    return await cursor.fetchall() if cursor.description else []
            except Unavailable:
                if last:
                    raise
        raise AssertionError

    async def run(self, query: str, /, **parameters: Any) -> int:
        """Runs a named statement once; the number of rows that it touched."""
        async with self.connection() as conn:
            return (await conn.execute(sql(query), parameters)).rowcount


class Writer:
    """A connection of its own for one writer; connects when first used and after a failure."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 5.0,
        settings: str = "",
        prepare: Callable[[AsyncConnection[Any]], None] = lambda conn: None,
    ) -> None:
        self._url = url
        self._timeout = timeout
        self._settings = settings
        self._prepare = prepare
        self._conn: AsyncConnection[Any] | None = None

    async def connection(self, factory: AsyncRowFactory[Any] = tuple_row) -> AsyncConnection[Any]:
        if self._conn is None or self._conn.closed or self._conn.broken:
            parameters = _parameters(self._timeout)
            parameters["options"] += self._settings
            self._conn = await AsyncConnection.connect(self._url, **parameters, row_factory=factory)
            self._prepare(self._conn)
        return self._conn

    async def reset(self) -> None:
        """Ends whatever is under way: rolled back, or the connection dropped."""
        conn, self._conn = self._conn, None
        if conn is not None:
            await conn.close()

    async def end_blockers(self) -> None:
        """Ends the backends that hold a lock for which this connection waits."""
        assert self._conn is not None
        pid = self._conn.info.backend_pid
        async with await AsyncConnection.connect(self._url, **_parameters(self._timeout)) as other:
            await other.execute(sql("end_blockers"), {"pid": pid})

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection on which the caller sends BEGIN and COMMIT itself; after any error it is dropped."""
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
    """Sends `statements` and COMMIT, and BEGIN before them if asked, in one pipeline; the rows that each touched.

    A COMMIT of a failed transaction answers ROLLBACK without an error: its tag is looked at. CommitUnknown when the
    connection broke in here.
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
            raise CommitUnknown(f"the answer to COMMIT was lost ({_short(error)})", "COMMIT_UNKNOWN") from error
        raise
