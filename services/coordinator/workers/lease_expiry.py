"""Ends the leases of workers that are silent, dead or gone: their attempts are lost or returned to their queue."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

from taskflow._process.identity import is_gone
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.sessions import WorkerSessions
from taskflow_server.core.dispatch.records import WorkerRecord
from taskflow_server.core.ids import show
from taskflow_server.runtime import logs
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS

log = logs.get("lease_expiry")

CHECK = 0.25  # seconds between checks of leases


class LeaseExpiry:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, performer: Performer, sessions: WorkerSessions) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._performer = performer
        self._sessions = sessions

    async def run(self) -> None:
        """Checks leases. A pause of this process or an outage of Postgres expires no lease (B2)."""
        shared = self._shared
        last = shared.clock.real.monotonic()
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(CHECK):
                    await self._sessions.goodbye.wait()
            self._sessions.goodbye.clear()
            now = shared.clock.monotonic()
            real = shared.clock.real.monotonic()
            gap, last = real - last - CHECK, real
            if gap > 1.0:
                log.warning("this process was paused; extended all leases by it", seconds=round(gap, 1))
                for worker in shared.table.workers.values():
                    worker.deadline += gap
            if not shared.healthy:
                continue
            dead = [w.worker for w in shared.table.workers.values() if w.deadline <= now or self._is_dead(w)]
            if dead:
                await self._expire(dead)

    def _is_dead(self, worker: WorkerRecord) -> bool:
        """Whether this machine's process table proves its death. A worker with an open stream is not looked up."""
        return worker.worker not in self._sessions.open and worker.process is not None and is_gone(worker.process)

    async def _expire(self, dead: list[bytes]) -> None:
        shared = self._shared
        for worker in dead:
            register, left = self._sessions.end(worker)
            effects = shared.table.worker_lost(worker, left=left)
            lost = effects.lost
            if lost:
                name, jobs = register.name if register else worker.hex(), [show(e.job_id) for e in lost[: logs.FEW]]
                log.warning("a worker is lost", worker=name, attempts=len(lost), jobs=jobs)
            self._performer.perform(effects)
        shared.settle_wanted.set()
        ids = [UUID(bytes=w) for w in dead]
        owner = bool(shared.table.shards)
        gone = ("unregister_workers", {"coordinator": shared.settings.name, "ids": ids, "owner": owner})
        with suppress(*FAULTS):  # then the row stays, and the next takeover waits for the end of its lease
            async with self._outcomes.exclusive:
                await self._outcomes.write(Changes(other=[gone]), set(shared.table.shards))
