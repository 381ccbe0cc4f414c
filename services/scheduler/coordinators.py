"""The scheduler's connections to coordinators: offers, watches, queries. All are hints: losing one costs latency."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress

import grpc

from taskflow.v1 import dispatch_pb2 as pb
from taskflow.v1 import dispatch_pb2_grpc
from taskflow_server.core.errors import Unavailable
from taskflow_server.rpc.server import channel
from taskflow_server.runtime import logs
from taskflow_server.runtime.failpoints import reach
from taskflow_server.runtime.lifecycle import Background
from taskflow_server.scheduler.topology_cache import TopologyCache

log = logs.get("coordinators")

OFFER_BYTES = 2 << 20  # a message of offers stays well below the limit
# Seconds between two messages of offers: the first job after an idle time is offered at once, the jobs of a stream of
# calls together. A message costs 0.15 ms of CPU here and 0.5 ms in the coordinator; callers would wait for both.
OFFER_PAUSE = 0.005
RECONNECT = 0.5  # seconds before a broken stream is opened again
QUESTION_TIMEOUT = 1.0
MOST_UNHEARD = 1000  # wake-ups kept until an owner is known; the owner's sweep finds the other jobs
MOVE_TIMEOUT = 5.0  # seconds, for one step of the clock


class OwnerStream:
    """The connection to one coordinator. Reopens its streams until it is closed."""

    def __init__(self, address: str, backlog: int, told: Callable[[Sequence[bytes]], None]) -> None:
        self.address = address
        self._backlog = backlog
        self._told = told
        self._channel = channel(address)
        self.stub = dispatch_pb2_grpc.DispatchServiceStub(self._channel)
        self._offers: deque[pb.LaneJobs] = deque()
        self._waiting = 0
        self._offer_news = asyncio.Event()
        self._watched: set[bytes] = set()
        self._watch_news = asyncio.Event()
        self._add: set[bytes] = set()
        self._remove: set[bytes] = set()
        self.tasks = [
            asyncio.create_task(self._forever(self._offer_stream)),
            asyncio.create_task(self._forever(self._watch_stream)),
        ]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self._channel.close()

    def offer(self, group: pb.LaneJobs) -> None:
        if self._waiting + len(group.jobs) > self._backlog:
            return
        self._waiting += len(group.jobs)
        self._offers.append(group)
        self._offer_news.set()

    def watch(self, job_id: bytes) -> None:
        self._watched.add(job_id)
        self._remove.discard(job_id)
        self._add.add(job_id)
        self._watch_news.set()

    def unwatch(self, job_id: bytes) -> None:
        self._watched.discard(job_id)
        self._add.discard(job_id)
        self._remove.add(job_id)
        self._watch_news.set()

    async def _forever(self, stream: Callable[[], object]) -> None:
        while True:
            with suppress(grpc.RpcError):
                await stream()  # type: ignore[misc]
            await asyncio.sleep(RECONNECT)

    async def _offer_stream(self) -> None:
        call = self.stub.Offer(self._offer_requests())
        async for _ in call:
            pass

    async def _offer_requests(self) -> AsyncIterator[pb.OfferRequest]:
        self._offers.clear()  # the coordinator's pager reads what a broken stream did not deliver
        self._waiting = 0
        # One queue per stream: gRPC may leave the iterator of a broken stream waiting, and it would take new messages.
        self._offer_news.set()
        news = self._offer_news = asyncio.Event()
        while True:
            await news.wait()
            if self._offer_news is not news:
                return
            request, size = pb.OfferRequest(), 0
            while self._offers and size < OFFER_BYTES:
                group = self._offers.popleft()
                self._waiting -= len(group.jobs)
                size += group.ByteSize()
                request.lanes.append(group)
            if not self._offers:
                news.clear()
            yield request
            await asyncio.sleep(OFFER_PAUSE)

    async def _watch_stream(self) -> None:
        await reach("scheduler.watch")
        self._add = set(self._watched)
        call = self.stub.Watch(self._watch_requests())
        async for answer in call:
            self._told(answer.final)

    async def _watch_requests(self) -> AsyncIterator[pb.WatchRequest]:
        self._watch_news.set()
        news = self._watch_news = asyncio.Event()
        news.set()
        while True:
            await news.wait()
            if self._watch_news is not news:
                return
            news.clear()
            request = pb.WatchRequest(add=list(self._add), remove=list(self._remove))
            self._add.clear()
            self._remove.clear()
            yield request


class Coordinators:
    def __init__(self, topology: TopologyCache, backlog: int) -> None:
        self._topology = topology
        self._backlog = backlog
        self._links: dict[str, OwnerStream] = {}
        self._waiters: defaultdict[bytes, set[asyncio.Future[None]]] = defaultdict(set)
        self._unheard: deque[bytes] = deque(maxlen=MOST_UNHEARD)
        self._stopping = False
        self.runs_news = asyncio.Event()
        self.look = asyncio.Event()  # awaited jobs may have ended unnoticed

    def refresh(self, tasks: Background) -> None:
        """Connects to the present owners of shards, and disconnects from all others."""
        owners = set(self._topology.cluster.owners.values())
        for address in owners - self._links.keys():
            link = self._links[address] = OwnerStream(address, self._backlog, self._told)
            for job_id in self._waiters:
                link.watch(job_id)
        if self._links and self._unheard:
            tasks.start(self._wake(pb.WakeRequest(job_ids=list(self._unheard))), "wake-ups sent late")
            self._unheard.clear()
        for address in self._links.keys() - owners:
            tasks.start(self._links.pop(address).close(), f"close {address}")

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def _owner(self, shard: int) -> OwnerStream | None:
        return self._links.get(self._topology.cluster.owners.get(shard, ""))

    def offer(self, groups: Sequence[pb.LaneJobs]) -> None:
        for group in groups:
            link = self._owner(group.shard)
            if link is not None:
                link.offer(group)

    # -- waiting for jobs --------------------------------------------------------------------
    def _told(self, job_ids: Sequence[bytes]) -> None:
        if not job_ids:  # a new stream: the coordinator sends no notice for jobs that ended before it
            self.look.set()
        self.settled(job_ids)

    def settled(self, job_ids: Iterable[bytes]) -> None:
        for job_id in job_ids:
            for future in self._waiters.get(job_id, ()):
                if not future.done():
                    future.set_result(None)

    def subscribe(self, job_id: bytes) -> asyncio.Future[None]:
        """Done when the job is reported as final. Always unsubscribe. Unavailable when this scheduler stops."""
        if self._stopping:  # a wait that begins now would delay the stop for the whole grace period
            raise _stopping()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if job_id not in self._waiters:
            for link in self._links.values():
                link.watch(job_id)
        self._waiters[job_id].add(future)
        return future

    def unsubscribe(self, job_id: bytes, future: asyncio.Future[None]) -> None:
        future.cancel()
        waiters = self._waiters[job_id]
        waiters.discard(future)
        if not waiters:
            del self._waiters[job_id]
            for link in self._links.values():
                link.unwatch(job_id)

    def abandon(self) -> None:
        """Ends all waits and refuses new ones: this scheduler stops, and callers retry at another or the next one."""
        self._stopping = True
        for future in [f for futures in self._waiters.values() for f in futures if not f.done()]:
            future.set_exception(_stopping())

    @property
    def awaited(self) -> list[bytes]:
        return list(self._waiters)

    # -- queries -----------------------------------------------------------------------------
    async def wake(self, job_id: bytes) -> None:
        """Rows were written for this job: its owner looks now, not at its next sweep."""
        if not self._links:  # no owner is known yet, for example just after the start: wake the first one that is
            self._unheard.append(job_id)
        await self._wake(pb.WakeRequest(job_ids=[job_id]))

    async def _wake(self, request: pb.WakeRequest) -> None:
        """Returns when all owners have answered, or run out of time."""
        asked = (link.stub.Wake(request, timeout=QUESTION_TIMEOUT) for link in self._links.values())
        await asyncio.gather(*asked, return_exceptions=True)

    async def tell_of_runs(self) -> None:
        """Wakes the owners whenever `runs_news` is set: runs have new events. Events during one call share the next."""
        while True:
            await self.runs_news.wait()
            self.runs_news.clear()
            await self._wake(pb.WakeRequest(runs=True))

    async def wake_queues(self) -> None:
        """Queues were paused or resumed, or limits changed. Owners that answer have applied it when this returns."""
        await self._wake(pb.WakeRequest())

    async def move_clock(self, moved_us: int) -> None:
        """Returns when the owners that answer have moved their clocks; the others read it later from Postgres."""
        request = pb.MoveClockRequest(moved_us=moved_us)
        asked = (link.stub.MoveClock(request, timeout=MOVE_TIMEOUT) for link in self._links.values())
        await asyncio.gather(*asked, return_exceptions=True)

    async def describe(self, job_ids: Sequence[bytes] = (), queue: str = "") -> dict[bytes, pb.LiveJob]:
        """The jobs in the memory of the owners that answer."""
        answers = await self._describe(pb.DescribeRequest(job_ids=job_ids, queue=queue))
        return {job.job_id: job for answer in answers for job in answer.jobs}

    async def describe_all(self) -> tuple[list[pb.LiveJob], Counter[bytes]]:
        """All jobs that workers have, and the number of overdue handlers by worker_id."""
        answers = await self._describe(pb.DescribeRequest())
        overdue = Counter[bytes]()
        for answer in answers:
            for worker in answer.workers:  # a worker reports the same number to each coordinator
                overdue[worker.worker_id] = max(overdue[worker.worker_id], worker.overdue)
        return list({job.job_id: job for answer in answers for job in answer.jobs}.values()), overdue

    async def _describe(self, request: pb.DescribeRequest) -> list[pb.DescribeResponse]:
        asked = (link.stub.Describe(request, timeout=QUESTION_TIMEOUT) for link in self._links.values())
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, pb.DescribeResponse)]

    async def describe_queues(self) -> dict[str, pb.LiveQueue]:
        answers = await asyncio.gather(
            *(
                link.stub.DescribeQueues(pb.DescribeQueuesRequest(), timeout=QUESTION_TIMEOUT)
                for link in self._links.values()
            ),
            return_exceptions=True,
        )
        return {q.queue: q for a in answers if isinstance(a, pb.DescribeQueuesResponse) for q in a.queues}


def _stopping() -> Unavailable:
    return Unavailable("this scheduler is stopping; retry", "STOPPING")
