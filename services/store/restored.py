"""A database that was dumped in one Postgres cluster and restored into another (protocol C3).

Jobs and the marks of lanes have transaction numbers, which each cluster assigns. After a restore into a cluster with
lower numbers, new jobs would get numbers below the marks, and never be read. `mend` sets the offset that the database
adds to the numbers of its cluster, so that all new ones are above all old ones.

After it, even if services ran in between, each unfinished job is beyond its lane's mark, in `deferred`, or in `leases`.
A database whose numbers are right is not changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import class_row, tuple_row

from taskflow_server.store.migrate import limit_waits, session
from taskflow_server.store.queries import sql


@dataclass(frozen=True, slots=True)
class Numbers:
    """`reached`: the present number of this cluster, offset included. `marks`, `jobs`: the highest number in each."""

    tx_offset: int
    reached: int
    marks: int
    jobs: int

    @property
    def foreign(self) -> bool:
        """Whether some numbers come from another cluster, which had higher ones than this one has reached."""
        return self.marks > self.reached or self.jobs >= self.reached

    @property
    def offset_wanted(self) -> int:
        """The smallest offset that puts every new number above all stored ones."""
        return self.tx_offset + max(self.marks, self.jobs) + 1 - self.reached


@dataclass(frozen=True, slots=True)
class Mended:
    """The new offset, and the number of jobs put into `deferred` because no lane would have read them."""

    tx_offset: int
    deferred: int

    def __str__(self) -> str:
        also = f"; {self.deferred:,} jobs that lanes had passed over wait again" if self.deferred else ""
        return f"this database comes from another Postgres cluster: transaction numbers go on above its last one{also}"


async def look(dsn: str) -> Numbers:
    """The numbers of a database. Writes nothing; all are 0 before the migration that adds the offset."""
    async with session(dsn) as conn:
        return await _look(conn)


async def mend(dsn: str) -> Mended | None:
    """Sets the offset if there are numbers of another cluster; None when nothing had to be done.

    Services may run: calls that store jobs wait meanwhile, and coordinators take their shards over again. An error
    leaves nothing behind.
    """
    async with session(dsn) as conn:
        if not (await _look(conn)).foreign:
            return None
        await limit_waits(conn)
        async with conn.transaction():
            await conn.execute(sql("hold_new_jobs"))
            numbers = await _look(conn)
            if not numbers.foreign:
                return None  # another process has set it
            await conn.execute(sql("set_tx_offset"), {"tx_offset": numbers.offset_wanted})
            deferred = (await conn.execute(sql("defer_passed_over"))).rowcount
            # Last: a takeover that waits for these rows terminates the backend that holds them (A1).
            await conn.execute(sql("raise_epochs"))
        return Mended(numbers.offset_wanted, deferred)


async def _look(conn: AsyncConnection[Any]) -> Numbers:
    async with conn.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(sql("has_tx_offset"))
        row = await cursor.fetchone()
    if row is None or not row[0]:
        return Numbers(0, 0, 0, -1)
    async with conn.cursor(row_factory=class_row(Numbers)) as numbers:
        await numbers.execute(sql("transaction_numbers"))
        found = await numbers.fetchone()
    assert found is not None
    return found
