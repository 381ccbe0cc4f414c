"""Handlers' transactions that hold the end of their attempt (A17)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import psycopg

from taskflow_server.store.database import Database, Writer
from taskflow_server.store.queries import sql

GRANTED = 0.1  # seconds in which a lock is granted, unless another session has it
LOCK_SECONDS = 2  # then sessions that were terminated are still at it; they are looked for again


def lock_writer(url: str, timeout: float) -> Writer:
    """For `end_transactions`: none of its waits is longer than LOCK_SECONDS."""
    return Writer(url, timeout=timeout, settings={"lock_timeout": f"{LOCK_SECONDS}s"})


async def held_jobs(db: Database, jobs: Sequence[bytes]) -> frozenset[bytes]:
    """Those of these jobs whose attempts are held by a transaction."""
    rows = await db.rows("held_leases", ids=[UUID(bytes=job) for job in jobs])
    return frozenset(row["job_id"].bytes for row in rows)


async def end_transactions(writer: Writer, job: bytes) -> list[str]:
    """Terminates the sessions whose transactions hold the attempt of this job. Returns those that our role may not
    terminate, each as `backend 4711 of role alice`."""
    spared: list[str] = []
    async with writer.transaction() as conn:
        await conn.execute("begin")
        locking = asyncio.ensure_future(conn.execute(sql("lock_lease"), {"id": UUID(bytes=job)}))
        try:
            while not (await asyncio.wait({locking}, timeout=GRANTED))[0]:
                spared = await writer.end_blockers()
            locking.result()
        except psycopg.errors.LockNotAvailable:
            pass  # the caller looks again
        finally:
            locking.cancel()
        await conn.execute("rollback")
    return spared
