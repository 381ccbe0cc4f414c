"""Schedules and the ledger of their firings: jobs, ledger and cursors in one transaction, under the leader's term."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from taskflow_server.core.schedules import Firing, FiringState, Overlap, remaining
from taskflow_server.core.timing import Timing
from taskflow_server.core.workflow import CancelRequested
from taskflow_server.store.columns import columns
from taskflow_server.store.database import Database, commit
from taskflow_server.store.jobs import NewJob, insert_within
from taskflow_server.store.queries import sql
from taskflow_server.store.runs import NewRun, starting, told

ROLE = "schedules"
CLOSED_AT_ONCE = 1000  # queued firings of one schedule that one decision closes


class FiringRow(NamedTuple):
    """A row of `firings`, with the id of its job or run, if any."""

    schedule_id: UUID
    instant: datetime
    first: datetime
    instants: int
    state: str
    reason: str
    job_id: UUID | None = None
    run_id: UUID | None = None


class CursorRow(NamedTuple):
    """The cursor and times of a schedule after a decision."""

    id: UUID
    cursor: datetime
    next_at: datetime | None
    wake_at: datetime | None
    last_at: datetime | None
    error: str | None = None  # the reason for which it could not be fired


@dataclass
class Decided:
    """The writes of one transaction."""

    jobs: list[NewJob] = field(default_factory=list)
    runs: list[NewRun] = field(default_factory=list)
    firings: list[FiringRow] = field(default_factory=list)
    cursors: list[CursorRow] = field(default_factory=list)
    replaced: list[UUID] = field(default_factory=list)  # jobs to cancel
    replaced_runs: list[UUID] = field(default_factory=list)
    taken_back: list[tuple[UUID, datetime, Timing]] = field(default_factory=list)  # their cursors were ahead


async def begin(conn: AsyncConnection[Any], limit: int, ids: Sequence[UUID] | None = None) -> list[dict[str, Any]]:
    """Opens the transaction and locks the due schedules, each with its unfinished jobs and queued firings."""
    await conn.execute("begin")
    async with conn.cursor(row_factory=dict_row) as cursor:
        wanted = {"limit": limit, "ids": None if ids is None else list(ids)}
        schedules = await (await cursor.execute(sql("lock_due_schedules"), wanted)).fetchall()
        overlapping = [row["id"] for row in schedules if row["overlap"] == Overlap.ALLOW]
        single = [row["id"] for row in schedules if row["overlap"] != Overlap.ALLOW]
        opened: dict[UUID, dict[str, Any]] = {}
        if single:
            await cursor.execute(sql("close_firings"), {"ids": single, "limit": CLOSED_AT_ONCE})
        for name, asked in (("open_firings", single), ("queued_firings", overlapping)):
            found = await (await cursor.execute(sql(name), {"ids": asked})).fetchall() if asked else []
            opened.update((row["schedule_id"], row) for row in found)
    nothing = {"unfinished": 0, "queued": 0, "oldest_queued": None, "jobs": None, "runs": None}
    return [row | opened.get(row["id"], nothing) for row in schedules]


async def take_back(conn: AsyncConnection[Any], schedule_id: UUID, now: datetime, timing: Timing) -> None:
    """After a clock that was ahead is corrected: future instants that were skipped will be decided again."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(sql("take_back_firings"), {"id": schedule_id, "now": now})
        rows = [
            Firing(row["instant"], FiringState(row["state"]), row["reason"], row["first"], row["count"])
            for row in await cursor.fetchall()
        ]
    left = remaining(timing, now, rows)
    kept = [FiringRow(schedule_id, f.instant, f.first, f.count, f.state, f.reason) for f in left]
    if kept:
        await conn.execute(sql("put_firings"), columns(FiringRow, kept))


async def write(conn: AsyncConnection[Any], decided: Decided, term: int) -> int:
    """Ends the transaction and returns the `tx` of its jobs. NotOwner when another scheduler leads now."""
    for schedule_id, now, timing in decided.taken_back:
        await take_back(conn, schedule_id, now, timing)
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


async def put_off(db: Database, schedule_id: UUID, error: str, seconds: float) -> None:
    """Records the error of a schedule that cannot be fired, and retries it after `seconds`."""
    await db.run("put_off_schedule", id=schedule_id, error=error, seconds=seconds)


async def change(db: Database, schedule_id: UUID, decide: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Locks a schedule, passes its row to `decide` and writes the result, with the ledger rows under `passed`. False
    when it does not exist."""
    async with db.connection() as conn, conn.transaction():
        rows = await (await conn.execute(sql("lock_schedule"), {"id": schedule_id})).fetchall()
        if not rows:
            return False
        await write_changed(conn, [decide(rows[0])])
    return True


async def write_changed(conn: AsyncConnection[Any], changed: Sequence[dict[str, Any]]) -> None:
    """Writes changed schedules in the caller's transaction, with the ledger rows under `passed`. `ahead`: the timing of
    a schedule whose cursor was ahead of the clock.
    """
    for row in changed:
        if row.get("ahead") is not None:
            await take_back(conn, row["id"], row["now"], row["ahead"])
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
    """Opens a transaction, locks the schedule and applies `changed`. None: it does not exist."""
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
    """The rows of the ledger for these instants."""
    async with conn.cursor(row_factory=dict_row) as cursor:
        wanted = {"id": schedule_id, "start": start, "end": end}
        return await (await cursor.execute(sql("firings_between"), wanted)).fetchall()


async def write_backfilled(conn: AsyncConnection[Any], decided: Decided, kept: list[FiringRow]) -> int:
    """Ends the transaction and returns the `tx` of its jobs. `kept`: rows for the instants that stay skipped."""
    tx = await insert_within(conn, decided.jobs) if decided.jobs else 0
    statements = starting(decided.runs) if decided.runs else []
    for name, rows in (("put_backfilled", decided.firings), ("put_firings", kept)):
        if rows:
            statements.append((name, columns(FiringRow, rows)))
    await commit(conn, statements)
    return tx
