"""QueueAdminService: queues, with the numbers of their jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from taskflow.v1 import queues_pb2 as pb
from taskflow.v1 import queues_pb2_grpc
from taskflow.v1.dispatch_pb2 import LiveQueue
from taskflow_server.core.errors import InvalidArgument, NotFound
from taskflow_server.core.names import bare, namespace_of, qualify
from taskflow_server.rpc.values import duration, stamp
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.backlogs import MOST, Backlogs
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.job_lists import page_size
from taskflow_server.scheduler.queue_depth_metrics import WaitingTask
from taskflow_server.scheduler.serving import Serving
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.store.database import Database
from taskflow_server.store.times import to_us

MOST_WARNINGS = 20  # of one queue
PAGE = 500  # queues of a namespace that are counted together
READY_CAP = 10_000  # up to here the count is exact
COUNTED_SECONDS = 3600.0  # period of the counts in `finished`


class QueueAdminServicer(queues_pb2_grpc.QueueAdminServiceServicer):
    def __init__(
        self,
        db: Database,
        topology: TopologyCache,
        coordinators: Coordinators,
        backlogs: Backlogs,
        clock: SystemClock,
        serving: Serving,
    ) -> None:
        self._db = db
        self._topology = topology
        self._serving = serving
        self._coordinators = coordinators
        self._backlogs = backlogs
        self._clock = clock

    async def ListQueues(self, request: pb.ListQueuesRequest, context: Any) -> pb.ListQueuesResponse:
        size = page_size(request.page_size)
        queues = await self._read(after=_queue_token(request.page_token), names=[], limit=size + 1)
        token = ""
        if len(queues) > size:
            last = queues[size - 1]
            token = qualify(last.name, field="name", namespace=last.namespace)
        return pb.ListQueuesResponse(queues=queues[:size], next_page_token=token)

    async def GetQueue(self, request: pb.GetQueueRequest, context: Any) -> pb.Queue:
        name = qualify(request.name, field="name")
        found = await self._read(after="", names=[name], limit=1)
        if not found:
            raise _not_found(request.name)
        tasks = await self._db.rows("waiting_tasks_of_queue", queue=name, limit=MOST_WARNINGS)
        warnings = await self._serving.warnings((name, row["task"]) for row in tasks)
        found[0].warnings.extend(warnings[lane] for lane in sorted(warnings))
        return found[0]

    async def page(self, after: str, limit: int) -> list[pb.Queue]:
        """`limit` queues in order of their stored names, after the given one."""
        return await self._read(after=after, names=[], limit=limit)

    async def waiting_tasks(self, queues: Sequence[str], limit: int) -> list[WaitingTask]:
        """The tasks of these queues (stored names) whose oldest ready jobs have waited longest."""
        now = self._clock.now_us()
        rows = await self._db.rows("oldest_of_tasks", queues=list(queues), limit=limit)
        found = []
        for row in rows:
            since = to_us(row["oldest"]) or 0
            age = max(0.0, (now - since) / 1e6)
            found.append(WaitingTask(row["queue"], row["task"], since, age, row["registered"]))
        return found

    async def waiting_jobs(self, namespace: str) -> int:
        """The approximate number of ready, scheduled and retrying jobs in a namespace's queues."""
        jobs, after = 0, ""
        while True:
            page = await self._db.rows("queues_of_namespace", namespace=namespace, after=after, limit=PAGE)
            names = [row["name"] for row in page]
            rows = await self._db.rows("list_queues", after="", names=names, limit=PAGE) if names else []
            jobs += sum(queue.ready + queue.scheduled for queue in (await self._counted(rows)).values())
            if len(names) < PAGE:
                return jobs
            after = names[-1]

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Any) -> pb.Queue:
        return await self._switch("pause_queue", request.name)

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Any) -> pb.Queue:
        return await self._switch("resume_queue", request.name)

    async def DrainQueue(self, request: pb.DrainQueueRequest, context: Any) -> pb.Queue:
        return await self._switch("drain_queue", request.name)

    async def _switch(self, query: str, name: str) -> pb.Queue:
        stored = qualify(name, field="name")
        if not await self._db.run(query, name=stored):
            raise _not_found(name)
        await self._topology.read_draining()  # other schedulers read this with the topology
        await self._coordinators.wake_queues()
        return (await self._read(after="", names=[stored], limit=1))[0]

    async def _read(self, *, after: str, names: list[str], limit: int) -> list[pb.Queue]:
        queues = await self._counted(await self._db.rows("list_queues", after=after, names=names, limit=limit))
        for count in await self._db.rows("counts_since", queues=list(queues), seconds=COUNTED_SECONDS):
            queues[count["queue"]].finished.add(outcome=count["outcome"], count=count["n"])
        return list(queues.values())

    async def _counted(self, rows: Sequence[dict[str, Any]]) -> dict[str, pb.Queue]:
        """Rows of `list_queues` as queues by their stored names, with the numbers of waiting and running jobs."""
        ready = {
            r["name"]: r
            for r in await self._db.rows("ready_of_queues", names=[r["name"] for r in rows], cap=READY_CAP + 1)
        }
        live = await self._coordinators.describe_queues()
        long = await self._backlogs.count(name for name, r in ready.items() if r["ready"] > READY_CAP)
        return {
            row["name"]: self._queue(row, ready.get(row["name"]), live.get(row["name"]), long.get(row["name"]))
            for row in rows
        }

    def _queue(
        self, row: dict[str, Any], ready: dict[str, Any] | None, live: LiveQueue | None, backlog: int | None
    ) -> pb.Queue:
        """`backlog`: the approximate number of waiting jobs, when the exact count has reached its limit."""
        handed_out = live.handed_out if live else row["leased"]
        requested = live.prefetched if live else 0
        # Jobs that are handed out and have no lease row yet are beyond the marks, as ready jobs are.
        counted = max(ready["ready"] if ready else 0, backlog or 0)
        waiting = max(0, counted - max(0, handed_out - row["leased"]))
        estimated = backlog is not None and waiting > READY_CAP
        queue = pb.Queue(
            name=bare(row["name"]),
            namespace=namespace_of(row["name"]),
            ready=waiting if estimated else min(waiting, READY_CAP),
            ready_estimated=estimated,
            ready_capped=counted >= MOST if estimated else waiting > READY_CAP,
            paused=row["paused"],
            draining=row["draining"],
            scheduled=row["scheduled"],
            running=handed_out - requested,
            requested=requested,
            workers=live.workers if live else 0,
            memory_bytes=live.memory_bytes if live else 0,
            create_time=stamp(row["created_at"]),
        )
        if ready and waiting:
            age = (self._clock.now_us() - (to_us(ready["oldest"]) or 0)) / 1e6
            queue.oldest.CopyFrom(duration(max(age, 0.0)))
        return queue


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no queue {name!r}; a queue is made by its first job", "QUEUE_NOT_FOUND")


def _queue_token(token: str) -> str:
    try:
        return qualify(token, field="page_token") if token else ""
    except InvalidArgument:
        raise InvalidArgument("page_token: is not a valid token of this method", "page_token") from None
