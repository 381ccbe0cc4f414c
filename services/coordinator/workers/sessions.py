"""Sessions of workers: one stream each, for registration and heartbeats, and for messages to the worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from taskflow._process.identity import Process
from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.perform import Performer
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Claim, Entry, WorkerRecord
from taskflow_server.core.errors import InvalidArgument, NotOwner, Unavailable
from taskflow_server.core.names import qualify, shard_of
from taskflow_server.rpc.defaults import to_columns
from taskflow_server.runtime import logs
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.store.dispatch import Changes
from taskflow_server.store.errors import FAULTS

log = logs.get("sessions")

Registered = tuple[dict[str, Any], dict[str, Any]]  # a worker's row, and its handlers with their options


@dataclass(eq=False)
class Session:
    """One open stream. Messages to the worker wait in `out`; None ends the stream."""

    worker: bytes
    register: pb.Register
    out: asyncio.Queue[pb.SessionResponse | None] = field(default_factory=asyncio.Queue)
    goodbye: bool = False
    draining: bool = False
    moved_us: int = 0  # the clock's offset that it has reached
    overdue: int = 0  # its handlers that still run after the end of their attempts


class WorkerSessions:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, performer: Performer, closing: asyncio.Event) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._performer = performer
        performer.send_cancel = self.send_cancel
        self._closing = closing
        self.open: dict[bytes, Session] = {}
        self.known: dict[bytes, pb.Register] = {}
        self._registrations: Batcher[Registered, None] = Batcher(self._write_registrations, limit=500)
        self.goodbye = asyncio.Event()  # a worker has left: its lease ends now, so that no takeover waits for it
        self._left: set[bytes] = set()  # workers that said goodbye
        self.heard = asyncio.Event()  # set by the next heartbeat of any worker; a new event for each

    # -- the stream --------------------------------------------------------------------------
    async def serve(
        self, requests: AsyncIterator[pb.SessionRequest], context: Any
    ) -> AsyncIterator[pb.SessionResponse]:
        first = await anext(aiter(requests), None)
        if first is None:
            return
        register = _checked(first)
        if self._shared.standby:  # another coordinator decides about leases; one from here would mislead
            raise Unavailable("another coordinator owns the shards; ask for the topology", "NOT_OWNER")
        session = Session(register.worker_id, register)
        await self._register(register)
        previous = self.open.get(session.worker)
        if previous is not None:
            previous.out.put_nowait(None)
        self.open[session.worker] = session
        reader = asyncio.create_task(self._read(session, requests))
        closer = asyncio.create_task(self._close_with(session))
        try:
            yield pb.SessionResponse(welcome=self._welcome(self._shared.settings))
            while (message := await session.out.get()) is not None:
                yield message
        finally:
            reader.cancel()
            closer.cancel()
            self._broken(session)

    def _welcome(self, settings: CoordinatorSettings) -> pb.Welcome:
        return pb.Welcome(
            lease_ms=int(settings.lease * 1000),
            heartbeat_interval_ms=int(settings.heartbeat_interval * 1000),
            epochs=self._shared.shard_epochs(),
            clock_moved_us=int(self._shared.clock.moved * 1e6),
        )

    async def _close_with(self, session: Session) -> None:
        await self._closing.wait()
        session.out.put_nowait(None)

    async def _register(self, register: pb.Register) -> None:
        """Stores a registration before the worker gets any job: a takeover must know which workers to wait for (A5)."""
        table = self._shared.table
        worker = register.worker_id
        name = register.name.replace("\0", "")[:200] or worker.hex()[:12]
        if worker not in table.workers or self.known.get(worker) != register:
            defaults = _defaults(register)
            await self._registrations.submit([(self._row(register, name), defaults)])
            await self._make_queues([qualify(queue, field="queues") for queue in register.queues])
            log.info("worker registered", worker=name, tasks=len(register.tasks), queues=len(register.queues))
        self.known[worker] = register
        self._left.discard(worker)
        seat = table.workers.setdefault(worker, WorkerRecord(worker, 0.0))
        seat.name = name
        seat.process = Process(register.pid_namespace, register.pid, register.pid_started)
        seat.deadline = self._shared.clock.monotonic() + self._shared.settings.lease

    def _row(self, register: pb.Register, name: str) -> dict[str, Any]:
        return {
            "worker_id": UUID(bytes=register.worker_id),
            "coordinator": self._shared.settings.name,
            "name": name,
            "host": register.host.replace("\0", "")[:255],
            "pid": register.pid,
            "queues": list(register.queues),
            "tasks": list(register.tasks),
            "only_queues": [qualify(queue, field="register.only_queues") for queue in register.only_queues],
            "concurrency": register.concurrency,
            "sdk": register.sdk.replace("\0", "")[:100],
            "pid_namespace": register.pid_namespace.replace("\0", "")[:200] or None,
            "pid_started": register.pid_started,
        }

    async def _write_registrations(self, rows: list[Registered]) -> Sequence[None]:
        """Writes registrations with a fence: a former owner registers no worker after the takeover's read (A5)."""
        changes = Changes(other=[("register_worker", row) for row, _ in rows])
        changes.other += [("register_handlers", defaults) for _, defaults in rows if defaults["names"]]
        try:
            async with self._outcomes.exclusive:
                await self._outcomes.write(changes, set(self._shared.table.shards))
        except NotOwner:
            raise Unavailable("these shards have another owner now; ask for the topology", "NOT_OWNER") from None
        return [None] * len(rows)

    async def _make_queues(self, names: list[str]) -> None:
        """Creates the queues that a worker serves, if they are new (R11)."""
        shards = [shard_of(name) for name in names]
        if names and await self._shared.db.run("create_queues", names=names, shards=shards):
            log.info("a worker created a queue", queues=names)

    async def _read(self, session: Session, requests: AsyncIterator[pb.SessionRequest]) -> None:
        try:
            async for request in requests:
                if request.HasField("heartbeat"):
                    self._heartbeat(session, request.heartbeat)
                    if request.heartbeat.draining and not session.draining:
                        await self._drains(session)
                elif request.HasField("goodbye"):
                    session.goodbye = True
                    break
        finally:
            session.out.put_nowait(None)

    async def _drains(self, session: Session) -> None:
        """Records, for people, that a worker drains."""
        name, worker = self._shared.settings.name, UUID(bytes=session.worker)
        with suppress(*FAULTS):  # the next heartbeat retries
            await self._shared.db.run("drain_worker", worker_id=worker, coordinator=name)
            session.draining = True

    def _broken(self, session: Session) -> None:
        """After a broken stream the worker has a grace to reconnect; after a goodbye it has none.

        A worker that is cut off stops its handlers before the grace ends. One that is proved dead has no grace:
        LeaseExpiry checks until the grace ends, because a dying process closes its sockets first.
        """
        if self.open.get(session.worker) is not session:
            return
        del self.open[session.worker]
        seat = self._shared.table.workers.get(session.worker)
        if seat is not None and not self._closing.is_set():
            now = self._shared.clock.monotonic()
            grace = 0.0 if session.goodbye else self._shared.settings.grace
            seat.deadline = min(seat.deadline, now + grace)
            if session.goodbye:
                self._left.add(session.worker)
                self.goodbye.set()

    # -- heartbeats --------------------------------------------------------------------------
    def _heartbeat(self, session: Session, beat: pb.Heartbeat) -> None:
        shared = self._shared
        if self.open.get(session.worker) is not session:
            return  # replaced by a later stream, or dismissed by this coordinator
        now = shared.clock.monotonic()
        seat = shared.table.workers.get(session.worker)
        if seat is None:
            session.out.put_nowait(pb.SessionResponse(lease_lost=pb.LeaseLost()))
            session.out.put_nowait(None)
            return
        seat.deadline = now + shared.settings.lease
        session.moved_us = beat.clock_moved_us
        session.overdue = max(0, beat.overdue)
        self.heard.set()
        self.heard = asyncio.Event()
        claims = [
            Claim(h.exec_id, h.job_id, h.attempt, h.shard, h.started, h.finished)
            for h in beat.held
            if len(h.exec_id) == len(h.job_id) == 16
        ]
        confirmed = {e.shard: e.epoch for e in beat.confirmed}
        effects = shared.table.heartbeat(session.worker, confirmed, claims, beat.voided, now)
        stale = effects.revoke
        if stale and shared.healthy:  # a worker that was declared lost is back before it noticed
            log.warning("revoking attempts that are not the present ones", worker=seat.name, attempts=len(stale))
            session.out.put_nowait(pb.SessionResponse(revoke=pb.Revoke(exec_ids=stale)))
        self._outcomes.tally.running(seat.entries.values())
        self._performer.perform(effects)
        if shared.table.adopted or any(s.in_doubt and s.settled for s in shared.table.shards.values()):
            shared.settle_wanted.set()
        # In an outage of Postgres the owner is unknown: the ack names no shards, and the worker asks for the topology.
        epochs = shared.shard_epochs() if shared.healthy else ()
        ack = pb.HeartbeatAck(sequence=beat.sequence, epochs=epochs, void=effects.void)
        session.out.put_nowait(pb.SessionResponse(ack=ack))

    def returned(self, entries: Sequence[Entry], *, counted: bool = True) -> None:
        """Returns attempts that were not started to their queue (`DispatchTable.returned`)."""
        self._performer.perform(self._shared.table.returned(entries, counted=counted))

    def announce(self) -> None:
        """Asks every worker to confirm after a change of the shards."""
        epochs = pb.Epochs(epochs=self._shared.shard_epochs())
        for session in self.open.values():
            session.out.put_nowait(pb.SessionResponse(epochs=epochs))

    def recall(self, queues: Iterable[str]) -> None:
        """Asks workers to return their attempts of paused queues that have not started."""
        recall = pb.Recall(queues=sorted(queues))
        for session in self.open.values():
            session.out.put_nowait(pb.SessionResponse(recall=recall))

    def dismiss(self) -> None:
        """Ends all sessions: another coordinator owns the shards, and the workers must find it."""
        for session in self.open.values():
            session.out.put_nowait(None)
        self.open.clear()
        self.known.clear()
        self._left.clear()
        self._shared.table.workers.clear()

    def end(self, worker: bytes) -> tuple[pb.Register | None, bool]:
        """Notifies a worker that its lease has ended, and closes its stream. Returns its registration, and whether it
        had left with a goodbye."""
        session = self.open.pop(worker, None)
        if session is not None:
            session.out.put_nowait(pb.SessionResponse(lease_lost=pb.LeaseLost()))
            session.out.put_nowait(None)
        left = worker in self._left
        self._left.discard(worker)
        return self.known.pop(worker, None), left

    def send_cancel(self, entry: Entry) -> None:
        session = self.open.get(entry.worker)
        if session is not None:
            cancel = pb.Cancel(exec_id=entry.exec_id, reason=entry.cancel_reason)
            session.out.put_nowait(pb.SessionResponse(cancel=cancel))


