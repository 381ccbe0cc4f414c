"""Ends of attempts that wait for a transaction of their handler (protocol A17).

Invariant: the outcome writer never waits for a user's transaction. An end that meets one is put off here: first the
fence of its attempt is closed, so that no further transaction is let in; then the end is written as soon as those that
were open are over. After TASKFLOW_FENCED_WAIT their sessions are terminated, so that a handler that hangs does not hang
its job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from taskflow_server.coordinator.outcomes.ending import Ending
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.ids import show
from taskflow_server.runtime import logs
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.fenced import end_transactions, held_jobs, lock_writer

log = logs.get("fenced")

CHECK = 0.1  # seconds between looks whether a transaction is over


@dataclass(slots=True)
class _Held:
    ending: Ending
    since: float
    until: float  # then the transactions are terminated
    closed: bool = False  # no further transaction is let in


class HeldEnds:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._writer = lock_writer(shared.settings.database_url, shared.settings.database_timeout)
        self._held: dict[bytes, _Held] = {}  # by job
        self._wanted = asyncio.Event()
        self._outage = shared.readiness.outage(log, "ends of attempts that a transaction holds cannot be written")
        outcomes.held = self.hold

    async def close(self) -> None:
        await self._writer.reset()

    def hold(self, ending: Ending) -> None:
        """To be written again once its handler's transactions are over."""
        now = self._shared.clock.real.monotonic()
        self._held[ending.entry.job_id] = _Held(ending, now, now + self._shared.settings.fenced_wait)
        self._wanted.set()

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            try:
                await self._look()
                self._outage.over()
            except FAULTS as error:
                self._outage.failed(error)
            if not self._held:
                self._wanted.clear()
                continue
            await self._shared.clock.real.sleep(CHECK)

    async def _look(self) -> None:
        for job, held in list(self._held.items()):
            if not self._outcomes.is_open(held.ending):  # a takeover came between: the next owner decides anew
                del self._held[job]
        await self._close([held for held in self._held.values() if not held.closed])
        if self._held:
            open_ = await held_jobs(self._shared.db, list(self._held))
            self._write([job for job in self._held if job not in open_])
        now = self._shared.clock.real.monotonic()
        for job, held in list(self._held.items()):
            if now >= held.until:
                await self._terminate(job, held)

    async def _close(self, held: list[_Held]) -> None:
        """Lets no further transaction of these attempts in. Those that are open do not hinder it."""
        if not held:
            return
        ids = [UUID(bytes=each.ending.entry.job_id) for each in held]
        shards = {each.ending.entry.shard for each in held}
        async with self._outcomes.exclusive:
            await self._outcomes.write(Changes(other=[("close_fences", {"ids": ids})]), shards)
        for each in held:
            each.closed = True

    def _write(self, jobs: Iterable[bytes]) -> None:
        for job in jobs:
            self._outcomes.write_again(self._held.pop(job).ending)

    async def _terminate(self, job: bytes, held: _Held) -> None:
        now = self._shared.clock.real.monotonic()
        seconds = round(now - held.since, 1)
        spared = await end_transactions(self._writer, job)
        if spared:
            held.until = now + self._shared.settings.fenced_wait
            log.warning(
                "a transaction holds the end of its attempt, and our role may not terminate its session: grant it"
                " pg_signal_backend", job=show(job), seconds=seconds, sessions=spared,
            )  # fmt: skip
        else:
            log.warning("a transaction held the end of its attempt: session terminated", job=show(job), seconds=seconds)
