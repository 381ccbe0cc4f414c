"""Under which worker_id a worker stands with whom, what its heartbeats list, and what the end of a lease means."""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING
from uuid import uuid4

from taskflow._worker_attempts import Attempt
from taskflow._worker_session import Registration, Session
from taskflow.v1 import worker_pb2

if TYPE_CHECKING:
    from taskflow._worker import Worker

log = logging.getLogger("taskflow")

SDK = "python/0.1.0"
_EXIT_STATUS = 70


class Leases:
    """`registration` is the present one; retired ones stay until what they were given is acknowledged (B11)."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._retired: list[Registration] = []
        self.registration = Registration(worker, uuid4().bytes)

    def sessions(self) -> list[Session]:
        return [s for r in (self.registration, *self._retired) for s in list(r.sessions.values())]

    def stand(self, now: float) -> bool:
        """Whether any coordinator may count on this worker. From any thread, as `may_start`."""
        return any(s.standing and now < s.soft_until for s in list(self.registration.sessions.values()))

    def may_start(self, shard: int, epoch: int, now: float) -> bool:
        """Asked by the thread that is about to start a handler. While its owner is out of reach nothing new starts."""
        epochs = self._worker.epochs
        if epochs.is_stale(shard, epoch):
            return False
        session = self.registration.sessions.get(epochs.owner.get(shard, ""))
        if session is not None:
            return session.standing and now < session.soft_until
        return self.stand(now)

    def register_message(self, worker_id: bytes) -> worker_pb2.Register:
        options = self._worker.options
        return worker_pb2.Register(
            worker_id=worker_id,
            name=options.name or "",
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=list(options.queue_handlers),
            tasks=list(options.tasks),
            concurrency=options.concurrency,
            sdk=SDK,
        )

    def held_for(self, coordinator: str, registration: Registration) -> list[worker_pb2.Held]:
        """What this worker has of a coordinator's shards, under a registration or under one that it replaced there."""
        worker = self._worker
        now = worker.clock.monotonic()
        held = []
        for attempt in worker.held.values():
            if worker.epochs.owner.get(attempt.shard, coordinator) != coordinator:
                continue
            if attempt.registration is not registration and coordinator in attempt.registration.sessions:
                continue
            started = attempt.started
            held.append(
                worker_pb2.Held(
                    exec_id=attempt.exec_id,
                    job_id=attempt.job_id,
                    attempt=attempt.number,
                    shard=attempt.shard,
                    started=started > 0,
                    finished=attempt.verdict is not None,
                    running_us=int((now - started) * 1e6) if started else 0,
                )
            )
        return held

    def over(self, registration: Registration, session: Session) -> None:
        """This coordinator can no longer count on this worker_id: stop what it gave, register anew (R6)."""
        if registration.sessions.get(session.coordinator) is not session:
            return  # known already
        del registration.sessions[session.coordinator]
        session.close(goodbye=False)
        worker = self._worker
        owner = worker.epochs.owner
        lost = [
            attempt
            for attempt in worker.held.values()
            if attempt.registration is registration and owner.get(attempt.shard) in (session.coordinator, None)
        ]
        for attempt in lost:
            worker.stops.lose(attempt)
        if worker.options.strict:
            left = session.lease_until - worker.clock.monotonic()
            worker.timers.after(max(0.0, left), lambda: self._outlived(lost))
        if registration is self.registration:
            registration.retired = True
            self._retired.append(registration)
            self.registration = Registration(worker, uuid4().bytes)
        self.leave_if_done(registration)
        worker.topology_changed()
        worker.refresh_topology()

    def _outlived(self, attempts: list[Attempt]) -> None:
        if any(a.started and not a.released and not a.executor.stoppable for a in attempts):
            log.critical("a thread handler outlived the worker's lease, and strict is set: this process ends")
            self._worker.kill()
            os._exit(_EXIT_STATUS)

    def leave_if_done(self, registration: Registration) -> None:
        """A retired registration says goodbye to the other coordinators once nothing that it was given is left."""
        if not registration.retired or any(a.registration is registration for a in self._worker.held.values()):
            return
        for session in list(registration.sessions.values()):
            session.close(goodbye=True)
        if registration in self._retired:
            self._retired.remove(registration)