def _checked(request: pb.SessionRequest) -> pb.Register:
    register = request.register
    if not request.HasField("register"):
        raise InvalidArgument("register: the first message of a session must be Register", "register")
    if len(register.worker_id) != 16:
        raise InvalidArgument("register.worker_id: must be 16 bytes", "register.worker_id")
    for field_name in ("queues", "tasks", "only_queues"):
        for name in getattr(register, field_name):
            qualify(name, field=f"register.{field_name}")
    _defaults(register)
    return register


def _defaults(register: pb.Register) -> dict[str, Any]:
    """The parameters of the query `register_handlers`: all tasks, with the options of their jobs, if any."""
    rows = {qualify(task, field="register.tasks"): pb.TaskDefaults(task=task) for task in register.tasks}
    for number, said in enumerate(register.defaults):
        field = f"register.defaults[{number}]"
        name = qualify(said.task, field=f"{field}.task")
        if name not in rows:
            raise InvalidArgument(f"{field}.task: {said.task!r} is not one of register.tasks", f"{field}.task")
        to_columns(said, field)
        rows[name] = said
    found = [to_columns(said, "register.defaults") for said in rows.values()]
    return {
        "worker_id": UUID(bytes=register.worker_id),
        "names": [row["name"] for row in found],
        "queues": [row["queue"] for row in found],
        "retries": [row["retries"] for row in found],
        "priorities": [row["priority"] for row in found],
        "options": [row["options"] for row in found],
    }
