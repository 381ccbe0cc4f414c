"""Fires the schedules that are due, in bounded steps that are committed one by one (S1.6, M.7).

A step of a leader that dies is committed whole (jobs, ledger rows, cursor) or not at all, and the next leader decides
it. Schedules take turns, however much one of them has to catch up; one that cannot be fired has the reason in its
`error` and delays no other.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core.errors import NotOwner, Unavailable
from taskflow_server.core.lanes import LaneKey
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.failpoints import reach
from taskflow_server.runtime.readiness import Readiness
from taskflow_server.scheduler.firing_rows import FiringRows
from taskflow_server.scheduler.job_writer import JobWriter
from taskflow_server.scheduler.leading import Lead
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.store import schedules as store
from taskflow_server.store.database import Database, Writer
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.jobs import Stored

log = logs.get("firing")

CATCH_UP_PATIENCE = 5.0  # seconds that AdvanceClock waits for firings
LOOK = 1.0  # seconds between checks of the leader, and at most between checks for due schedules
AHEAD_LOOK = 60.0  # seconds between checks for schedules whose next time was set by a clock that was ahead
AHEAD_AT_ONCE = 1000  # limit of such schedules for one statement
MAX_SAID = 500  # characters of a schedule's error

Row = dict[str, Any]


class Firer:
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        rows: FiringRows,
        topology: TopologyCache,
        job_writer: JobWriter,
        readiness: Readiness,
        incarnation: UUID,
    ) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._rows = rows
        self._topology = topology
        self._job_writer = job_writer
        self._lead = Lead(settings, db, clock, incarnation)
        self._writer = Writer(settings.database_url, timeout=settings.database_timeout)
        self._outage = readiness.outage(log, "schedules cannot be fired")
        self._ahead_at = 0.0  # time of the next check for schedules ahead of the clock
        self.poked = asyncio.Event()  # a schedule was made or changed, or the clock was moved
        self._begun = self._ended = 0  # number of passes over due schedules
        self._passed = asyncio.Event()  # set at the end of a pass; a new event for each

    @property
    def term(self) -> int | None:
        """The term of this scheduler while it leads, else None."""
        return self._lead.term

    async def run(self) -> None:
        """Takes the lead when no other scheduler has it, and fires schedules while it leads."""
        while True:
            self._begun += 1
            wait = LOOK
            try:
                if self._lead.term is None and await self._lead.try_to_lead():
                    self._ahead_at = 0.0
                if self._lead.term is not None:
                    wait = await self._fire_due(self._lead.term)
                self._outage.over()
            except NotOwner:
                self._lead.lost()
            except FAULTS as error:
                self._outage.failed(error)
            self._ended = self._begun
            self._passed.set()
            self._passed = asyncio.Event()
            await self._pause(wait)

    async def caught_up(self) -> None:
        """If this scheduler leads, returns when all schedules due by now are fired, or after CATCH_UP_PATIENCE."""
        self.poked.set()
        wanted = self._begun + 1
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_PATIENCE):
                while self._lead.term is not None and self._ended < wanted:
                    await self._passed.wait()

    def clock_stepped(self) -> None:
        """Checks at once for schedules whose next time was set before the database's clock was stepped."""
        self._ahead_at = 0.0
        self.poked.set()

    async def close(self) -> None:
        await self._lead.leave()
        await self._writer.reset()

    async def _fire_due(self, term: int) -> float:
        """Fires all that is due; in how many seconds to look again. While nothing is due, a look is one query."""
        await self._wake_ahead()
        seconds = await self._next_wake()
        if seconds <= 0:
            while await self._step(term):
                pass
            seconds = await self._next_wake()
        return min(LOOK, seconds) if seconds > 0 else LOOK  # one of a paused task stays due

    async def _next_wake(self) -> float:
        seconds: float | None = (await self._db.rows("next_wake"))[0]["seconds"]
        return LOOK if seconds is None else seconds

    async def _pause(self, wait: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self.poked.wait()
        self.poked.clear()

    async def _step(self, term: int) -> bool:
        """One transaction, or one for each schedule if one cannot be fired. True when there may be more."""
        try:
            return await self._fire(term)
        except (Unavailable, NotOwner):
            raise
        except Exception as error:  # a fault of one row: the store raises Unavailable for everything else
            log.warning("schedules are fired one by one", why=f"{type(error).__name__}: {error}")
        due = await self._db.rows("due_schedules", limit=self._settings.fire_schedules)
        for row in due:
            await self._fire_alone(term, row["id"])
        return len(due) == self._settings.fire_schedules

    async def _fire_alone(self, term: int, schedule_id: UUID) -> None:
        try:
            await self._fire(term, [schedule_id])
        except (Unavailable, NotOwner):
            raise
        except Exception as error:  # its row cannot be read, or its jobs and runs cannot be written
            await store.put_off(self._db, schedule_id, self._fault(schedule_id, error), self._settings.schedule_retry)

    async def _wake_ahead(self) -> None:
        """Decides again, by the present clock, schedules whose next time was set by a clock that was ahead."""
        now = self._clock.real.monotonic()
        if now < self._ahead_at:
            return
        settings = self._settings
        woken = await self._db.run(
            "wake_schedules_ahead", seconds=settings.clock_step, retry=settings.schedule_retry, limit=AHEAD_AT_ONCE
        )
        if woken:
            log.warning("schedules were timed by a clock that was ahead; they are decided again", schedules=woken)
        if woken < AHEAD_AT_ONCE:
            self._ahead_at = now + AHEAD_LOOK

    # -- one transaction ---------------------------------------------------------------------
    async def _fire(self, term: int, ids: list[UUID] | None = None) -> bool:
        """Decides the due schedules, or only those with these ids. True when there may be more."""
        async with self._writer.transaction() as conn:
            rows = await store.begin(conn, self._settings.fire_schedules, ids)
            decided, specs = store.Decided(), list[pb.JobSpec]()
            await self._rows.prepare()
            more = await self._decide(rows, decided, specs)
            lanes = {LaneKey(job.queue, job.task, job.priority) for job in decided.jobs}
            await self._topology.learn(lanes)
            await reach("scheduler.before_firing")
            if not rows:
                await conn.execute("rollback")
                return False
            tx = await store.write(conn, decided, term)
            await reach("scheduler.after_firing")
        if decided.runs or decided.replaced_runs:
            self._job_writer.runs_news()
        jobs = decided.jobs
        await self._job_writer.offer(list(zip(jobs, specs, strict=True)), [Stored(job.id, tx) for job in jobs])
        return more or len(rows) == self._settings.fire_schedules

    async def _decide(self, rows: list[Row], decided: store.Decided, specs: list[pb.JobSpec]) -> bool:
        """Decides them in turn until the transaction is full; the rest stay due and come first next time. Yields to
        calls in between.
        """
        more = False
        for number, row in enumerate(rows):
            room = self._settings.fire_batch - len(decided.firings)
            if room <= 0:
                return True
            try:
                if self._rows.decide(row, decided, specs, min(room, self._settings.fire_step)).more:
                    # Behind all that are due already, in the order of this round: equal times have no order.
                    wake_at = row["now"] + timedelta(microseconds=number)
                    decided.cursors[-1] = decided.cursors[-1]._replace(wake_at=wake_at)
                    more = True
            except Exception as error:  # a fault in its row, its task's or its workflow's
                again = row["now"] + timedelta(seconds=self._settings.schedule_retry)
                said = self._fault(row["id"], error)
                decided.cursors.append(store.CursorRow(row["id"], row["cursor"], row["next_at"], again, None, said))
            await asyncio.sleep(0)
        return more

    def _fault(self, schedule_id: UUID, error: Exception) -> str:
        said = (str(error).splitlines() or [""])[0].replace("\0", "")
        said = f"cannot be fired: {type(error).__name__}: {said}"[:MAX_SAID]
        log.error("a schedule cannot be fired", schedule=str(schedule_id), why=said)
        metrics.schedule_faults.inc()
        return said
