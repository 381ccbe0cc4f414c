"""Retention (protocol A10, B7): drops days whose jobs are all past it, and deletes expired jobs from the others.

Invariants, wherever a run is killed: a job is deleted only when its last attempt is final and ended before the cutoff,
and it has no row in `deferred` or `leases`; no job is ever seen without its attempts; the next run completes the rest.
A day is dropped in steps, and `closed_days` and Postgres's catalog show how far it has come:

    close       refuses inserts and retries by hand from here on; then a last check
    keys        before the jobs: a key must not lead to a deleted job
    jobs        detached, then dropped. Before their attempts, without which they would look ready
    beside      logs, tags and cancels. After the jobs: a cancel keeps lanes from reading its job
    attempts    detached, then dropped
    forget      the row of `closed_days`
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import dict_row

from taskflow_server.core.errors import InvalidArgument, Unavailable
from taskflow_server.core.names import namespace_of
from taskflow_server.core.retention import Action, DayReport, PruneReport, Survey, decide, reason, shown
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.database import Row, Writer, translated
from taskflow_server.store.errors import count
from taskflow_server.store.queries import sql as query
from taskflow_server.store.reasons import why

LEAST_KEEP = timedelta(hours=1)  # a commit in doubt is repeated for minutes, and an id is accepted for an hour
BATCH = 1000  # jobs per transaction; 25 ms to delete, with a key, a tag, a cancel and two log lines each
ROWS = 10_000  # rows of the other tables per delete
PAUSE = 0.05  # seconds between two transactions: the services come first
# B7: queries behind a lock of the prune wait no longer than this. A survey of a large day may take minutes.
_SETTINGS = {"lock_timeout": "500ms", "statement_timeout": "30min", "max_parallel_workers_per_gather": "0"}
_READ_ONLY = {"default_transaction_read_only": "on"}
_BESIDE = ("job_logs", "job_tags", "job_actions", "job_sla_misses", "task_logs", "cancels")
_LATER = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.DeadlockDetected,
    psycopg.errors.ObjectNotInPrerequisiteState,  # another partition's detach is pending
)


class PruneBusy(Exception):
    """Another prune is running on this database."""


@dataclass(slots=True)
class _Day:
    """`jobs` and `attempts`: the state of the partition, `attached`, `pending` (a detach) or `detached`; None: gone."""

    day: date
    jobs: str | None
    attempts: str | None
    estimate: int | None
    closed: bool
    ends: datetime
    low: UUID
    high: UUID

    def leaf(self, parent: str) -> sql.Identifier:
        return sql.Identifier("taskflow", f"{parent}_p{self.day:%Y%m%d}")


async def prune(url: str, *, keep: timedelta, dry_run: bool = False, timeout: float = 5.0) -> PruneReport:
    """Deletes jobs that ended longer than `keep` ago, by whole days where possible, and the firings, counts and runs of
    that time; reports on every day.

    Raises PruneBusy, Unavailable, and InvalidArgument for a `keep` under `LEAST_KEEP`. `timeout` is for connecting.
    """
    if keep < LEAST_KEEP:
        raise InvalidArgument(f"older_than: {keep} is below the minimum of {LEAST_KEEP}", "older_than")
    async with _connected(url, timeout, _SETTINGS | (_READ_ONLY if dry_run else {})) as conn:
        return await _Pruner(conn, keep, dry_run).run()


@asynccontextmanager
async def _connected(url: str, timeout: float, settings: Mapping[str, str]) -> AsyncIterator[AsyncConnection[Row]]:
    writer = Writer(url, timeout=timeout, settings=settings)
    with translated():
        try:
            try:
                conn = await writer.connection(dict_row)
            except (psycopg.Error, TimeoutError) as error:
                count(error)
                raise Unavailable(why(error, url).text, "DATABASE_UNAVAILABLE") from error
            yield conn
        finally:
            await writer.reset()


class _Pruner:
    def __init__(self, conn: AsyncConnection[Row], keep: timedelta, dry_run: bool) -> None:
        self._conn = conn
        self._keep = keep
        self._dry_run = dry_run
        self._blocked = ""  # the reason for which this run can detach no partition
        self._cutoff: datetime
        self._first_kept: date

    async def run(self) -> PruneReport:
        if self._dry_run:
            return await self._run()
        if not (await self._rows("hold_prune"))[0]["held"]:
            raise PruneBusy
        try:
            await self._finalize()
            return await self._run()
        finally:
            # Release it: the lock would outlive the session for a moment. If the session is lost, so is the lock.
            with suppress(psycopg.Error):
                await self._rows("release_prune")

    async def _run(self) -> PruneReport:
        bounds = (await self._rows("prune_bounds", keep=self._keep))[0]
        self._cutoff, self._first_kept = bounds["cutoff"], bounds["first_kept"]
        reports = [await self._one(day) for day in await self._days()]
        days = [report for report in reports if report is not None]
        if not self._dry_run:
            await self._rows("forget_removed_tasks", cutoff=self._cutoff)
        firings = await self._past("expired_firings", "delete_firings")
        counts = await self._past("expired_counts", "delete_counts")
        return PruneReport(days, firings, counts, await self._past("expired_runs", "delete_runs"))

    async def _rows(self, name: str, **parameters: Any) -> list[Row]:
        cursor = await self._conn.execute(query(name), parameters)
        return await cursor.fetchall() if cursor.description else []

    async def _past(self, count: str, delete: str) -> int:
        """Deletes rows of a small table by age, or only counts them; returns their number."""
        if self._dry_run:
            return int((await self._rows(count, cutoff=self._cutoff))[0]["n"])
        deleted, gone = 0, ROWS
        while gone == ROWS:
            gone = (await self._conn.execute(query(delete), {"cutoff": self._cutoff, "limit": ROWS})).rowcount
            deleted += gone
            await asyncio.sleep(PAUSE)
        return deleted

    async def _days(self) -> list[_Day]:
        return [_Day(**row) for row in await self._rows("list_days")]

    async def _finalize(self) -> None:
        """Completes a detach that an earlier run left pending: it hides its rows, and no other detach can begin."""
        for day in await self._days():
            for parent in ("jobs", "attempts"):
                if getattr(day, parent) == "pending":
                    await self._detach(day, parent, "finalize")

    async def _one(self, day: _Day) -> DayReport | None:
        if day.jobs == "attached":
            report = await self._look(day)
        elif day.closed:
            report = DayReport(day.day, Action.DROP, "an earlier run began it")
        else:
            return None  # another process has detached it
        if not self._dry_run:
            try:
                await self._act(day, report)
            except _LATER as error:
                report.put_off = _said(error)
        return report

    async def _look(self, day: _Day) -> DayReport:
        if day.day >= self._first_kept:
            return DayReport(day.day, Action.KEEP, "may still get jobs", day.estimate)
        if day.ends > self._cutoff:
            return DayReport(day.day, Action.KEEP, f"kept until {shown(day.ends + self._keep)}", day.estimate)
        survey = await self._survey(day)
        return DayReport(day.day, decide(survey, self._cutoff), reason(survey, self._keep), day.estimate, survey)

    async def _survey(self, day: _Day) -> Survey:
        return Survey(**(await self._rows("survey_day", low=day.low, high=day.high, cutoff=self._cutoff))[0])

    async def _act(self, day: _Day, report: DayReport) -> None:
        if report.action is Action.DROP:
            if self._blocked:
                report.put_off = self._blocked
            else:
                await self._drop(day, report)
            return
        if day.closed:  # an earlier run found all of it past the retention
            await self._reopen(day)
        if report.action is Action.EMPTY:
            await self._empty(day, report)

    # -- a whole day -------------------------------------------------------------------------
    async def _drop(self, day: _Day, report: DayReport) -> None:
        """Drops a day, from the step at which an earlier run stopped."""
        if day.jobs == "attached":
            await self._close(day)
            await reach("prune.closed")
            survey = await self._survey(day)
            if decide(survey, self._cutoff) is not Action.DROP:
                await self._reopen(day)
                report.put_off = f"{reason(survey, self._keep)}: changed at the last moment"
                return
            await self._delete_keys(day)
            await reach("prune.keys_deleted")
        for parent in ("jobs", "attempts"):
            place = getattr(day, parent)
            if place == "attached" and not await self._detach(day, parent, "concurrently"):
                report.put_off = self._blocked
                return
            if parent == "jobs" and report.survey:
                report.deleted = report.survey.jobs
            await reach(f"prune.{parent}_detached")
            if place is not None:
                await self._conn.execute(sql.SQL("drop table {}").format(day.leaf(parent)))
            await reach(f"prune.{parent}_dropped")
            if parent == "jobs":
                await self._delete_beside(day)
        await self._rows("forget_closed_day", day=day.day)

    async def _close(self, day: _Day) -> None:
        """Refuses inserts and retries from now on. CREATE TRIGGER waits for those in progress, but not for readers."""
        async with self._conn.transaction():
            await self._rows("finished_stay")
            await self._rows("close_day", day=day.day, low=day.low, high=day.high)
            await self._conn.execute(
                sql.SQL(
                    "create or replace trigger closed_day before insert on {}"
                    " for each row execute function taskflow.refuse_closed_day()"
                ).format(day.leaf("jobs"))
            )

    async def _reopen(self, day: _Day) -> None:
        """Disables the trigger. Dropping it would have to wait for readers."""
        async with self._conn.transaction():
            await self._conn.execute(sql.SQL("alter table {} disable trigger closed_day").format(day.leaf("jobs")))
            await self._rows("forget_closed_day", day=day.day)

    async def _detach(self, day: _Day, parent: str, how: str) -> bool:
        """False when a lock was not granted: the detach may now be pending, and then no other can begin."""
        statement = sql.SQL("alter table {} detach partition {} {}").format(
            sql.Identifier("taskflow", parent),
            day.leaf(parent),
            sql.SQL("finalize") if how == "finalize" else sql.SQL("concurrently"),
        )
        try:
            await self._conn.execute(statement)
        except _LATER as error:
            self._blocked = f"{parent} of {day.day} cannot be detached: {_said(error)}"
            return False
        return True

    async def _delete_keys(self, day: _Day) -> None:
        after, rows = day.low, [Row()] * BATCH
        while len(rows) == BATCH:
            rows = await self._rows("keyed_jobs_of_day", after=after, high=day.high, limit=BATCH)
            await self._forget_keys(rows)
            after = rows[-1]["id"] if rows else after
            await asyncio.sleep(PAUSE)

    async def _forget_keys(self, jobs: Sequence[Row]) -> None:
        keyed = [job for job in jobs if job["key"] is not None]
        await self._rows(
            "delete_keys",
            namespace=[namespace_of(job["queue"]) for job in keyed],
            key=[job["key"] for job in keyed],
            job_id=[job["id"] for job in keyed],
        )

    async def _delete_beside(self, day: _Day) -> None:
        for table in _BESIDE:
            statement = sql.SQL(
                "delete from {0} where ctid = any (array("
                "select ctid from {0} where job_id >= %(low)s and job_id < %(high)s limit %(limit)s))"
            ).format(sql.Identifier("taskflow", table))
            gone = ROWS
            while gone == ROWS:
                gone = (await self._conn.execute(statement, {"low": day.low, "high": day.high, "limit": ROWS})).rowcount
                await asyncio.sleep(PAUSE)

    # -- a day with jobs that stay -----------------------------------------------------------
    async def _empty(self, day: _Day, report: DayReport) -> None:
        after, rows = day.low, [Row()] * BATCH
        while len(rows) == BATCH:
            async with self._conn.transaction():
                await self._rows("finished_stay")
                rows = await self._rows("expired_jobs", after=after, high=day.high, cutoff=self._cutoff, limit=BATCH)
                expired = [row for row in rows if row["expired"]]
                if expired:
                    await self._delete(day, expired)
                await reach("prune.batch")
            after = rows[-1]["id"] if rows else after
            report.deleted += len(expired)
            if expired:
                await asyncio.sleep(PAUSE)

    async def _delete(self, day: _Day, expired: Sequence[Row]) -> None:
        """The only code that deletes rows of jobs and attempts (M.1): a day with one unfinished job would keep all of
        them. One transaction deletes them with all their other rows, so that no reader sees half a job."""
        await self._forget_keys(expired)
        ids = [row["id"] for row in expired]
        tables = [(sql.Identifier("taskflow", table), "job_id") for table in _BESIDE]
        for table, column in (*tables, (day.leaf("attempts"), "job_id"), (day.leaf("jobs"), "id")):
            statement = sql.SQL("delete from {} where {} = any(%s)").format(table, sql.Identifier(column))
            await self._conn.execute(statement, [ids])


def _said(error: BaseException) -> str:
    return str(error).partition("\n")[0]
