"""DispatchService: offers, watches and queries of the schedulers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from taskflow._policy import state_of
from taskflow.v1 import dispatch_pb2 as pb
from taskflow.v1 import dispatch_pb2_grpc, queue_pb2
from taskflow_server.coordinator.api.manual_clock import ManualClock
from taskflow_server.coordinator.lanes.deferred import Deferred
from taskflow_server.coordinator.lanes.pager import LanePager
from taskflow_server.coordinator.ownership.leadership import Leadership
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.sessions import WorkerSessions
from taskflow_server.core.dispatch.records import Entry, WorkerRecord
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.runtime.failpoints import reach

STATS_TIMEOUT = 1.0
_HEARD = b"heard"  # in a watcher's queue: its first request has arrived


class DispatchServicer(dispatch_pb2_grpc.DispatchServiceServicer):
    def __init__(
        self,
        shared: Shared,
        leadership: Leadership,
        pager: LanePager,
        deferred: Deferred,
        sessions: WorkerSessions,
        manual_clock: ManualClock,
        closing: asyncio.Event,
    ) -> None:
        self._shared = shared
        self._leadership = leadership
        self._pager = pager
        self._deferred = deferred
        self._sessions = sessions
        self._manual_clock = manual_clock
        self._closing = closing

    async def Offer(self, requests: AsyncIterator[pb.OfferRequest], context: Any) -> AsyncIterator[pb.OfferResponse]:
        self._pager.search()
        reader = asyncio.ensure_future(self._read_offers(requests))
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({reader, closing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reader.cancel()
            closing.cancel()
        return
        yield pb.OfferResponse()  # pragma: no cover - makes this a stream

    async def _read_offers(self, requests: AsyncIterator[pb.OfferRequest]) -> None:
        async for request in requests:
            await reach("coordinator.offer")
            for group in request.lanes:
                self._pager.offer(group)

    async def Watch(self, requests: AsyncIterator[pb.WatchRequest], context: Any) -> AsyncIterator[pb.WatchResponse]:
        finals: asyncio.Queue[bytes] = asyncio.Queue()
        watched: set[bytes] = set()
        reader = asyncio.ensure_future(self._read_watches(requests, finals, watched))
        closer = asyncio.ensure_future(self._end_watch(finals))
        try:
            while job_id := await finals.get():
                found = [job_id]
                while not finals.empty() and (job_id := finals.get_nowait()):
                    found.append(job_id)
                watched.difference_update(found)
                yield pb.WatchResponse(final=[each for each in found if each is not _HEARD])
        finally:
            reader.cancel()
            closer.cancel()
            for job_id in watched:
                self._shared.unwatch(job_id, finals)

    async def _read_watches(
        self, requests: AsyncIterator[pb.WatchRequest], finals: asyncio.Queue[bytes], watched: set[bytes]
    ) -> None:
        heard = False
        try:
            async for request in requests:
                for job_id in request.add:
                    watched.add(job_id)
                    self._shared.watch(job_id, finals)
                for job_id in request.remove:
                    watched.discard(job_id)
                    self._shared.unwatch(job_id, finals)
                if not heard:
                    heard = True
                    finals.put_nowait(_HEARD)
        finally:
            finals.put_nowait(b"")

    async def _end_watch(self, finals: asyncio.Queue[bytes]) -> None:
        await self._closing.wait()
        finals.put_nowait(b"")

    async def Wake(self, request: pb.WakeRequest, context: Any) -> pb.WakeResponse:
        if request.runs:
            self._shared.runs_wanted.set()
            return pb.WakeResponse()
        self._deferred.rescan()
        self._shared.cancels_wanted.set()
        self._shared.due_wanted.set()
        if not request.job_ids:
            await self._leadership.read_paused()
        return pb.WakeResponse()

    async def MoveClock(self, request: pb.MoveClockRequest, context: Any) -> pb.MoveClockResponse:
        await self._manual_clock.move(request.moved_us)
        return pb.MoveClockResponse()

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        table = self._shared.table
        workers: list[pb.LiveWorker] = []
        if request.job_ids:
            entries: Iterable[Entry] = filter(None, map(table.by_job.get, request.job_ids))
        else:
            sessions = self._sessions.open.values()
            workers = [pb.LiveWorker(worker_id=s.worker, overdue=s.overdue) for s in sessions if s.overdue]
            entries = [
                e
                for seat in table.workers.values()
                for e in seat.entries.values()
                if not request.queue or e.key.queue == request.queue
            ]
        now = self._shared.clock.monotonic()
        return pb.DescribeResponse(jobs=[self._live(entry, now) for entry in entries], workers=workers)

    def _live(self, entry: Entry, now: float) -> pb.LiveJob:
        seat = self._shared.table.workers.get(entry.worker)
        held = entry.phase is Phase.IN_DOUBT and entry.leased and entry.started
        taken = entry.phase is Phase.TAKEN or (entry.phase is Phase.ENDING and bool(entry.worker)) or held
        return pb.LiveJob(
            job_id=entry.job_id,
            state=state_of(started=entry.started if taken else None).number,  # type: ignore[arg-type]
            attempt=entry.attempt,
            worker=seat.name if seat is not None else "",
            running_us=int((now - entry.taken_at) * 1e6) if taken and entry.taken_at else 0,
            progress=entry.progress,
            cancelling=entry.cancelling,
            exec_id=entry.exec_id,
            blocked_by=entry.limit.key if entry.phase is Phase.BLOCKED and entry.limit is not None else "",
        )

    async def DescribeQueues(self, request: pb.DescribeQueuesRequest, context: Any) -> pb.DescribeQueuesResponse:
        table = self._shared.table
        handed_out: defaultdict[str, int] = defaultdict(int)
        prefetched: defaultdict[str, int] = defaultdict(int)
        for seat in table.workers.values():
            for entry in seat.entries.values():
                handed_out[entry.key.queue] += 1
            for entry in self._prefetched(seat):
                prefetched[entry.key.queue] += 1
        budget: defaultdict[str, int] = defaultdict(int)
        if self._leadership.feed is not None:
            try:
                stats = await self._leadership.feed.stub.Stats(queue_pb2.StatsRequest(), timeout=STATS_TIMEOUT)
                for lane in stats.lanes:
                    budget[lane.queue] += lane.memory_bytes
            except grpc.RpcError:
                pass  # reported as 0 while it does not answer
        workers = await self._workers()
        queues = {lane.queue for lane in table.lanes} | handed_out.keys() | workers.keys() | budget.keys()
        return pb.DescribeQueuesResponse(
            queues=[
                pb.LiveQueue(
                    queue=q,
                    handed_out=handed_out[q],
                    prefetched=prefetched[q],
                    workers=len(workers.get(q, ())),
                    memory_bytes=budget[q],
                )
                for q in queues
            ]
        )

    def _prefetched(self, seat: WorkerRecord) -> list[Entry]:
        """The attempts of a worker beyond its slots, approximately: heartbeats report starts a moment later."""
        register = self._sessions.known.get(seat.worker)
        if register is None:
            return []
        taken = [entry for entry in seat.entries.values() if entry.phase is Phase.TAKEN]
        requested = [entry for entry in taken if not entry.started]
        return requested[max(0, register.concurrency - (len(taken) - len(requested))) :]

    async def _workers(self) -> dict[str, set[bytes]]:
        """The live workers that serve each queue: by a handler for it, or for a task that has had jobs there."""
        serving: defaultdict[str, set[bytes]] = defaultdict(set)
        queues_of: defaultdict[str, set[str]] = defaultdict(set)
        tasks = {task for session in self._sessions.open.values() for task in session.register.tasks}
        if tasks:
            shards = list(self._shared.table.shards)
            for row in await self._shared.db.rows("queues_of_tasks", tasks=sorted(tasks), shards=shards):
                queues_of[row["task"]].add(row["queue"])
        for worker, session in self._sessions.open.items():
            for queue in session.register.queues:
                serving[queue].add(worker)
            for task in session.register.tasks:
                for queue in queues_of.get(task, ()):
                    serving[queue].add(worker)
        return serving
