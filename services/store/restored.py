"""A database that was dumped in one Postgres cluster and restored into another (protocol C3).

Jobs, and the marks of lanes, hold numbers of transactions, and a cluster gives its own. After a restore into a cluster
that has counted less far, new jobs would be stamped with numbers below the marks, and never be read. `mend` sets the
offset that the database adds to the numbers of its cluster, so that all new ones lie above all old ones.

What holds after it, also when services ran in between: each unfinished job is beyond its lane's mark, in `deferred`, or
in `leases`. Nothing is changed in a database whose numbers fit.
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
    """`reached`: how far this cluster has counted, offset included. `marks` and `jobs`: the highest numbers in them."""

    tx_offset: int
    reached: int
    marks: int
    jobs: int

    @property
    def foreign(self) -> bool:
        """Some numbers were given by another cluster, which had counted further than this one has."""
        return self.marks > self.reached or self.jobs >= self.reached

    @property
    def offset_wanted(self) -> int:
        """The least with which every new number lies above all that are there."""
        return self.tx_offset + max(self.marks, self.jobs) + 1 - self.reached


@dataclass(frozen=True, slots=True)
class Mended:
    """The offset that was set, and how many jobs wait in `deferred` because no lane would have brought them."""

    tx_offset: int
    deferred: int

    def __str__(self) -> str:
        also = f"; {self.deferred:,} jobs that lanes had passed over wait again" if self.deferred else ""
        return f"this database comes from another Postgres cluster: transaction numbers go on above its last one{also}"


async def look(dsn: str) -> Numbers:
    """The numbers of a database. Writes nothing; all are 0 before the migration that brings the offset."""
    async with session(dsn) as conn:
        return await _look(conn)


async def mend(dsn: str) -> Mended | None:
    """Sets the offset if numbers of another cluster are there; None where nothing had to be done.

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
                return None  # another one was quicker
            await conn.execute(sql("set_tx_offset"), {"tx_offset": numbers.offset_wanted})
            deferred = (await conn.execute(sql("defer_passed_over"))).rowcount
            # Last: a takeover that waits for these rows ends the one that holds them (A1).
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
