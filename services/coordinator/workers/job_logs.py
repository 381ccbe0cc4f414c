"""Progress and log lines of attempts."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from uuid import UUID

from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.errors import InternalFault, Unavailable
from taskflow_server.core.ids import show
from taskflow_server.rpc.values import clean
from taskflow_server.runtime import logs
from taskflow_server.store.errors import DatabaseError, short
from taskflow_server.store.times import to_datetime

log = logs.get("notes")

MAX_LINES = 10_000  # limit of the log lines that wait for Postgres; beyond it the oldest are dropped
MAX_AGE_US = 86_400_000_000  # of an arriving line: a day
BATCH = 1000

Line = tuple[bytes, int, int, str, str]  # job, attempt, microseconds since 1970, level, message


class JobLogs:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._lines: deque[Line] = deque(maxlen=MAX_LINES)
        self._news = asyncio.Event()
        self._outage = shared.readiness.outage(log, "log lines cannot be written")

    async def take(self, request: pb.NotifyRequest) -> list[bytes]:
        """Keeps progress and log lines of running attempts; returns the exec_ids that are not current."""
        stale = []
        for note in request.notifications:
            entry = self._shared.table.by_exec.get(note.exec_id)
            if entry is None or entry.executor_lease is not None:
                stale.append(note.exec_id)
                continue
            self._shared.table.running(entry)
            self.keep(entry, note)
        return stale

    def keep(self, entry: Entry, note: pb.Notification) -> None:
        """Keeps the progress and log lines of a running attempt."""
        now = self._shared.clock.now_us()
        told = note.progress
        if note.HasField("progress") and math.isfinite(told.current) and math.isfinite(told.total):
            self._shared.table.progressed(entry, told)
        for line in note.logs:
            at = now - min(max(0, line.age_us), MAX_AGE_US)
            self._add(entry.job_id, entry.attempt, at, line.level, line.message)

    def stale(self, outcome: pb.AttemptOutcome, reason: str) -> None:
        """Adds a line about a refused outcome to its job's log (R1)."""
        self.refused(outcome.job_id, outcome.attempt, f"an outcome of attempt {outcome.attempt} was refused: {reason}")

    def refused(self, job_id: bytes, attempt: int, message: str) -> None:
        self._add(job_id, attempt, self._shared.clock.now_us(), "warning", message)

    def _add(self, job_id: bytes, attempt: int, at: int, level: str, message: str) -> None:
        self._lines.append((job_id, attempt, at, clean(level, 20) or "info", clean(message)))
        self._news.set()

    async def run(self) -> None:
        """Writes lines in batches. An outage drops the oldest beyond the limit: lines are not outcomes."""
        shared = self._shared
        while True:
            await self._news.wait()
            self._news.clear()
            while self._lines:
                batch = [self._lines.popleft() for _ in range(min(BATCH, len(self._lines)))]
                try:
                    await self._write(batch)
                    self._outage.over()
                except Unavailable as error:
                    self._outage.failed(error)
                    self._lines.extendleft(reversed(batch[: MAX_LINES - len(self._lines)]))
                    await shared.clock.sleep(1.0)

    async def _write(self, batch: list[Line]) -> None:
        try:
            await self._shared.db.run(
                "append_logs",
                job_id=[UUID(bytes=line[0]) for line in batch],
                attempt=[line[1] for line in batch],
                logged_at=[to_datetime(line[2]) for line in batch],
                level=[line[3] for line in batch],
                message=[line[4] for line in batch],
            )
        except (InternalFault, DatabaseError) as error:
            # One of the lines is at fault: halve them until it is alone, and leave it out.
            if len(batch) == 1:
                log.error("a log line is refused", job=show(batch[0][0]), why=short(error))
                return
            middle = len(batch) // 2
            await self._write(batch[:middle])
            await self._write(batch[middle:])
