"""The connection of `taskflow verify`: it reads, one statement and snapshot after the other, and cannot write."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import dict_row

from taskflow_server.core.errors import Unavailable
from taskflow_server.store.database import Row, Writer, translated
from taskflow_server.store.errors import count, short
from taskflow_server.store.lane_reader import NO_SCANS
from taskflow_server.store.migrate import check_schema
from taskflow_server.store.queries import sql
from taskflow_server.store.reasons import Unusable, why

# A page takes tens of milliseconds. It looks up what belongs to its rows: the plan that looks best to a planner without
# statistics may scan or hash all that there is, for each page. Workers of a parallel plan would take processor time
# from the services.
SETTINGS = {
    **NO_SCANS,
    "default_transaction_read_only": "on",
    "statement_timeout": "10min",
    "max_parallel_workers_per_gather": "0",
}


class History:
    """Named queries over one database."""

    def __init__(self, conn: AsyncConnection[Row]) -> None:
        self._conn = conn

    async def rows(self, query: str, /, **parameters: Any) -> list[Row]:
        """The rows of a query, in a snapshot of its own. Unavailable, also where a right is missing."""
        try:
            with translated():
                return await (await self._conn.execute(sql(query), parameters)).fetchall()
        except psycopg.Error as error:  # a stored value on which the query fails: no answer, and no finding either
            raise Unavailable(f"{query} cannot read a row ({short(error)}); please report it") from error

    async def row(self, query: str, /, **parameters: Any) -> Row:
        """Its only row."""
        (found,) = await self.rows(query, **parameters)
        return found


@asynccontextmanager
async def history(url: str, *, timeout: float = 5.0) -> AsyncIterator[History]:
    """Unavailable when the database cannot be had, or its schema is not the one of this code."""
    writer = Writer(url, timeout=timeout, settings=SETTINGS)
    try:
        try:
            conn = await writer.connection(dict_row)
            await check_schema(conn)
        except Unusable as error:
            raise Unavailable(str(error)) from None
        except (psycopg.Error, TimeoutError) as error:
            count(error)
            raise Unavailable(why(error, url).text, "DATABASE_UNAVAILABLE") from error
        yield History(conn)
    finally:
        await writer.reset()
