"""DispatchService: offers, watches and questions of the schedulers."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc

from services.coordinator.moving import Moving
from services.coordinator.owner import Owner
from services.coordinator.pager import Pager
from services.coordinator.sessions import Sessions
from services.coordinator.state import State
from services.core.book import Entry, Phase
from services.runtime.failpoints import reach
from taskflow._policy import JobState
from taskflow.v1 import dispatch_pb2 as pb
from taskflow.v1 import dispatch_pb2_grpc, queue_pb2

STATS_TIMEOUT = 1.0


class DispatchServicer(dispatch_pb2_grpc.DispatchServiceServicer):
    def __init__(
        self, state: State, owner: Owner, pager: Pager, sessions: Sessions, moving: Moving, closing: asyncio.Event
    ) -> None:
        self._state = state
        self._owner = owner
        self._pager = pager
        self._sessions = sessions
        self._moving = moving
        self._closing = closing

    async def Offer(
        self, requests: AsyncIterator[pb.OfferRequest], context: Any
    ) -> AsyncIterator[pb.OfferResponse]:
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

    async def Watch(
        self, requests: AsyncIterator[pb.WatchRequest], context: Any
    ) -> AsyncIterator[pb.WatchResponse]:
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
                yield pb.WatchResponse(final=found)
        finally:
            reader.cancel()
            closer.cancel()
            for job_id in watched:
                self._state.unwatch(job_id, finals)

    async def _read_watches(
        self, requests: AsyncIterator[pb.WatchRequest], finals: asyncio.Queue[bytes], watched: set[bytes]
    ) -> None:
        try:
            async for request in requests:
                for job_id in request.add:
                    watched.add(job_id)
                    self._state.watch(job_id, finals)
                for job_id in request.remove:
                    watched.discard(job_id)
                    self._state.unwatch(job_id, finals)
        finally:
            finals.put_nowait(b"")

    async def _end_watch(self, finals: asyncio.Queue[bytes]) -> None:
        await self._closing.wait()
        finals.put_nowait(b"")

    async def Wake(self, request: pb.WakeRequest, context: Any) -> pb.WakeResponse:
        if request.runs:
            self._state.runs_wanted.set()
            return pb.WakeResponse()
        self._pager.rescan_due()
        self._state.cancels_wanted.set()
        self._state.due_wanted.set()
        if not request.job_ids:
            await self._owner.read_paused()
        return pb.WakeResponse()

    async def MoveClock(self, request: pb.MoveClockRequest, context: Any) -> pb.MoveClockResponse:
        await self._moving.move(request.moved_us)
        return pb.MoveClockResponse()

    async def Describe(self, request: pb.DescribeRequest, context: Any) -> pb.DescribeResponse:
        book = self._state.book
        if request.job_ids:
            entries: Iterable[Entry] = filter(None, map(book.by_job.get, request.job_ids))
        else:
            entries = [
                e
                for seat in book.seats.values()
                for e in seat.entries.values()
                if not request.queue or e.key.queue == request.queue
            ]
        now = self._state.clock.monotonic()
        return pb.DescribeResponse(jobs=[self._live(entry, now) for entry in entries])

    def _live(self, entry: Entry, now: float) -> pb.LiveJob:
        seat = self._state.book.seats.get(entry.worker)
        held = entry.phase is Phase.HELD and entry.leased and entry.started
        taken = entry.phase is Phase.TAKEN or (entry.phase is Phase.ENDING and bool(entry.worker)) or held
        state = JobState.READY
        if taken:
            state = JobState.RUNNING if entry.started else JobState.REQUESTED
        return pb.LiveJob(
            job_id=entry.job_id,
            state=int(state),  # type: ignore[arg-type]
            attempt=entry.attempt,
            worker=seat.name if seat is not None else "",
            running_us=int((now - entry.taken_at) * 1e6) if taken and entry.taken_at else 0,
            progress=entry.progress,
            cancelling=entry.cancelling,
            exec_id=entry.exec_id,
        )

    async def DescribeQueues(self, request: pb.DescribeQueuesRequest, context: Any) -> pb.DescribeQueuesResponse:
        book = self._state.book
        handed_out: defaultdict[str, int] = defaultdict(int)
        for seat in book.seats.values():
            for entry in seat.entries.values():
                handed_out[entry.key.queue] += 1
        memory: defaultdict[str, int] = defaultdict(int)
        if self._owner.feed is not None:
            try:
                stats = await self._owner.feed.stub.Stats(queue_pb2.StatsRequest(), timeout=STATS_TIMEOUT)
                for lane in stats.lanes:
                    memory[lane.queue] += lane.memory_bytes
            except grpc.RpcError:
                pass  # told as 0, for as long as it does not answer
        workers = self._workers()
        queues = {lane.queue for lane in book.lanes} | handed_out.keys() | workers.keys()
        return pb.DescribeQueuesResponse(
            queues=[
                pb.LiveQueue(queue=q, handed_out=handed_out[q], workers=len(workers.get(q, ())), memory_bytes=memory[q])
                for q in queues
            ]
        )

    def _workers(self) -> dict[str, set[bytes]]:
        """Live workers that serve each queue: by a handler for it, or for a task that it has a lane of."""
        serving: defaultdict[str, set[bytes]] = defaultdict(set)
        queues_of: defaultdict[str, set[str]] = defaultdict(set)
        for lane in self._state.book.lanes:
            if lane.task:
                queues_of[lane.task].add(lane.queue)
        for worker, session in self._sessions.open.items():
            for queue in session.register.queues:
                serving[queue].add(worker)
            for task in session.register.tasks:
                for queue in queues_of.get(task, ()):
                    serving[queue].add(worker)
        return serving
