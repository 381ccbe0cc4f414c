"""Handlers in processes of their own: for CPU-bound work, and for code that may crash or never end.

Each process runs one attempt at a time and can be killed alone, with all that it has started. Processes are spawned,
never forked: gRPC does not survive a fork. They end with this process, whatever ends it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import Future
from typing import Any

from taskflow._handlers import outcomes
from taskflow._handlers.outcomes import Failure, Verdict
from taskflow._handlers.task import Handler
from taskflow._messages.texts import named, text
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import IoThread, complain
from taskflow._worker.attempt import Attempt
from taskflow._worker.executors.handler_process import HandlerProcess
from taskflow._worker.options import RunOptions
from taskflow._worker.pool import Pool
from taskflow._worker.timers import Timers
from taskflow.errors import FailedPrecondition

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0  # seconds between starts that fail, doubling
_FIRST_STARTS = 4  # of the first process of `run`, where the system refuses it
_EXIT_PATIENCE = 1.0  # seconds from the end of its socket to the end of the process, or the other way round
_SILENT = (
    "the handler's process closed its connection to the worker and went on; a handler that becomes another program"
    " (os.exec…) or closes all descriptors needs a process of its own for that: use subprocess"
)
_MAX_CAUSE = 2_000  # characters of why a process could not be started


class _CannotStart(Exception):
    """A process that was never ready; says why. `refused`: by the system, which may change its mind."""

    def __init__(self, why: str, *, refused: bool = False) -> None:
        super().__init__(why)
        self.why = text(why, _MAX_CAUSE)
        self.refused = refused


class ProcessExecutor:
    """`handler.processes` processes for one handler. `start` fails when the first cannot be started.

    A process that cannot be started again is tried for ever, with growing pauses. Meanwhile it occupies its slot of
    `pool`, so that no job is polled for it, and what waits for it is given back.
    """

    stoppable = True

    def __init__(
        self, handler: Handler, io: IoThread, timers: Timers, pool: Pool[Attempt], options: RunOptions
    ) -> None:
        self.handler = handler
        self.pool = pool
        self.start_timeout = options.start_timeout
        self._io = io
        self._timers = timers
        self._cancel_grace = options.cancel_grace
        self._waiting: deque[Attempt] = deque()
        self._children = [_Child(self) for _ in range(handler.processes)]
        self._lives: list[asyncio.Task[None]] = []
        self.closing = False

    async def start(self) -> None:
        first = self._children[0]
        self._lives.append(self._io.spawn(first.live()))
        failed = await first.first_word
        if failed is not None:
            how = "started" if failed.refused else "imported"
            raise FailedPrecondition(
                f"handler {self.handler.binding.name} cannot be {how} in a process of its own:\n{failed.why}",
                reason="HANDLER_PROCESS",
            )
        self._lives.extend(self._io.spawn(child.live()) for child in self._children[1:])

    def submit(self, attempts: list[Attempt]) -> None:
        self._waiting.extend(attempts)
        for child in self._children:
            if not self._waiting:
                break
            child.give_next()
        self.give_back_excess()  # of a poll that was under way when a process went down

    def next(self) -> Attempt | None:
        """The next attempt that nobody has taken back."""
        while self._waiting:
            attempt = self._waiting.popleft()
            if attempt.start():
                return attempt
        return None

    def give_back_excess(self) -> None:
        """While a process is down, what waits for it goes to another worker: the last that came first."""
        broken = [child.broken for child in self._children if child.broken is not None]
        if not broken or not self._waiting:
            return
        self._waiting = deque(attempt for attempt in self._waiting if not attempt.released)
        busy = sum(child.attempt is not None for child in self._children)
        room = max(0, len(self._children) - len(broken) - busy)
        failure = Failure("HandlerProcessNotStarted", f"the worker cannot start a process of the handler: {broken[0]}")
        while len(self._waiting) > room:
            self._waiting.pop().give_back(failure)

    def stop(self, attempt: Attempt, gently: bool) -> None:
        child: _Child | None = attempt.runner
        if child is None or child.attempt is not attempt:
            return
        if not gently:
            child.kill()
            return
        child.send(("cancel", attempt.exec_id))
        self._timers.after(self._cancel_grace, lambda: child.kill() if child.attempt is attempt else None)

    def kill(self) -> None:
        """At once, from any thread: this process is about to end."""
        self.closing = True
        for child in self._children:
            child.kill()

    async def close(self) -> None:
        self.kill()
        await asyncio.gather(*(child.gone.wait() for child in self._children))
        for life in self._lives:
            life.cancel()  # it may be in a pause


class _Child:
    """One process after another, in one place."""

    def __init__(self, owner: ProcessExecutor) -> None:
        self._owner = owner
        self._process: HandlerProcess | None = None
        self._ready = False
        self.attempt: Attempt | None = None
        self.broken: str | None = None  # why it could not be started; it occupies a slot then
        self.gone = asyncio.Event()
        self.gone.set()
        self.first_word: asyncio.Future[_CannotStart | None] = asyncio.get_running_loop().create_future()

    async def live(self) -> None:
        """Spawns, serves, and spawns again, until the worker closes."""
        failures = 0
        while not self._owner.closing:
            try:
                await self._one_life()
                failures = 0
                continue
            except _CannotStart as failed:
                failures += 1
                failure = failed
            if self._owner.closing:
                break
            pause = min(_FIRST_PAUSE * 2 ** (failures - 1), _LONGEST_PAUSE)
            name = self._owner.handler.binding.name
            complain(f"a process of handler {name} cannot be started, again in {pause:g} s: {failure.why}")
            self._down(failure.why)
            if not self.first_word.done() and (failures >= _FIRST_STARTS or not failure.refused):
                self.first_word.set_result(failure)
            await SYSTEM.sleep(pause)

    async def _one_life(self) -> None:
        """From a spawn to the end of that process. _CannotStart when it was never ready."""
        self._ready = False
        self.gone.clear()
        try:
            try:
                process = self._process = await HandlerProcess.start(self._owner.handler)
            except Exception as error:
                self._bury("the handler's process was never started")
                raise _CannotStart(named(error, _MAX_CAUSE), refused=isinstance(error, OSError)) from error
            if self._owner.closing:
                process.kill()
            fault, cause = await self._fault_of(process)
            ending = await process.close()
            was_ready, self._ready = self._ready, False
            self._bury(fault or ending.how)
        finally:
            self._process = None
            self.gone.set()
        if not was_ready and cause is not None:
            raise cause
        if not was_ready:
            why = ending.how if ending.refused else fault or "it ended before it was ready"
            raise _CannotStart(why, refused=ending.refused)

    async def _fault_of(self, process: HandlerProcess) -> tuple[str, _CannotStart | None]:
        """Serves it until it or its connection has ended. The fault that its attempt fails by, '' where that is its
        own end; and why it could not be started, where it says so itself."""
        serving = asyncio.create_task(self._serve(process))
        await asyncio.wait([serving, process.ended], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([serving], timeout=_EXIT_PATIENCE)  # what it has said before its end
        if not serving.done():
            serving.cancel()  # a fork of it, out of reach, has its socket
            return "", None
        try:
            serving.result()
        except (asyncio.IncompleteReadError, ConnectionError):
            await asyncio.wait([process.ended], timeout=_EXIT_PATIENCE)
            return "" if process.ended.done() else _SILENT, None
        except TimeoutError:
            return "", _CannotStart(f"it was not ready within {self._owner.start_timeout:g} s (start_timeout)")
        except _CannotStart as failed:
            return "", failed
        except Exception as error:  # it sends what no process of ours does
            return f"the handler's process broke the protocol: {named(error, _MAX_CAUSE)}", None
        return "", None

    async def _serve(self, process: HandlerProcess) -> None:
        async with asyncio.timeout(self._owner.start_timeout) as starting:
            while True:
                message = await process.receive()
                if message[0] == "broken":
                    raise _CannotStart(message[1])
                if message[0] == "ready":
                    starting.reschedule(None)
                    self._up()
                else:
                    self._hear(message)

    def _up(self) -> None:
        self._ready = True
        if not self.first_word.done():
            self.first_word.set_result(None)
        if self.broken is not None:
            self.broken = None
            self._owner.pool.vacate()
            self._owner.submit(self._owner.pool.startable())
        self.give_next()

    def _down(self, why: str) -> None:
        """Its slot is occupied until it is up again."""
        if self.broken is None:
            self.broken = why
            self._owner.pool.occupy()
            self._owner.give_back_excess()

    def _hear(self, message: tuple[Any, ...]) -> None:
        """A message bears the attempt that it is about: one that has ended may have left a thread behind."""
        kind, exec_id, *said = message
        attempt = self.attempt
        if attempt is None or exec_id != attempt.exec_id:
            return
        if kind == "progress":
            attempt.progress(*said)
        elif kind == "beat":
            attempt.heartbeat()
        elif kind == "log":
            attempt.log(*said)
        elif kind == "fence":
            attempt.fence().add_done_callback(lambda answer: self._fenced(attempt, answer))
        elif kind == "done":
            outcome, result, encoding, error, delay_ms = said
            verdict = Verdict(outcome, result, encoding, None if error is None else Failure(*error), delay_ms)
            self.attempt = None
            attempt.finish(verdict)
            self.give_next()

    def _fenced(self, attempt: Attempt, answer: Future[bool]) -> None:
        """On the I/O loop, or when that has ended, and the process with it."""
        error = None if answer.cancelled() else answer.exception()
        if self.attempt is attempt:
            self.send(("fenced", attempt.exec_id, None if error is None else (type(error).__name__, str(error))))

    def give_next(self) -> None:
        """Starts the next attempt, if it is free and there is one."""
        if not self._ready or self.attempt is not None or self._owner.closing:
            return
        if self._process is None or self._process.ended.done():
            return
        attempt = self._owner.next()
        if attempt is None:
            return
        wire, deadline = attempt.wire, attempt.deadline()
        assert wire is not None
        self.attempt = attempt
        attempt.runner = self
        self.send(
            (
                "job",
                attempt.job_id,
                attempt.exec_id,
                attempt.queue,
                attempt.task,
                attempt.number,
                wire.retries,
                wire.payload,
                int(wire.encoding),
                None if deadline is None else deadline.timestamp(),
                wire.options.requester,
                dict(wire.options.metadata),
            )
        )

    def send(self, message: tuple[Any, ...]) -> None:
        if self._process is not None:
            self._process.send(message)

    def kill(self) -> None:
        """With everything that it has started."""
        process = self._process
        if process is not None:
            process.kill()

    def _bury(self, how: str) -> None:
        """The process has ended: its running attempt has failed."""
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.finish(Verdict(outcomes.FAILED, failure=Failure("HandlerProcessDied", how)))
