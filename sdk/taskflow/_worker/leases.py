"""Under which worker_id a worker stands with whom, what its heartbeats list, and what the end of a lease means."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Mapping
from uuid import uuid4

from taskflow._process.identity import own
from taskflow._worker.attempt import Attempt
from taskflow._worker.epochs import Epochs
from taskflow._worker.options import RunOptions
from taskflow._worker.overdue import EXIT_STATUS
from taskflow._worker.session import Registration, Session, SessionHost
from taskflow._worker.stopper import Stopper
from taskflow._worker.timers import Timers
from taskflow._worker.topology import TopologyWatch
from taskflow.v1 import worker_pb2

log = logging.getLogger("taskflow")

SDK = "python/0.1.0"
LATE_SECONDS = 5.0  # after a welcome: so long polls wait at most for the outcomes of a lost lease to be acknowledged


class Leases:
    """`registration` is the present one; retired ones stay until what they were given is acknowledged (B11)."""

    def __init__(
        self,
        host: SessionHost,
        options: RunOptions,
        held: Mapping[bytes, Attempt],
        epochs: Epochs,
        topology: TopologyWatch,
        timers: Timers,
        stopper: Stopper,
    ) -> None:
        self._host = host
        self._options = options
        self._held = held
        self._epochs = epochs
        self._topology = topology
        self._timers = timers
        self._clock = timers.clock
        self._stopper = stopper
        self._retired: list[Registration] = []
        self._late_until = 0.0
        self._away = False  # a line has said that there is no session, or that a lease is over
        self.registration = Registration(uuid4().bytes)

    def worker_id(self) -> bytes:
        """The present one."""
        return self.registration.worker_id

    def meet_all(self) -> None:
        """Opens a session with each coordinator that has none."""
        for coordinator in self._topology.coordinators:
            if coordinator not in self.registration.sessions:
                session = Session(
                    self.registration, coordinator, self._host, self, self._topology, self._timers
                )
                self.registration.sessions[coordinator] = session
                self._host.spawn(session.run())

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
        return any(a.worker_id != self.worker_id() and a.verdict is not None for a in self._held.values())

    def welcomed(self, coordinator: str) -> None:
        """A coordinator counts on this worker from now on."""
        if self._away:
            self._away = False
            log.warning("a session with coordinator %s again: this worker takes jobs", coordinator)
        if self._late():
            self._late_until = self._clock.monotonic() + LATE_SECONDS
            self._timers.after(LATE_SECONDS, self._host.sessions_changed)

    def away_said(self) -> None:
        self._away = True

    def may_start(self, shard: int, epoch: int, now: float) -> bool:
        """Asked by the thread that is about to start a handler. While its owner is out of reach nothing new starts."""
        epochs = self._epochs
        if epochs.is_stale(shard, epoch):
            return False
        session = self.registration.sessions.get(epochs.owner.get(shard, ""))
        if session is not None:
            return session.standing and now < session.soft_until
        return self.stand(now)

    def register_message(self, worker_id: bytes) -> worker_pb2.Register:
        options = self._options
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

    def heartbeat(self, session: Session) -> worker_pb2.Heartbeat:
        """All but what the session itself counts."""
        return worker_pb2.Heartbeat(
            confirmed=self._epochs.owned_by(session.coordinator),
            held=self._held_for(session.coordinator, session.registration),
            draining=self._host.draining or session.registration.retired,
            clock_moved_us=self._host.moved_us,
            overdue=self._host.overdue_handlers,
        )

    def _held_for(self, coordinator: str, registration: Registration) -> list[worker_pb2.Held]:
        """Our attempts of a coordinator's shards, under a registration or under one that it replaced there."""
        now = self._clock.monotonic()
        others = {r.worker_id for r in (self.registration, *self._retired) if coordinator in r.sessions}
        others.discard(registration.worker_id)
        held = []
        for attempt in self._held.values():
            if self._epochs.owner.get(attempt.shard, coordinator) != coordinator or attempt.worker_id in others:
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

    def over(self, session: Session, why: str) -> None:
        """This coordinator can no longer count on this worker_id: stop what it gave, register anew (R6).

        `why` is logged, with the coordinator's name.
        """
        registration = session.registration
        if registration.sessions.get(session.coordinator) is not session:
            return  # known already
        del registration.sessions[session.coordinator]
        session.close(goodbye=False)
        owner = self._epochs.owner
        lost = [
            attempt
            for attempt in self._held.values()
            if attempt.worker_id == registration.worker_id and owner.get(attempt.shard) in (session.coordinator, None)
        ]
        if not lost and owner and session.coordinator not in owner.values():
            # Others own all its shards and know this worker_id: there is no lease left to lose.
            self.meet_all()
            return
        log.warning(why, session.coordinator)
        self._away = True
        for attempt in lost:
            self._stopper.lose(attempt)
        if self._options.strict:
            left = session.lease_until - self._clock.monotonic()
            self._timers.after(max(0.0, left), lambda: self._outlived(lost))
        if registration is self.registration:
            registration.retired = True
            self._retired.append(registration)
            self.registration = Registration(uuid4().bytes)
        self._leave_if_done(registration)
        self.meet_all()
        self._topology.refresh()

    def revoke(self, exec_ids: Iterable[bytes]) -> None:
        """The coordinator knows these not to be the present attempts of their jobs: nobody waits for them."""
        for exec_id in exec_ids:
            attempt = self._held.get(exec_id)
            if attempt is not None:
                self._stopper.revoke(attempt)

    def _outlived(self, attempts: list[Attempt]) -> None:
        if any(a.started and not a.released and not a.executor.stoppable for a in attempts):
            log.critical("a thread handler outlived the worker's lease, and strict is set: this process ends")
            self._host.kill()
            os._exit(EXIT_STATUS)

    def forgotten(self, attempt: Attempt) -> None:
        """Nothing lists it any more."""
        for registration in self._retired:
            if registration.worker_id == attempt.worker_id:
                self._leave_if_done(registration)
                return

    def _leave_if_done(self, registration: Registration) -> None:
        """A retired registration says goodbye to the other coordinators once nothing that it was given is left."""
        self._host.sessions_changed()  # polls may have waited for it
        if not registration.retired or any(a.worker_id == registration.worker_id for a in self._held.values()):
            return
        for session in list(registration.sessions.values()):
            session.close(goodbye=True)
        if registration in self._retired:
            self._retired.remove(registration)
