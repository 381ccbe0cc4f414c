"""A worker's standing with one coordinator: register, heartbeats up, epochs, cancels and the lease down.

The lease runs from the *sending* of the last heartbeat that was acknowledged, by the worker's own clock. At two
thirds of it the worker stops what that coordinator's shards gave it (R6), before anybody else may start it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from taskflow._policy import SOFT
from taskflow._transport.clock import SYSTEM
from taskflow._worker.timers import Wakeup
from taskflow.v1 import worker_pb2, worker_pb2_grpc

if TYPE_CHECKING:
    from taskflow._worker.worker import Worker

log = logging.getLogger("taskflow")

UNANSWERED = 1 / 3  # of the lease: heartbeats unacknowledged for so long make the worker look for another owner
_FIRST_PAUSE, _NEXT_PAUSE = 0.1, 0.5
_WELCOME_TIMEOUT = 5.0
_GOODBYE_TIMEOUT = 1.0


class Session:
    """`run` keeps it standing until `close`. Lives on the I/O loop."""

    def __init__(self, worker: Worker, registration: Registration, coordinator: str) -> None:
        self._worker = worker
        self._registration = registration
        self.coordinator = coordinator
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
                self._worker.session_broke()
            if self._closing:
                break
            self._worker.refresh_topology()
            await SYSTEM.sleep(pause)
            pause = _NEXT_PAUSE
            if not self.welcomed and self.coordinator not in self._worker.cluster.coordinators:
                self._registration.sessions.pop(self.coordinator, None)  # it owns nothing any more, and never knew us
                break
        self._closed.set()

    async def _stand(self) -> None:
        channel = await self._worker.channel_of(self.coordinator)
        stub: Any = worker_pb2_grpc.WorkerServiceStub(channel)
        self._sequence = 0
        self._sent.clear()
        self._call = call = stub.Session()
        beats: asyncio.Task[None] | None = None
        try:
            begun = self._worker.clock.monotonic()
            async with asyncio.timeout(_WELCOME_TIMEOUT):
                await call.write(worker_pb2.SessionRequest(register=self._registration.register()))
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
        self._worker.leases.welcomed(self.coordinator)
        self._said_away = False
        before = self._worker.moved_us
        self._worker.clock_moved(welcome.clock_moved_us, keep_leases=True)
        self._renew(begun + (self._worker.moved_us - before) / 1e6)
        self._worker.announce(self.coordinator, welcome.epochs)
        self.beat()
        self._worker.sessions_changed()

    def _hear(self, answer: Any, begun: float) -> None:
        if answer is grpc.aio.EOF:
            return
        kind = answer.WhichOneof("message")
        if kind == "ack":
            self._acknowledged(answer.ack)
        elif kind == "epochs":
            self._worker.announce(self.coordinator, answer.epochs.epochs)
            self.beat()
        elif kind == "cancel":
            self._worker.cancel(answer.cancel.exec_id, answer.cancel.reason)
        elif kind == "revoke":
            self._worker.leases.revoke(answer.revoke.exec_ids)
        elif kind == "clock_moved":
            self._worker.clock_moved(answer.clock_moved.moved_us, keep_leases=answer.clock_moved.keep_leases)
            self.beat()
        elif kind == "recall":
            self._worker.recall(answer.recall.queues)
        elif kind == "lease_lost":
            self._worker.leases.over(self._registration, self, "coordinator %s has ended this worker's lease")
        elif kind == "welcome":
            self._welcome(answer.welcome, begun)

    def _acknowledged(self, ack: worker_pb2.HeartbeatAck) -> None:
        sent = self._sent.pop(ack.sequence, None)
        while self._sent and next(iter(self._sent)) < ack.sequence:
            self._sent.popitem(last=False)
        if sent is not None:
            self._renew(sent)
        if ack.epochs:
            news = self._worker.announce(self.coordinator, ack.epochs)
        else:  # it cannot tell whether its shards are still its own: another coordinator may wait for our confirmation
            news = False
            self._worker.refresh_topology()
        for exec_id in ack.void:
            if self._worker.give_up(exec_id):
                self._voided.append(exec_id)
                news = True
        if news:
            self.beat()

    def _renew(self, sent: float) -> None:
        self.lease_until = max(self.lease_until, sent + self._lease)
        if self.soft_until == 0.0:
            self._worker.timers.after(0, self._watch)
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
        left = self.soft_until - self._worker.clock.monotonic()
        if left > 0:
            self._worker.timers.after(left, self._watch)
            return
        why = "no word from coordinator %s for two thirds of the lease: its jobs stop here"
        self._worker.leases.over(self._registration, self, why)

    # -- heartbeats ------------------------------------------------------------------------------------------------

    def beat(self) -> None:
        """Sends a heartbeat now."""
        self._beat.wake()

    async def _send_beats(self, call: Any) -> None:
        try:
            while True:
                timer = self._worker.timers.after(self._interval, self._beat.wake)
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
        now = self._worker.clock.monotonic()
        if self._sent and now - next(iter(self._sent.values())) > self._lease * UNANSWERED:
            self._worker.refresh_topology()  # it may have stopped, and a standby may wait for our confirmation
        self._sent[self._sequence] = now
        voided, self._voided = self._voided, []
        return worker_pb2.Heartbeat(
            sequence=self._sequence,
            confirmed=self._worker.epochs.owned_by(self.coordinator),
            held=self._worker.leases.held_for(self.coordinator, self._registration),
            voided=voided,
            draining=self._worker.draining or self._registration.retired,
            clock_moved_us=self._worker.moved_us,
            overdue=len(self._worker.overdue),
        )

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
            self._worker.timers.after(_GOODBYE_TIMEOUT, call.cancel)
        return self._closed

    def _say_away(self, error: Exception) -> None:
        if not self._said_away:
            self._said_away = self._worker.leases.away = True
            detail = error.details() if isinstance(error, grpc.aio.AioRpcError) else error or type(error).__name__
            log.warning("no session with coordinator %s (%s); retrying", self.coordinator, str(detail)[:160])


def is_cancelled() -> bool:
    """Whether the present task itself was cancelled, rather than a call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Registration:
    """A worker_id and its sessions, one per coordinator.

    A lease lost with one coordinator retires it: a new one polls from then on, and this one stays with the other
    coordinators until what it has of theirs is done (B11).
    """

    def __init__(self, worker: Worker, worker_id: bytes) -> None:
        self._worker = worker
        self.worker_id = worker_id
        self.sessions: dict[str, Session] = {}
        self.retired = False

    def register(self) -> worker_pb2.Register:
        return self._worker.leases.register_message(self.worker_id)

    def meet(self, coordinator: str) -> None:
        """Opens a session with a coordinator, unless there is one."""
        if coordinator not in self.sessions and not self.retired:
            session = self.sessions[coordinator] = Session(self._worker, self, coordinator)
            self._worker.io.spawn(session.run())
