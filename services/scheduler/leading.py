"""Elects the scheduler that fires the schedules. It leads under a term, which ends each of its transactions (S1.6).

A leader is dead when its beat stands still, as an owner of shards is (protocol B1): no clocks are compared.
"""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

from taskflow_server.runtime import logs
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.store.database import Database
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.schedules import ROLE

log = logs.get("firing")

STANDBY_READS = 3  # successful reads of an unchanged beat before a leader counts as dead


class Lead:
    def __init__(self, settings: SchedulerSettings, db: Database, clock: SystemClock, incarnation: UUID) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._incarnation = incarnation
        self._seen: tuple[object, float, int] = (None, 0.0, 0)  # another leader's beat, since when, successful reads
        self.term: int | None = None  # the term of this scheduler while it leads

    async def try_to_lead(self) -> bool:
        """Takes the lead when no other scheduler has it."""
        row = (await self._db.rows("read_leader", role=ROLE))[0]
        now = self._clock.real.monotonic()
        gone = row["owner"] is None or row["beat"] is None or row["incarnation"] != row["member_incarnation"]
        if not gone:
            beat, since, reads = self._seen
            if beat != (row["term"], row["beat"]):
                self._seen = ((row["term"], row["beat"]), now, 1)
                return False
            self._seen = (beat, since, reads + 1)
            if now - since < self._settings.leader_timeout or reads + 1 < STANDBY_READS:
                return False
        taken = await self._db.rows(
            "take_lead", role=ROLE, seen=row["term"], owner=self._settings.name, incarnation=self._incarnation
        )
        if taken:
            self.term = taken[0]["term"]
            log.info("became leader of the schedules", term=self.term)
        return bool(taken)

    def lost(self) -> None:
        log.info("another scheduler became leader of the schedules")
        self.term = None

    async def leave(self) -> None:
        """Releases the lead for another scheduler."""
        if self.term is not None:
            with suppress(*FAULTS):
                await self._db.run("leave_lead", role=ROLE, owner=self._settings.name, incarnation=self._incarnation)
