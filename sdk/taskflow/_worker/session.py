"""A worker's standing with one coordinator: register, heartbeats up, epochs, cancels and the lease down.

The lease runs from the *sending* of the last heartbeat that was acknowledged, by the worker's own clock. At two
thirds of it the worker stops what that coordinator's shards gave it (R6), before anybody else may start it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc.aio

from taskflow._policy import SOFT
from taskflow._transport.clock import SYSTEM
from taskflow._worker.calls import is_cancelled
from taskflow._worker.timers import Timers, Wakeup
from taskflow._worker.topology import TopologyWatch
from taskflow.v1 import worker_pb2, worker_pb2_grpc

log = logging.getLogger("taskflow")

UNANSWERED = 1 / 3  # of the lease: heartbeats unacknowledged for so long make the worker look for another owner
_FIRST_PAUSE, _NEXT_PAUSE = 0.1, 0.5
_WELCOME_TIMEOUT = 5.0
_GOODBYE_TIMEOUT = 1.0


class SessionHost(Protocol):
    """The worker, as its sessions need it: what coordinators announce and ask for, and what heartbeats tell."""

    draining: bool

    @property
    def overdue_handlers(self) -> int: ...

    @property
    def moved_us(self) -> int:
        """How far the clock is ahead of the real one."""
        ...

    def clock_moved(self, moved_us: int, *, keep_leases: bool) -> None: ...

    def announce(self, coordinator: str, shards: Iterable[worker_pb2.ShardEpoch]) -> bool:
        """Whether an epoch was raised, which the coordinator waits to hear confirmed."""
        ...

    def give_up(self, exec_id: bytes) -> bool:
        """Whether it never starts here: this worker does not have it."""
        ...

    def cancel(self, exec_id: bytes, reason: str) -> None: ...

    def recall(self, queues: Iterable[str]) -> None: ...

    def sessions_changed(self) -> None: ...

    def session_broke(self) -> None: ...

    def spawn(self, work: Coroutine[Any, Any, None]) -> object: ...

    def kill(self) -> None:
        """Ends handler processes: this process is about to end."""
        ...


class SessionLeases(Protocol):
    """The leases of a worker, as its sessions need them."""

    def register_message(self, worker_id: bytes) -> worker_pb2.Register: ...

    def welcomed(self, coordinator: str) -> None: ...

    def heartbeat(self, session: Session) -> worker_pb2.Heartbeat: ...

    def revoke(self, exec_ids: Iterable[bytes]) -> None: ...

    def over(self, session: Session, why: str) -> None:
        """`why` is logged, with the coordinator's name."""
        ...

    def away_said(self) -> None: ...


@dataclass(eq=False, slots=True)
class Registration:
    """A worker_id and its sessions, one per coordinator.

    A lease lost with one coordinator retires it: a new one polls from then on, and this one stays with the other
    coordinators until what it has of theirs is done (B11).
    """

    worker_id: bytes
    sessions: dict[str, Session] = field(default_factory=dict)
    retired: bool = False


