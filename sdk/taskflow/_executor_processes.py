"""Handlers in processes of their own: for CPU-bound work, and for code that may crash or never end.

Each process runs one attempt at a time and can be killed alone. Processes are spawned, never forked: gRPC does not
survive a fork. They end with this process, whatever ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import marshal
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from typing import Any

from taskflow import _verdict
from taskflow._clock import SYSTEM
from taskflow._executor_child import LENGTH
from taskflow._io import IoThread
from taskflow._tasks import Handler
from taskflow._verdict import Failure, Verdict
from taskflow._worker_attempts import Attempt
from taskflow._worker_timers import Timers
from taskflow.errors import FailedPrecondition

log = logging.getLogger("taskflow")

_RESTART_PAUSE = 1.0  # after a process that could not even import
_EXIT_PATIENCE = 1.0  # from the end of its socket to the end of the process


class ProcessExecutor:
    """`handler.processes` processes for one handler. `start` fails when the first cannot import it."""

    stoppable = True

    def __init__(self, handler: Handler, io: IoThread, timers: Timers, cancel_grace: float) -> None:
        self.handler = handler
        self._io = io
        self._timers = timers
        self._cancel_grace = cancel_grace
        self._waiting: deque[Attempt] = deque()
        self._children = [_Child(self) for _ in range(handler.processes)]
        self.closing = False

    async def start(self) -> None:
        first = self._children[0]
        self._io.spawn(first.live())
        broken = await first.first_word
        if broken:
            raise FailedPrecondition(
                f"handler {self.handler.binding.name} cannot be imported in a process of its own:\n{broken}",
                reason="HANDLER_PROCESS",
            )
        for child in self._children[1:]:
            self._io.spawn(child.live())

    def submit(self, attempts: list[Attempt]) -> None:
        self._waiting.extend(attempts)
        for child in self._children:
            if not self._waiting:
                break
            child.give_next()

    def next(self) -> Attempt | None:
        """The next attempt that nobody has taken back."""
        while self._waiting:
            attempt = self._waiting.popleft()
            if attempt.start():
                return attempt
        return None

    def stop(self, attempt: Attempt, gently: bool) -> None:
        child: _Child | None = attempt.runner
        if child is None or child.attempt is not attempt:
            return
        if not gently:
            child.kill()
            return
        child.send(("cancel",))
        self._timers.after(self._cancel_grace, lambda: child.kill() if child.attempt is attempt else None)

    def kill(self) -> None:
        """At once, from any thread: this process is about to end."""
        self.closing = True
        for child in self._children:
            child.kill()

    async def close(self) -> None:
        self.kill()
        await asyncio.gather(*(child.gone.wait() for child in self._children if child.process is not None))


class _Child:
    """One process after another, in one place."""

    def __init__(self, owner: ProcessExecutor) -> None:
        self._owner = owner
        self._writer: asyncio.StreamWriter | None = None
        self._ready = False
        self.process: subprocess.Popen[bytes] | None = None
        self.attempt: Attempt | None = None
        self.gone = asyncio.Event()
        self.first_word: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def live(self) -> None:
        """Spawns, serves, and spawns again, until the worker closes."""
        while not self._owner.closing:
            broken = await self._one_life()
            if broken and not self._owner.closing:
                log.error("a handler process could not start:\n%s", broken)
                await SYSTEM.sleep(_RESTART_PAUSE)

    async def _one_life(self) -> str:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = spawn(self._owner.handler, theirs.fileno())
        self.gone.clear()
        ours.setblocking(False)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        broken = "it ended before it was ready"
        try:
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                message = marshal.loads(await reader.readexactly(length))
                if message[0] == "ready":
                    broken = ""
                elif message[0] == "broken":
                    broken = message[1]
                self._hear(message)
        except (asyncio.IncompleteReadError, OSError, EOFError, ValueError):
            pass
        finally:
            self._ready = False
            self._writer.close()
            code = await self._exit_code()
            self._ended(code)
            if not self.first_word.done():
                self.first_word.set_result(broken)
            self.gone.set()
        return broken

    def _hear(self, message: tuple[Any, ...]) -> None:
        kind, attempt = message[0], self.attempt
        if kind == "ready":
            self._ready = True
            if not self.first_word.done():
                self.first_word.set_result("")
            self.give_next()
        elif attempt is None:
            return
        elif kind == "progress":
            attempt.progress(*message[1:])
        elif kind == "beat":
            attempt.heartbeat()
        elif kind == "log":
            attempt.log(*message[1:])
        elif kind == "done":
            _, outcome, result, encoding, error, delay_ms = message
            failure = None if error is None else Failure(*error)
            self.attempt = None
            attempt.finish(Verdict(outcome, result, encoding, failure, delay_ms))
            self.give_next()

    def give_next(self) -> None:
        """Starts the next attempt, if it is free and there is one."""
        if not self._ready or self.attempt is not None or self._owner.closing:
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
        if self._writer is not None and not self._writer.is_closing():
            data = marshal.dumps(message)
            self._writer.write(LENGTH.pack(len(data)) + data)

    def kill(self) -> None:
        """With everything that it has started: it leads a process group."""
        process = self.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    async def _exit_code(self) -> int:
        process = self.process
        assert process is not None
        deadline = SYSTEM.monotonic() + _EXIT_PATIENCE
        while not _has_ended(process.pid):
            if SYSTEM.monotonic() > deadline:
                self.kill()
            await SYSTEM.sleep(0.005)
        self.kill()  # what it left running; its number is its own until it is waited for
        return process.wait()

    def _ended(self, code: int) -> None:
        attempt, self.attempt = self.attempt, None
        if attempt is not None:
            attempt.finish(Verdict(_verdict.FAILED, failure=Failure("HandlerProcessDied", _how(code))))


def _has_ended(pid: int) -> bool:
    """Without taking note of it: until then the number is nobody else's."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _how(code: int) -> str:
    if code >= 0:
        return f"the handler's process ended with exit status {code} before the handler returned"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = "; was the machine out of memory?" if name == "SIGKILL" else ""
    return f"the handler's process was ended by {name}{hint}"


def spawn(handler: Handler, fd: int) -> subprocess.Popen[bytes]:
    """A fresh interpreter with this one's path and flags, in a session of its own."""
    module, qualname = handler.function.__module__, handler.function.__qualname__
    place = _main_place() if module == "__main__" else None
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; sys.argv[:] = {sys.argv!r}; "
        "from taskflow._executor_child import main; "
        f"main({fd}, {os.getpid()}, {module!r}, {qualname!r}, {place!r}, {handler.is_async!r})"
    )
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, "-c", code]
    return subprocess.Popen(command, pass_fds=[fd], stdin=subprocess.DEVNULL, start_new_session=True)


def _main_place() -> tuple[str, str]:
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return ("module", spec.name)
    path = getattr(module, "__file__", None)
    if not path:
        raise FailedPrecondition("processes=…: the handler must live in a file, so that another process can import it")
    return ("file", os.path.abspath(path))
