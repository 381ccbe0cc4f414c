"""Follows the cluster's clock when a call moves it (`--clock=manual`): this coordinator, then its workers.

A short step is like real time: leases run, and workers renew them as they follow. A step longer than a third of the
lease would end all leases before a worker could renew one, so both sides extend the leases by the step.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.lanes.deferred import Deferred
from taskflow_server.coordinator.runs.loop import RunLoop
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.sessions import WorkerSessions
from taskflow_server.runtime.failpoints import reach

PATIENCE = 1.0  # seconds of real time for workers to follow; one that does not is stopped or gone


class ManualClock:
    def __init__(self, shared: Shared, sessions: WorkerSessions, deferred: Deferred, runs: RunLoop) -> None:
        self._shared = shared
        self._sessions = sessions
        self._deferred = deferred
        self._runs = runs

    def follow(self, moved_us: int) -> None:
        """Moves this coordinator's clock and notifies the workers."""
        shared = self._shared
        by = moved_us / 1e6 - shared.clock.moved
        if by <= 0:
            return
        keep = by > shared.settings.lease / 3
        if keep:
            for worker in self._sessions.open:
                shared.table.workers[worker].deadline += by
        shared.clock.move(moved_us)
        told = pb.SessionResponse(clock_moved=pb.ClockMoved(moved_us=moved_us, keep_leases=keep))
        for session in self._sessions.open.values():
            session.out.put_nowait(told)
        shared.cancels_wanted.set()
        shared.due_wanted.set()
        shared.runs_wanted.set()

    async def move(self, moved_us: int) -> None:
        """Returns when the workers with an open session have followed, and the newly due jobs are read."""
        await reach("coordinator.move_clock")
        self.follow(moved_us)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                while any(session.moved_us < moved_us for session in self._sessions.open.values()):
                    await self._sessions.heard.wait()
        await self._runs.caught_up(PATIENCE)
        await self._deferred.due_now()
