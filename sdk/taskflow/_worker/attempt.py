"""One attempt in a worker's hands, from its receipt until its outcome is acknowledged.

The I/O thread owns every field but these: `started`, set by the winner of `claim`; the notes, which the handler's
thread writes and the I/O thread takes; `beat_at`. Each is one assignment or one atomic operation of the
interpreter.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from taskflow._handlers.job import Job
from taskflow._handlers.outcomes import RETURNED, Failure, Verdict
from taskflow._handlers.task import Handler
from taskflow._process import forks
from taskflow._transport.clock import Clock
from taskflow._transport.io_thread import Mailbox
from taskflow._worker.pool import Pool
from taskflow._worker.timers import Timer
from taskflow.v1 import queue_pb2

log = logging.getLogger("taskflow")

MAX_LOG_LINES = 1_000  # of one attempt, not yet sent

Progress = tuple[float, float, str, str]
Notes = tuple[Progress | None, list[tuple[float, str, str]]]


class AttemptPorts:
    """The interface that attempts need of their worker, from any thread."""

    def __init__(
        self,
        clock: Clock,
        may_start: Callable[[int, int, float], bool],
        finished: Mailbox[tuple[Attempt, Verdict | None, float]],
        noted: Mailbox[Attempt],
        limited: Mailbox[Attempt],
        record: Callable[[Attempt], Future[bool]],
    ) -> None:
        self.clock = clock
        self.may_start = may_start
        self.finished = finished
        self.noted = noted
        self.limited = limited  # started, and has a timeout
        self.record = record  # puts its start on disk
        self.forks = forks.depth
        self.waiting: set[str] = set()  # handlers that were warned of


@dataclass(frozen=True, slots=True)
class HandlerSlot:
    """Where jobs of one handler run."""

    handler: Handler
    executor: HandlerExecutor
    pool: Pool[Attempt]


class HandlerExecutor(Protocol):
    """Called on the I/O thread. Every attempt submitted is answered once, by `Attempt.finish` or a failed start."""

    stoppable: bool
    """Whether `stop` ends the handler; a thread can only be asked, by `job.cancelled`."""

    def submit(self, attempts: list[Attempt]) -> None: ...

    def stop(self, attempt: Attempt, gently: bool) -> None:
        """Ends a started attempt; `gently`: it is asked first, and may go on."""
        ...

    async def close(self) -> None: ...


class Attempt:
    """`claim` is won once: by the thread that starts the handler, or by the I/O thread that takes the task back."""

    __slots__ = (
        "_claim",
        "_note_queued",
        "beat_at",
        "cancelled",
        "ended",
        "epoch",
        "exec_id",
        "executor",
        "forced",
        "handler",
        "heartbeat_timeout",
        "job_id",
        "logs",
        "logs_dropped",
        "number",
        "on_disk",
        "pool",
        "ports",
        "prefetched",
        "progress_note",
        "queue",
        "released",
        "runner",
        "shard",
        "started",
        "task",
        "timeout",
        "timers",
        "verdict",
        "wire",
        "worker_id",
    )

    def __init__(
        self,
        ports: AttemptPorts,
        slot: HandlerSlot,
        worker_id: bytes,
        lane: queue_pb2.LaneTasks,
        wire: queue_pb2.Assignment,
    ) -> None:
        self.ports = ports
        self.worker_id = worker_id  # under which it was received
        self.handler = handler = slot.handler
        self.executor = slot.executor
        self.pool = slot.pool
        self.wire: queue_pb2.Assignment | None = wire
        self.exec_id = wire.exec_id
        self.job_id = wire.job_id
        self.number = wire.attempt
        self.shard = lane.shard
        self.epoch = lane.epoch
        self.queue = lane.queue
        self.task = lane.task
        self.timeout, self.heartbeat_timeout = _limits(handler, wire)
        self._claim = [None]
        self.started = 0.0  # by the monotonic clock; 0: not yet
        self.ended = 0.0
        self.beat_at = 0.0
        self.cancelled = False
        self.on_disk = False  # its start is, for its transactions to be fenced
        self.released = False  # its slot is free again
        self.prefetched = False  # it was released before it had a slot
        self.forced: Verdict | None = None  # what it ends as, once stopped from outside
        self.verdict: Verdict | None = None  # once settled
        self.runner: Any = None  # what the executor stops it by
        self.timers: list[Timer] = []
        self.progress_note: Progress | None = None
        self.logs: deque[tuple[float, str, str]] = deque()
        self.logs_dropped = 0
        self._note_queued = False

    def claim(self) -> bool:
        """Whether the caller, and nobody else, has it now."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True

    def start(self) -> bool:
        """For executors, right before the handler's first line. False: somebody took it back, or the lease is over."""
        if not self.claim():
            return False
        now = self.ports.clock.monotonic()
        if not self.ports.may_start(self.shard, self.epoch, now):
            self.ports.finished.put((self, None, now))
            return False
        self.started = self.beat_at = now
        if self.timeout is not None or self.heartbeat_timeout is not None:
            self.ports.limited.put(self)
        return True

    def finish(self, verdict: Verdict) -> None:
        """For executors: the handler has ended."""
        self.ports.finished.put((self, verdict, self.ports.clock.monotonic()))

    def give_back(self, failure: Failure) -> bool:
        """For executors that cannot start it: uses no try. False: it is in other hands."""
        if not self.claim():
            return False
        self.finish(Verdict(RETURNED, failure=failure))
        return True

    def job(self) -> Job:
        """The job that the handler gets."""
        wire = self.wire
        assert wire is not None
        return Job(
            self,
            self.job_id,
            self.exec_id,
            self.queue,
            self.task,
            self.number,
            wire.retries,
            wire.payload,
            wire.encoding,
            self.deadline(),
            wire.options.requester,
            wire.options.metadata,
        )

    def deadline(self) -> datetime | None:
        """The instant at which it times out, were it to start now."""
        return None if self.timeout is None else self.ports.clock.now() + timedelta(seconds=self.timeout)

    # -- what a handler says, checked by its Job: any thread -------------------------------------------------------

    def progress(self, current: float, total: float, unit: str, message: str) -> None:
        forks.is_fork(self.ports.forks, "job.progress")
        self.beat_at = self.ports.clock.monotonic()
        self.progress_note = (current, total, unit, message)
        self._note()

    def heartbeat(self) -> None:
        forks.is_fork(self.ports.forks, "job.heartbeat")
        self.beat_at = self.ports.clock.monotonic()

    def log(self, level: str, message: str) -> None:
        forks.is_fork(self.ports.forks, "job.log")
        if len(self.logs) >= MAX_LOG_LINES:
            self.logs_dropped += 1
            return
        self.logs.append((self.ports.clock.monotonic(), level, message))
        self._note()

    def fence(self) -> Future[bool]:
        forks.is_fork(self.ports.forks, "job.fenced")
        return self.ports.record(self)

    def _note(self) -> None:
        if not self._note_queued:
            self._note_queued = True
            self.ports.noted.put(self)

    def waits(self) -> None:
        """It waits for another job, which may need the very slot that it has."""
        pool, name = self.pool, self.handler.binding.name
        if pool.used >= pool.capacity and name not in self.ports.waiting:
            self.ports.waiting.add(name)
            log.warning(
                "handler %s waits for another job while it has the last of this worker's %d slots: unless another"
                " worker runs that job, both wait for ever. Raise `concurrency`, or make it a step of a workflow",
                name,
                pool.capacity,
            )

    # -- and what the I/O thread takes ----------------------------------------------------------------------------

    @property
    def has_notes(self) -> bool:
        return self.progress_note is not None or bool(self.logs)

    def take_notes(self) -> Notes:
        self._note_queued = False
        progress, self.progress_note = self.progress_note, None
        lines = []
        while self.logs:
            lines.append(self.logs.popleft())
        if self.logs_dropped:
            said = f"{self.logs_dropped} lines before this one were dropped"
            lines.append((self.ports.clock.monotonic(), "warning", said))
            self.logs_dropped = 0
        return progress, lines

    def give_back_notes(self, notes: Notes) -> None:
        """They could not be delivered. Newer notes have precedence where there is no room for both."""
        progress, lines = notes
        if self.progress_note is None:
            self.progress_note = progress
        room = max(0, MAX_LOG_LINES - len(self.logs))
        kept = lines[len(lines) - room :] if room else []
        self.logs_dropped += len(lines) - len(kept)
        self.logs.extendleft(reversed(kept))


def _limits(handler: Handler, wire: queue_pb2.Assignment) -> tuple[float | None, float | None]:
    """Timeout and heartbeat timeout: the job's own, or those of the handler."""
    timeout, heartbeat_timeout = handler.timeout, handler.heartbeat_timeout
    if wire.HasField("options"):
        options = wire.options
        if options.HasField("timeout"):
            timeout = options.timeout.ToMicroseconds() / 1e6
        if options.HasField("heartbeat_timeout"):
            heartbeat_timeout = options.heartbeat_timeout.ToMicroseconds() / 1e6
    return timeout, heartbeat_timeout
