"""QueueAdminService."""

from __future__ import annotations

from typing import Any

from services.core.errors import InvalidArgument, NotFound
from services.core.names import bare, namespace_of, qualify
from services.rpc.values import duration, stamp
from services.runtime.clock import SystemClock
from services.scheduler.coordinators import Coordinators
from services.scheduler.lists import page_size
from services.store.database import Database
from services.store.times import to_us
from taskflow.v1 import queues_pb2 as pb
from taskflow.v1 import queues_pb2_grpc
from taskflow.v1.dispatch_pb2 import LiveQueue

READY_CAP = 10_000
COUNTED_SECONDS = 3600.0  # how far back `finished` goes


class QueueAdminServicer(queues_pb2_grpc.QueueAdminServiceServicer):
    def __init__(self, db: Database, coordinators: Coordinators, clock: SystemClock) -> None:
        self._db = db
        self._coordinators = coordinators
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
        found = await self._read(after="", names=[qualify(request.name, field="name")], limit=1)
        if not found:
            raise _not_found(request.name)
        return found[0]

    async def page(self, after: str, limit: int) -> list[pb.Queue]:
        """`limit` queues by their stored names, from beyond one on."""
        return await self._read(after=after, names=[], limit=limit)

    async def PauseQueue(self, request: pb.PauseQueueRequest, context: Any) -> pb.Queue:
        return await self._pause(request.name, paused=True)

    async def ResumeQueue(self, request: pb.ResumeQueueRequest, context: Any) -> pb.Queue:
        return await self._pause(request.name, paused=False)

    async def _pause(self, name: str, *, paused: bool) -> pb.Queue:
        stored = qualify(name, field="name")
        if not await self._db.run("pause_queue", name=stored, paused=paused):
            raise _not_found(name)
        await self._coordinators.wake_queues()
        return (await self._read(after="", names=[stored], limit=1))[0]

    async def _read(self, *, after: str, names: list[str], limit: int) -> list[pb.Queue]:
        rows = await self._db.rows("list_queues", after=after, names=names, limit=limit)
        ready = {
            r["name"]: r
            for r in await self._db.rows(
                "ready_of_queues", names=[r["name"] for r in rows], cap=READY_CAP + 1
            )
        }
        live = await self._coordinators.describe_queues()
        queues = {row["name"]: self._queue(row, ready.get(row["name"]), live.get(row["name"])) for row in rows}
        for count in await self._db.rows("counts_since", queues=list(queues), seconds=COUNTED_SECONDS):
            queues[count["queue"]].finished.add(outcome=count["outcome"], count=count["n"])
        return list(queues.values())

    def _queue(self, row: dict[str, Any], ready: dict[str, Any] | None, live: LiveQueue | None) -> pb.Queue:
        handed_out = live.handed_out if live else row["leased"]
        # What is handed out and has no lease row yet stands beyond the marks like what is ready.
        waiting = max(0, (ready["ready"] if ready else 0) - max(0, handed_out - row["leased"]))
        queue = pb.Queue(
            name=bare(row["name"]),
            namespace=namespace_of(row["name"]),
            ready=min(waiting, READY_CAP),
            ready_capped=waiting > READY_CAP,
            paused=row["paused"],
            scheduled=row["scheduled"],
            running=handed_out,
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
        raise InvalidArgument("page_token: not one that this method gave out", "page_token") from None
