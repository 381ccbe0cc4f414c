"""Under which worker_id a worker stands with whom, what its heartbeats list, and what the end of a lease means."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING
from uuid import uuid4

from taskflow._process.identity import own
from taskflow._worker.attempt import Attempt
from taskflow._worker.overdue import EXIT_STATUS
from taskflow._worker.session import Registration, Session
from taskflow.v1 import worker_pb2

if TYPE_CHECKING:
    from taskflow._worker.worker import Worker

log = logging.getLogger("taskflow")

SDK = "python/0.1.0"
LATE_SECONDS = 5.0  # after a welcome: so long polls wait at most for the outcomes of a lost lease to be acknowledged


class Leases:
    """`registration` is the present one; retired ones stay until what they were given is acknowledged (B11)."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._retired: list[Registration] = []
        self._late_until = 0.0
        self.away = False  # a line has said that there is no session, or that a lease is over
        self.registration = Registration(worker, uuid4().bytes)

    def sessions(self) -> list[Session]:
        return [s for r in (self.registration, *self._retired) for s in list(r.sessions.values())]

    def stand(self, now: float) -> bool:
        """Whether any coordinator may count on this worker. From any thread, as `may_start`."""
        return any(s.standing and now < s.soft_until for s in list(self.registration.sessions.values()))

    def may_poll(self, now: float) -> bool:
        """Whether to ask for more. Outcomes of a lost lease are delivered first, within a limit: while one is on its
        way, a poll could bring the same job again."""
        return self.stand(now) and not (now < self._late_until and self._late())

    def _late(self) -> bool:
        return any(a.registration.retired and a.verdict is not None for a in self._worker.held.values())

    def welcomed(self, coordinator: str) -> None:
        """A coordinator counts on this worker from now on."""
        if self.away:
            self.away = False
            log.warning("a session with coordinator %s again: this worker takes jobs", coordinator)
        if self._late():
            self._late_until = self._worker.clock.monotonic() + LATE_SECONDS
            self._worker.timers.after(LATE_SECONDS, self._worker.standing.wake)

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
        process = own()
        return worker_pb2.Register(
            worker_id=worker_id,
            name=options.name or "",
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=list(options.queue_handlers),
            tasks=list(options.tasks),
            concurrency=options.concurrency,
            sdk=SDK,
            pid_namespace=process.namespace,
            pid_started=process.started,
            defaults=options.defaults,
            only_queues=options.queues if options.tasks else (),
        )

    def held_for(self, coordinator: str, registration: Registration) -> list[worker_pb2.Held]:
        """Our attempts of a coordinator's shards, under a registration or under one that it replaced there."""
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

    def over(self, registration: Registration, session: Session, why: str) -> None:
        """This coordinator can no longer count on this worker_id: stop what it gave, register anew (R6).

        `why` is logged, with the coordinator's name.
        """
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
        if not lost and owner and session.coordinator not in owner.values():
            # Others own all its shards and know this worker_id: there is no lease left to lose.
            worker.topology_changed()
            return
        log.warning(why, session.coordinator)
        self.away = True
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

    def revoke(self, exec_ids: Iterable[bytes]) -> None:
        """The coordinator knows these not to be the present attempts of their jobs: nobody waits for them."""
        for exec_id in exec_ids:
            attempt = self._worker.held.get(exec_id)
            if attempt is not None:
                self._worker.stops.revoke(attempt)

    def _outlived(self, attempts: list[Attempt]) -> None:
        if any(a.started and not a.released and not a.executor.stoppable for a in attempts):
            log.critical("a thread handler outlived the worker's lease, and strict is set: this process ends")
            self._worker.kill()
            os._exit(EXIT_STATUS)

    def leave_if_done(self, registration: Registration) -> None:
        """A retired registration says goodbye to the other coordinators once nothing that it was given is left."""
        self._worker.standing.wake()  # polls may have waited for it
        if not registration.retired or any(a.registration is registration for a in self._worker.held.values()):
            return
        for session in list(registration.sessions.values()):
            session.close(goodbye=True)
        if registration in self._retired:
            self._retired.remove(registration)