class Session:
    """`run` keeps it standing until `close`. Lives on the I/O loop."""

    def __init__(
        self,
        registration: Registration,
        coordinator: str,
        host: SessionHost,
        leases: SessionLeases,
        topology: TopologyWatch,
        timers: Timers,
    ) -> None:
        self.registration = registration
        self.coordinator = coordinator
        self._host = host
        self._leases = leases
        self._topology = topology
        self._timers = timers
        self._clock = timers.clock
        self.standing = False
        self.welcomed = False  # ever, under this worker_id
        self.soft_until = 0.0  # until then its tasks may start
        self.lease_until = 0.0
        self._lease = 15.0
        self._interval = 5.0
        self._beat = Wakeup()
        self._sequence = 0
        self._sent: OrderedDict[int, float] = OrderedDict()
        self._voided: list[bytes] = []
        self._call: Any = None
        self._closing = False
        self._closed = asyncio.Event()
        self._said_away = False

    # -- the stream ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing:
            try:
                await self._stand()
                pause = _FIRST_PAUSE
            except (grpc.aio.AioRpcError, TimeoutError, asyncio.InvalidStateError) as error:
                self._say_away(error)
            except asyncio.CancelledError:  # also what reading a call says that was cancelled here
                if is_cancelled():
                    raise
            except Exception:
                log.exception("a session with coordinator %s failed", self.coordinator)
            if self.standing:
                self.standing = False
                pause = _FIRST_PAUSE
                self._host.session_broke()
            if self._closing:
                break
            self._topology.refresh()
            await SYSTEM.sleep(pause)
            pause = _NEXT_PAUSE
            if not self.welcomed and self.coordinator not in self._topology.coordinators:
                self.registration.sessions.pop(self.coordinator, None)  # it owns nothing any more, and never knew us
                break
        self._closed.set()

    async def _stand(self) -> None:
        channel = await self._topology.coordinator(self.coordinator)
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        self._sequence = 0
        self._sent.clear()
        self._call = call = stub.Session()
        beats: asyncio.Task[None] | None = None
        try:
            begun = self._clock.monotonic()
            async with asyncio.timeout(_WELCOME_TIMEOUT):
                register = self._leases.register_message(self.registration.worker_id)
                await call.write(worker_pb2.SessionRequest(register=register))
                first = await call.read()
            if first is grpc.aio.EOF or not first.HasField("welcome"):
                self._hear(first, begun)
                return
            self._welcome(first.welcome, begun)
            beats = asyncio.create_task(self._send_beats(call))
            while (answer := await call.read()) is not grpc.aio.EOF:
                self._hear(answer, begun)
        finally:
            self._call = None
            call.cancel()
            if beats is not None:
                beats.cancel()
                with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await beats

    def _welcome(self, welcome: worker_pb2.Welcome, begun: float) -> None:
        self._lease = welcome.lease_ms / 1000 or self._lease
        self._interval = welcome.heartbeat_interval_ms / 1000 or self._interval
        self.standing = self.welcomed = True
        self._leases.welcomed(self.coordinator)
        self._said_away = False
        before = self._host.moved_us
        self._host.clock_moved(welcome.clock_moved_us, keep_leases=True)
        self._renew(begun + (self._host.moved_us - before) / 1e6)
        self._host.announce(self.coordinator, welcome.epochs)
        self.beat()
        self._host.sessions_changed()

    def _hear(self, answer: Any, begun: float) -> None:
        if answer is grpc.aio.EOF:
            return
        kind = answer.WhichOneof("message")
        if kind == "ack":
            self._acknowledged(answer.ack)
        elif kind == "epochs":
            self._host.announce(self.coordinator, answer.epochs.epochs)
            self.beat()
        elif kind == "cancel":
            self._host.cancel(answer.cancel.exec_id, answer.cancel.reason)
        elif kind == "revoke":
            self._leases.revoke(answer.revoke.exec_ids)
        elif kind == "clock_moved":
            self._host.clock_moved(answer.clock_moved.moved_us, keep_leases=answer.clock_moved.keep_leases)
            self.beat()
        elif kind == "recall":
            self._host.recall(answer.recall.queues)
        elif kind == "lease_lost":
            self._leases.over(self, "coordinator %s has ended this worker's lease")
        elif kind == "welcome":
            self._welcome(answer.welcome, begun)

    def _acknowledged(self, ack: worker_pb2.HeartbeatAck) -> None:
        sent = self._sent.pop(ack.sequence, None)
        while self._sent and next(iter(self._sent)) < ack.sequence:
            self._sent.popitem(last=False)
        if sent is not None:
            self._renew(sent)
        if ack.epochs:
            news = self._host.announce(self.coordinator, ack.epochs)
        else:  # it cannot tell whether its shards are still its own: another coordinator may wait for our confirmation
            news = False
            self._topology.refresh()
        for exec_id in ack.void:
            if self._host.give_up(exec_id):
                self._voided.append(exec_id)
                news = True
        if news:
            self.beat()

    def _renew(self, sent: float) -> None:
        self.lease_until = max(self.lease_until, sent + self._lease)
        if self.soft_until == 0.0:
            self._timers.after(0, self._watch)
        self.soft_until = max(self.soft_until, sent + self._lease * SOFT)

    def prolong(self, by: float) -> None:
        """The clock was moved, and no time has passed for leases."""
        if self.soft_until:
            self.lease_until += by
            self.soft_until += by
        for sequence in self._sent:
            self._sent[sequence] += by

    def _watch(self) -> None:
        """The lease's own alarm: re-armed for as long as renewals come."""
        if self._closing:
            return
        left = self.soft_until - self._clock.monotonic()
        if left > 0:
            self._timers.after(left, self._watch)
            return
        why = "no word from coordinator %s for two thirds of the lease: its jobs stop here"
        self._leases.over(self, why)

    # -- heartbeats ------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Sends a heartbeat now."""
        self._beat.wake()

    async def _send_beats(self, call: Any) -> None:
        try:
            while True:
                timer = self._timers.after(self._interval, self._beat.wake)
                await self._beat.wait()
                timer.cancel()
                await call.write(worker_pb2.SessionRequest(heartbeat=self._heartbeat()))
                if self._closing:
                    await call.write(worker_pb2.SessionRequest(goodbye=worker_pb2.Goodbye()))
                    await call.done_writing()
                    return
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            call.cancel()  # the reader sees why

    def _heartbeat(self) -> worker_pb2.Heartbeat:
        self._sequence += 1
        now = self._clock.monotonic()
        if self._sent and now - next(iter(self._sent.values())) > self._lease * UNANSWERED:
            self._topology.refresh()  # it may have stopped, and a standby may wait for our confirmation
        self._sent[self._sequence] = now
        voided, self._voided = self._voided, []
        heartbeat = self._leases.heartbeat(self)
        heartbeat.sequence = self._sequence
        heartbeat.voided.extend(voided)
        return heartbeat

    def close(self, goodbye: bool) -> asyncio.Event:
        """Ends it; with a goodbye, where it stands, after a last heartbeat. The event tells when."""
        self._closing = True
        if not goodbye or not self.standing or self._call is None:
            if self._call is not None:
                self._call.cancel()
            self._closed.set()
        else:
            self._beat.wake()
            call = self._call
            self._timers.after(_GOODBYE_TIMEOUT, call.cancel)
        return self._closed

    def _say_away(self, error: Exception) -> None:
        if not self._said_away:
            self._said_away = True
            self._leases.away_said()
            detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else error or type(error).__name__
            log.warning("no session with coordinator %s (%s); retrying", self.coordinator, str(detail)[:160])
