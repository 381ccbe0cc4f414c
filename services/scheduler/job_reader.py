"""Reads jobs: the facts from Postgres, and handed-out jobs from the owners' memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from taskflow._policy import STATES, JobState
from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core import ids
from taskflow_server.core.errors import NotFound
from taskflow_server.core.names import DEFAULT_NAMESPACE, bare
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.runtime.failpoints import reach
from taskflow_server.scheduler import resources
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.serving import Serving
from taskflow_server.store import jobs as store
from taskflow_server.store.database import Database

CANCEL_PATIENCE = 2.0  # seconds that the cancel of a waiting job waits for the owner
_WAITING = {JobState.SCHEDULED, JobState.READY, JobState.RETRYING}


class JobReader:
    def __init__(self, db: Database, coordinators: Coordinators, serving: Serving) -> None:
        self._db = db
        self._serving = serving
        self._coordinators = coordinators
        self._rows: Batcher[bytes, dict[str, Any] | None] = Batcher(self._read_rows, limit=500)

    async def _read_rows(self, wanted: list[bytes]) -> Sequence[dict[str, Any] | None]:
        found = await store.get_jobs(self._db, list(set(wanted)))
        return [found.get(i) for i in wanted]

    async def row(self, job_id: bytes) -> dict[str, Any]:
        row = (await asyncio.shield(self._rows.submit([job_id])))[0]
        if row is None:
            raise NotFound(f"there is no job {ids.show(job_id)}", "JOB_NOT_FOUND")
        return row

    async def job(self, job_id: bytes) -> pb.Job:
        row = await self.row(job_id)
        live = None
        if not resources.stored_state(row).final:
            live = (await self._coordinators.describe([job_id])).get(job_id)
            if live is None:
                row = await self.row(job_id)  # the job may have ended between the two reads
        found = resources.job(row, live)
        await self._serving.warn([(found, (row["queue"], row["task"]))])
        blocked_by = live.blocked_by if live is not None else row["blocked_by"]
        if blocked_by and STATES[found.state] is JobState.READY:
            await self._warn_of_limit(found, blocked_by)
        return found

    async def _warn_of_limit(self, job: pb.Job, key: str) -> None:
        """Adds a warning that names the limit for whose permit the job waits."""
        rows = await self._db.rows("limited_task", id=UUID(key.removeprefix("task:")))
        for row in rows:
            task, most = bare(row["name"]), row["concurrency"]
            said = f"waits for the concurrency of task {task}, of which {most:,} may run at once"
            job.warnings.add(reason="CONCURRENCY", message=said)

    async def keyed(self, key: str) -> bytes:
        """The id of the job with this idempotency key."""
        wanted = {"namespace": [DEFAULT_NAMESPACE], "key": [key]}
        rows = [] if "\0" in key else await self._db.rows("keyed_jobs", **wanted)
        if not rows:
            raise NotFound(f"there is no job with the key {key[:80]!r}", "JOB_NOT_FOUND")
        found: bytes = rows[0]["job_id"].bytes
        return found

    @asynccontextmanager
    async def watching(self, job_id: bytes) -> AsyncIterator[asyncio.Future[None]]:
        """A future that is done when the job is reported as final from now on."""
        future = self._coordinators.subscribe(job_id)
        try:
            yield future
        finally:
            self._coordinators.unsubscribe(job_id, future)

    async def await_final(self, job_id: bytes, timeout: float) -> pb.Job:
        """Subscribes first, then reads, then waits (protocol C1)."""
        await reach("scheduler.await")
        async with self.watching(job_id) as final:
            if not resources.stored_state(await self.row(job_id)).final:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await final
        return await self.job(job_id)

    async def cancelled(self, job_id: bytes, final: asyncio.Future[None]) -> pb.Job:
        """The job after its cancel was requested: a waiting one is final, unless its owner is unreachable (A13)."""
        job = await self.job(job_id)
        if STATES[job.state] in _WAITING:
            with suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_PATIENCE):
                    await final
            job = await self.job(job_id)
        return job

    async def sweep_awaited(self) -> None:
        """Reads which awaited jobs are final, in case a notice was lost."""
        self._coordinators.look.clear()
        awaited = self._coordinators.awaited
        for start in range(0, len(awaited), 1000):
            rows = await self._db.rows("final_jobs", ids=[UUID(bytes=i) for i in awaited[start : start + 1000]])
            self._coordinators.settled(row["id"].bytes for row in rows)
            runs = await self._db.rows("final_runs", ids=[UUID(bytes=i) for i in awaited[start : start + 1000]])
            self._coordinators.settled(row["id"].bytes for row in runs)

    async def attempts(self, job_id: bytes) -> list[pb.Attempt]:
        await self.row(job_id)
        rows = await self._db.rows("list_attempts", job_id=UUID(bytes=job_id))
        found = [resources.attempt(row) for row in rows]
        lease = await self._db.rows("current_lease", job_id=UUID(bytes=job_id))
        live = (await self._coordinators.describe([job_id])).get(job_id)
        running = resources.running_attempt(job_id, lease[0] if lease else None, live)
        if running is not None and all(a.number != running.number for a in found):
            found.append(running)
        return found
