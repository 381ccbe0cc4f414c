"""Fires the schedules that are due, in bounded steps that are committed one by one (S1.6, M.7).

Whatever a leader was doing when it died is either committed whole (jobs, ledger rows, cursor) or not at all, and the
next leader decides it. Schedules have their turns one after the other, however much one of them has to catch up; one
that cannot be fired says so in its `error` and holds up no other.
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
from taskflow_server.scheduler.directory import Directory
from taskflow_server.scheduler.firing_rows import FiringRows
from taskflow_server.scheduler.intake import Intake
from taskflow_server.scheduler.leading import Lead
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.store import schedules as store
from taskflow_server.store.database import Database, Writer
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.jobs import Stored

log = logs.get("firing")

CATCH_UP_PATIENCE = 5.0  # seconds that a move of the clock waits for firings
LOOK = 1.0  # seconds between looks at who leads, and at most between looks at what is due
AHEAD_LOOK = 60.0  # seconds between looks for schedules that a clock which was ahead has left asleep
AHEAD_AT_ONCE = 1000  # of them, woken by one statement
MAX_SAID = 500  # characters of a schedule's error

Row = dict[str, Any]


class Firer:
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        rows: FiringRows,
        directory: Directory,
        intake: Intake,
        readiness: Readiness,
        incarnation: UUID,
    ) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._rows = rows
        self._directory = directory
        self._intake = intake
        self._lead = Lead(settings, db, clock, incarnation)
        self._writer = Writer(settings.database_url, timeout=settings.database_timeout)
        self._outage = readiness.outage(log, "schedules cannot be fired")
        self._ahead_at = 0.0  # when schedules ahead of the clock are looked for next
        self.poked = asyncio.Event()  # a schedule was made or changed, or the clock was moved
        self._begun = self._ended = 0  # passes over what is due
        self._passed = asyncio.Event()  # the next end of a pass; a new one for each

    @property
    def term(self) -> int | None:
        """Ours, while we lead."""
        return self._lead.term

    async def run(self) -> None:
        """Leads when nobody else does, and fires while it leads."""
        while True:
            self._begun += 1
            try:
                if self._lead.term is None and await self._lead.try_to_lead():
                    self._ahead_at = 0.0
                while self._lead.term is not None and await self._step(self._lead.term):
                    pass
                self._outage.over()
            except NotOwner:
                self._lead.lost()
            except FAULTS as error:
                self._outage.failed(error)
            self._ended = self._begun
            self._passed.set()
            self._passed = asyncio.Event()
            await self._pause()

    async def caught_up(self) -> None:
        """Returns when what is due by now was fired, if we lead; or after some seconds."""
        self.poked.set()
        wanted = self._begun + 1
        with suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_PATIENCE):
                while self._lead.term is not None and self._ended < wanted:
                    await self._passed.wait()

    def clock_stepped(self) -> None:
        """Schedules that were timed by the clock as it was are looked for at once."""
        self._ahead_at = 0.0
        self.poked.set()

    async def close(self) -> None:
        await self._lead.leave()
        await self._writer.reset()

    async def _pause(self) -> None:
        wait = LOOK
        if self._lead.term is not None:
            with suppress(*FAULTS):
                seconds = (await self._db.rows("next_wake"))[0]["seconds"]
                wait = min(LOOK, seconds) if seconds is not None and seconds > 0 else LOOK
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self.poked.wait()
        self.poked.clear()

    async def _step(self, term: int) -> bool:
        """One transaction, or one for each schedule where one cannot be fired. Whether there may be more."""
        await self._wake_ahead()
        try:
            return await self._fire(term)
        except (Unavailable, NotOwner):
            raise
        except Exception as error:  # a row's own fault: the store makes Unavailable of all else
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
        except Exception as error:  # its row cannot be read, or what it makes cannot be written
            await store.put_off(self._db, schedule_id, self._fault(schedule_id, error), self._settings.schedule_retry)

    async def _wake_ahead(self) -> None:
        """Schedules that a clock which was ahead has left asleep are decided again, by the clock as it is."""
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
        """Decides schedules that are due, or those of them with these ids. Whether there may be more."""
        async with self._writer.transaction() as conn:
            rows = await store.begin(conn, self._settings.fire_schedules, ids)
            decided, specs = store.Decided(), list[pb.JobSpec]()
            await self._rows.prepare()
            more = await self._decide(rows, decided, specs)
            lanes = {LaneKey(job.queue, job.task, job.priority) for job in decided.jobs}
            await self._directory.learn(lanes)
            await reach("scheduler.before_firing")
            if not rows:
                await conn.execute("rollback")
                return False
            tx = await store.write(conn, decided, term)
            await reach("scheduler.after_firing")
        if decided.runs or decided.replaced_runs:
            self._intake.runs_news()
        jobs = decided.jobs
        await self._intake.offer(list(zip(jobs, specs, strict=True)), [Stored(job.id, tx) for job in jobs])
        return more or len(rows) == self._settings.fire_schedules

    async def _decide(self, rows: list[Row], decided: store.Decided, specs: list[pb.JobSpec]) -> bool:
        """Each in its turn, until the transaction is full; those that are left stay due, and come first next time.
        Calls are answered in between.
        """
        more = False
        for number, row in enumerate(rows):
            room = self._settings.fire_batch - len(decided.firings)
            if room <= 0:
                return True
            try:
                if self._rows.decide(row, decided, specs, min(room, self._settings.fire_step)).more:
                    # Behind all that were due before now, and in the order of this round: equal times are no order.
                    wake_at = row["now"] + timedelta(microseconds=number)
                    decided.cursors[-1] = decided.cursors[-1]._replace(wake_at=wake_at)
                    more = True
            except Exception as error:  # whatever its row, its task's or its workflow's holds
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
