"""Firing schedules: one scheduler leads, under a term that each of its transactions ends by reading (S1.6, M.7).

A leader dies by its beat, as an owner of shards does (protocol B1): no clocks are compared. Whatever it was doing then
is either committed whole — jobs, ledger rows, cursor — or not at all, and the next leader decides it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from services.core.errors import InvalidArgument, NotOwner, Unavailable
from services.core.lanes import LaneKey
from services.core.schedules import Firing, FiringState, Misfire, Overlap, Policy, ScheduleState, due
from services.core.timing import parse_timing
from services.rpc.values import options_from_json
from services.runtime import logs
from services.runtime.clock import SystemClock
from services.runtime.failpoints import reach
from services.scheduler.admission import Admission
from services.scheduler.directory import Directory
from services.scheduler.intake import Intake
from services.scheduler.settings import SchedulerSettings
from services.store import schedules as store
from services.store.database import Database, Writer
from services.store.jobs import NewJob, Stored
from services.store.runs import NewRun, new_run
from taskflow.v1 import jobs_pb2 as pb

log = logs.get("firing")

CATCH_UP_PATIENCE = 5.0  # seconds that a move of the clock waits for firings
AT_ONCE = 200  # schedules of one transaction
LOOK = 1.0  # seconds between looks at who leads, and at most between looks at what is due
REFUSED_AGAIN = timedelta(minutes=1)
STANDBY_READS = 3  # good reads of an unchanged beat before a leader counts as dead


class Firer:
    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        admission: Admission,
        directory: Directory,
        intake: Intake,
        incarnation: UUID,
    ) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._admission = admission
        self._directory = directory
        self._intake = intake
        self._incarnation = incarnation
        self._writer = Writer(settings.database_url, timeout=settings.database_timeout)
        self._term: int | None = None  # ours, while we lead
        self._seen: tuple[object, float, int] = (None, 0.0, 0)  # a foreign leader's beat, since when, good reads
        self._outage = logs.Outage(log, "schedules cannot be fired")
        self.poked = asyncio.Event()  # a schedule was made or changed, or the clock was moved
        self._begun = self._ended = 0  # passes over what is due
        self._passed = asyncio.Event()  # the next end of a pass; a new one for each

    async def run(self) -> None:
        """Leads when nobody else does, and fires while it leads."""
        while True:
            self._begun += 1
            try:
                if self._term is None:
                    await self._try_to_lead()
                while self._term is not None and await self._fire(self._term):
                    pass
                self._outage.over()
            except NotOwner:
                log.info("another scheduler fires the schedules now")
                self._term = None
            except Unavailable as error:
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
                while self._term is not None and self._ended < wanted:
                    await self._passed.wait()

    async def close(self) -> None:
        """Leaves the lead to whoever wants it."""
        if self._term is not None:
            with suppress(Unavailable):
                await self._db.run(
                    "leave_lead", role=store.ROLE, owner=self._settings.name, incarnation=self._incarnation
                )
        await self._writer.reset()

    async def _pause(self) -> None:
        wait = LOOK
        if self._term is not None:
            with suppress(Unavailable):
                seconds = (await self._db.rows("next_wake"))[0]["seconds"]
                wait = min(LOOK, seconds) if seconds is not None and seconds > 0 else LOOK
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self.poked.wait()
        self.poked.clear()

    async def _try_to_lead(self) -> None:
        row = (await self._db.rows("read_leader", role=store.ROLE))[0]
        now = self._clock.real.monotonic()
        gone = row["owner"] is None or row["beat"] is None or row["incarnation"] != row["member_incarnation"]
        if not gone:
            beat, since, reads = self._seen
            if beat != (row["term"], row["beat"]):
                self._seen = ((row["term"], row["beat"]), now, 1)
                return
            self._seen = (beat, since, reads + 1)
            if now - since < self._settings.leader_timeout or reads + 1 < STANDBY_READS:
                return
        taken = await self._db.rows(
            "take_lead", role=store.ROLE, seen=row["term"], owner=self._settings.name, incarnation=self._incarnation
        )
        if taken:
            self._term = taken[0]["term"]
            log.info("fires the schedules from now on", term=self._term)

    # -- one transaction ---------------------------------------------------------------------
    async def _fire(self, term: int) -> bool:
        """Decides what is due, up to so many schedules. Whether there may be more."""
        async with self._writer.transaction() as conn:
            rows = await store.begin(conn, AT_ONCE)
            decided = store.Decided()
            specs: list[pb.JobSpec] = []
            for row in rows:
                try:
                    self._decide(row, decided, specs)
                except InvalidArgument as fault:  # one that cannot be fired holds up no other
                    log.error("a schedule's job cannot be made", schedule=str(row["id"]), why=str(fault))
                    again = row["now"] + REFUSED_AGAIN
                    decided.cursors.append(store.CursorRow(row["id"], row["cursor"], again, again, None))
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
        return len(rows) == AT_ONCE

    def _decide(self, row: dict[str, Any], decided: store.Decided, specs: list[pb.JobSpec]) -> None:
        state = ScheduleState(
            timing=parse_timing(
                cron=row["cron"], at=row["at"], time_zone=row["time_zone"], start=row["start_at"], end=row["end_at"]
            ),
            cursor=row["cursor"],
            unfinished=row["unfinished"],
            queued=row["queued"],
            oldest_queued=row["oldest_queued"],
        )
        late = timedelta(seconds=self._settings.misfire_after)
        found = due(state, row["now"], Policy(Misfire(row["misfire"]), Overlap(row["overlap"]), late))
        last_at: datetime | None = None
        made: list[tuple[NewJob, pb.JobSpec]] = []
        runs: list[NewRun] = []
        firings = []
        for firing in (*((found.dequeued,) if found.dequeued else ()), *found.rows):
            job_id = run_id = None
            if firing.state is FiringState.FIRED:
                last_at = row["now"]
                if row["workflow"] is not None:
                    runs.append(self.run_of(row, firing))
                    run_id = runs[-1].id
                else:
                    made.append(self.job(row, firing))
                    job_id = UUID(bytes=made[-1][0].id)
            firings.append(
                store.FiringRow(
                    row["id"], firing.instant, firing.first, firing.count, firing.state, firing.reason, job_id, run_id
                )
            )
        decided.runs += runs
        decided.jobs += [job for job, _ in made]
        specs += [spec for _, spec in made]
        decided.firings += firings
        if found.cancel_unfinished:
            decided.replaced += row["jobs"] or []
            decided.replaced_runs += row["runs"] or []
        decided.cursors.append(store.CursorRow(row["id"], found.cursor, found.next_at, found.wake_at, last_at))

    def run_of(self, row: dict[str, Any], firing: Firing, trigger: str = "schedule") -> NewRun:
        """The run of a firing: of its workflow's latest version."""
        if row["version"] is None:
            raise InvalidArgument(f"there is no workflow {row['workflow']!r} any more", "schedule.workflow")
        metadata = {**row["metadata"], "taskflow.instant": firing.instant.isoformat()}
        return new_run(
            self._clock.new_id(), row["workflow"], row["version"], (row["payload"] or b"null").decode(), metadata,
            trigger=trigger, schedule_id=row["id"],
        )  # fmt: skip

    def job(
        self, row: dict[str, Any], firing: Firing, metadata: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[NewJob, pb.JobSpec]:
        """The job of a firing: as its task's row says, or for a handler of the task's name in the queue `default`."""
        spec = pb.JobSpec(
            queue=row["queue"] or "default",
            task=row["target"] or row["task"],
            payload=row["payload"] or b"",
            encoding=row["encoding"],
            retries=row["retries"] or 0,
            priority=5 if row["priority"] is None else row["priority"],
        )
        options = options_from_json(row["options"])
        if options is not None:
            spec.options.CopyFrom(options)
        if row["task_id"] is not None:
            spec.options.task_id = str(row["task_id"])
        spec.options.metadata.update(row["metadata"])
        spec.options.metadata.update(metadata)
        spec.options.metadata["taskflow.schedule"] = str(row["id"])
        spec.options.metadata["taskflow.instant"] = firing.instant.isoformat()
        return self._admission.check(spec, "schedule", 0), spec
