"""The waits of one client, on one stream. Each job is subscribed to, then read, then answered when final (C1)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from uuid import UUID

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core.errors import InvalidArgument, ResourceExhausted
from taskflow_server.scheduler import resources
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.serving import Serving
from taskflow_server.store import jobs as store
from taskflow_server.store.database import Database

READ = 200  # jobs that are read together
ANSWER_BYTES = 2 << 20  # a message of answers stays well below the limit


class Waits:
    """The waits of one stream. `most`: limit of their number."""

    def __init__(self, db: Database, coordinators: Coordinators, serving: Serving, most: int) -> None:
        self._db = db
        self._serving = serving
        self._coordinators = coordinators
        self._most = most
        self._subscribed: dict[bytes, asyncio.Future[None]] = {}
        self._runs: set[bytes] = set()
        self._due: dict[bytes, bool] = {}  # ids to read; True: answer in any state
        self._news = asyncio.Event()

    async def answers(
        self, requests: AsyncIterator[pb.StreamAwaitJobsRequest]
    ) -> AsyncGenerator[pb.StreamAwaitJobsResponse]:
        """Answers until the requests end. Unavailable when this scheduler stops. An empty answer confirms the first
        request."""
        following = asyncio.create_task(self._follow(requests))
        following.add_done_callback(lambda _: self._news.set())
        greeted = False
        try:
            while not following.done():
                await self._news.wait()
                self._news.clear()
                while self._due:
                    async for answer in self._read():
                        yield answer
                if not greeted:
                    greeted = True
                    yield pb.StreamAwaitJobsResponse()
            following.result()
        finally:
            following.cancel()
            self._forget(list(self._subscribed))

    async def _follow(self, requests: AsyncIterator[pb.StreamAwaitJobsRequest]) -> None:
        async for request in requests:
            for job_id in _checked(request.add, "add"):
                self._subscribe(job_id)
            for run_id in _checked(request.add_runs, "add_runs"):
                self._runs.add(run_id)
                self._subscribe(run_id)
            self._forget(request.remove)
            self._due.update(dict.fromkeys(_checked(request.look, "look"), True))
            self._news.set()

    def _subscribe(self, wanted: bytes) -> None:
        if wanted in self._subscribed:
            return
        if len(self._subscribed) >= self._most:
            said = f"add: the number of waits exceeds the limit of {self._most} for one stream"
            raise ResourceExhausted(f"{said} (TASKFLOW_MAX_STREAM_WAITS)")
        final = self._subscribed[wanted] = self._coordinators.subscribe(wanted)
        final.add_done_callback(lambda _: self._read_soon(wanted, final))
        self._due.setdefault(wanted, False)

    def _read_soon(self, wanted: bytes, final: asyncio.Future[None]) -> None:
        if self._subscribed.get(wanted) is final:
            self._due.setdefault(wanted, False)
            self._news.set()

    def _forget(self, ids: Iterable[bytes]) -> None:
        for wanted in ids:
            self._runs.discard(wanted)
            final = self._subscribed.pop(wanted, None)
            if final is not None:
                self._coordinators.unsubscribe(wanted, final)

    async def _read(self) -> AsyncIterator[pb.StreamAwaitJobsResponse]:
        """Reads some of the due jobs, and answers those that are final."""
        batch = {wanted: self._due.pop(wanted) for wanted in list(self._due)[:READ]}
        for wanted in batch:
            final = self._subscribed.get(wanted)
            if final is not None and final.done():
                final.result()  # Unavailable: this scheduler stops
                # A notice is sent once, so subscribe again before the read: the job may wait again by then.
                self._forget_notice(wanted)
        runs = [wanted for wanted in batch if wanted in self._runs]
        jobs = [wanted for wanted in batch if wanted not in self._runs]
        if runs:
            ended = await self._db.rows("final_runs", ids=[UUID(bytes=i) for i in runs])
            answer = pb.StreamAwaitJobsResponse(final_runs=[row["id"].bytes for row in ended])
            self._forget(answer.final_runs)
            if answer.final_runs:
                yield answer
        if jobs:
            async for answer in self._read_jobs({wanted: batch[wanted] for wanted in jobs}):
                yield answer

    def _forget_notice(self, wanted: bytes) -> None:
        run = wanted in self._runs
        self._forget([wanted])
        if run:
            self._runs.add(wanted)
        self._subscribe(wanted)
        self._due.pop(wanted, None)

    async def _read_jobs(self, batch: dict[bytes, bool]) -> AsyncIterator[pb.StreamAwaitJobsResponse]:
        rows = await store.get_jobs(self._db, list(batch))
        final = {i for i, row in rows.items() if resources.stored_state(row).final}
        looked_at = [i for i in rows if batch[i] and i not in final]
        live = await self._coordinators.describe(looked_at) if looked_at else {}
        answer, size = pb.StreamAwaitJobsResponse(unknown=[i for i in batch if i not in rows]), 0
        self._forget(answer.unknown)
        shown = {i: resources.job(row, live.get(i)) for i, row in rows.items() if batch[i] or i in final}
        await self._serving.warn([(job, (rows[i]["queue"], rows[i]["task"])) for i, job in shown.items()])
        for job_id, job in shown.items():
            if job_id in final:
                self._forget([job_id])
            if answer.jobs and size + job.ByteSize() > ANSWER_BYTES:
                yield answer
                answer, size = pb.StreamAwaitJobsResponse(), 0
            answer.jobs.append(job)
            size += job.ByteSize()
        if answer.jobs or answer.unknown:
            yield answer


def _checked(ids: Iterable[bytes], field: str) -> list[bytes]:
    found = list(ids)
    if any(len(one) != 16 for one in found):
        raise InvalidArgument(f"{field}: must be the 16 bytes of a UUID", field, "BAD_ID")
    return found
