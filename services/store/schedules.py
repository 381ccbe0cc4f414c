"""Schedules and the ledger of their firings: jobs, ledger and cursors in one transaction, under the leader's term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from services.core.workflow import CancelRequested
from services.store.columns import columns
from services.store.database import Database, commit
from services.store.jobs import NewJob, insert_within
from services.store.queries import sql
from services.store.runs import NewRun, starting, told

ROLE = "schedules"


class FiringRow(NamedTuple):
    """A row of `firings`; one that makes a job, or a run, names it."""

    schedule_id: UUID
    instant: datetime
    first: datetime
    instants: int
    state: str
    reason: str
    job_id: UUID | None = None
    run_id: UUID | None = None


class CursorRow(NamedTuple):
    """Where a schedule stands after a decision."""

    id: UUID
    cursor: datetime
    next_at: datetime | None
    wake_at: datetime | None
    last_at: datetime | None


@dataclass
class Decided:
    """What one transaction writes."""

    jobs: list[NewJob] = field(default_factory=list)
    runs: list[NewRun] = field(default_factory=list)
    firings: list[FiringRow] = field(default_factory=list)
    cursors: list[CursorRow] = field(default_factory=list)
    replaced: list[UUID] = field(default_factory=list)  # jobs to cancel
    replaced_runs: list[UUID] = field(default_factory=list)


async def begin(conn: AsyncConnection[Any], limit: int) -> list[dict[str, Any]]:
    """Opens the transaction: locks schedules that are due, each with the open jobs and queued firings that it has."""
    await conn.execute("begin")
    async with conn.cursor(row_factory=dict_row) as cursor:
        schedules = await (await cursor.execute(sql("lock_due_schedules"), {"limit": limit})).fetchall()
        ids = {"ids": [row["id"] for row in schedules]}
        await cursor.execute(sql("close_firings"), ids)
        opened = {row["schedule_id"]: row for row in await (await cursor.execute(sql("open_firings"), ids)).fetchall()}
    nothing = {"unfinished": 0, "queued": 0, "oldest_queued": None, "jobs": None, "runs": None}
    return [row | opened.get(row["id"], nothing) for row in schedules]


async def write(conn: AsyncConnection[Any], decided: Decided, term: int) -> int:
    """Ends the transaction; the number that its jobs are stamped with. NotOwner when another scheduler leads by now."""
    tx = await insert_within(conn, decided.jobs) if decided.jobs else 0
    statements: list[tuple[str, dict[str, Any]]] = starting(decided.runs) if decided.runs else []
    if decided.replaced_runs:
        statements.append(("tell_runs", told([(run_id, CancelRequested()) for run_id in decided.replaced_runs])))
    if decided.replaced:
        statements.append(("cancel_replaced", {"ids": decided.replaced}))
    if decided.firings:
        statements.append(("put_firings", columns(FiringRow, decided.firings)))
    statements.append(("move_cursors", columns(CursorRow, decided.cursors)))
    statements.append(("leads", {"role": ROLE, "term": term}))
    await commit(conn, statements)
    return tx


async def change(db: Database, schedule_id: UUID, decide: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Changes a schedule as `decide` says of its row, locked; ledger rows under `passed` go along. False: none is."""
    async with db.connection() as conn, conn.transaction():
        rows = await (await conn.execute(sql("lock_schedule"), {"id": schedule_id})).fetchall()
        if not rows:
            return False
        await write_changed(conn, [decide(rows[0])])
    return True


async def write_changed(conn: AsyncConnection[Any], changed: Sequence[dict[str, Any]]) -> None:
    """Schedules with other values, in the caller's transaction; the ledger rows under `passed` go along."""
    ledger = [
        FiringRow(row["id"], f.instant, f.first, f.count, f.state, f.reason)
        for row in changed
        for f in row.get("passed", ())
    ]
    if ledger:
        await conn.execute(sql("put_firings"), columns(FiringRow, ledger))
    if changed:
        async with conn.cursor() as cursor:
            await cursor.executemany(sql("change_schedule"), changed)


async def begin_backfill(
    conn: AsyncConnection[Any], schedule_id: UUID, changed: Callable[[dict[str, Any]], list[dict[str, Any]]]
) -> dict[str, Any] | None:
    """Opens a transaction with the schedule locked, and `changed` first if need be. None: there is no such schedule."""
    await conn.execute("begin")
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute(sql("lock_schedule_to_fire"), {"id": schedule_id})).fetchone()
    if row is None:
        await conn.execute("rollback")
        return None
    await write_changed(conn, changed(row))
    return row


async def ledger_between(
    conn: AsyncConnection[Any], schedule_id: UUID, start: datetime, end: datetime
) -> list[dict[str, Any]]:
    """The rows of these instants."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        wanted = {"id": schedule_id, "start": start, "end": end}
        return await (await cursor.execute(sql("firings_between"), wanted)).fetchall()


async def write_backfilled(conn: AsyncConnection[Any], decided: Decided, kept: list[FiringRow]) -> int:
    """Ends the transaction; the number that its jobs are stamped with. `kept`: rows that tell of what stays skipped."""
    tx = await insert_within(conn, decided.jobs) if decided.jobs else 0
    statements = starting(decided.runs) if decided.runs else []
    for name, rows in (("put_backfilled", decided.firings), ("put_firings", kept)):
        if rows:
            statements.append((name, columns(FiringRow, rows)))
    await commit(conn, statements)
    return tx
