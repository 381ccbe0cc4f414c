"""Inside a handler process: imports the handler, runs one attempt at a time, speaks with its parent over a socket.

Messages are marshalled tuples after their length (4 bytes). Down: ("job", …), ("cancel", exec_id), and the answer to a
"fence", ("fenced", exec_id, error). Up: ("ready",), ("broken", text), and with the exec_id of their attempt
("progress", exec_id, …), ("beat", exec_id), ("log", exec_id, level, message), ("fence", exec_id), ("done", exec_id, …).
A fork of the process says nothing: it has no socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import importlib
import marshal
import os
import signal
import socket
import struct
import sys
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

from taskflow import errors
from taskflow._handlers import outcomes
from taskflow._handlers.binding import Binding
from taskflow._handlers.job import Job
from taskflow._process import forks
from taskflow._transport.clock import SYSTEM
from taskflow._worker import importing
from taskflow._worker.executors.process_state import ProcessState

LENGTH = struct.Struct("!I")
_PROGRESS_EVERY = 0.05


class AttemptLink:
    """The connection of one attempt to the worker, through the parent."""

    def __init__(self, exec_id: bytes, send: Callable[[tuple[Any, ...]], None], flush_due: threading.Event) -> None:
        self.exec_id = exec_id
        self._send = send
        self.cancelled = False
        self._sent_at = 0.0
        self._latest: tuple[Any, ...] | None = None
        self._flush_due = flush_due
        self._fences: deque[Future[bool]] = deque()  # not answered yet

    def progress(self, current: float, total: float, unit: str, message: str) -> None:
        forks.is_fork(0, "job.progress")
        now = SYSTEM.monotonic()
        self._latest = ("progress", self.exec_id, current, total, unit, message)
        if now - self._sent_at >= _PROGRESS_EVERY:
            self.flush()
        else:
            self._flush_due.set()

    def flush(self) -> None:
        latest, self._latest = self._latest, None
        if latest is not None:
            self._sent_at = SYSTEM.monotonic()
            self._send(latest)

    def heartbeat(self) -> None:
        forks.is_fork(0, "job.heartbeat")
        if SYSTEM.monotonic() - self._sent_at >= _PROGRESS_EVERY:
            self._sent_at = SYSTEM.monotonic()
            self._send(("beat", self.exec_id))

    def log(self, level: str, message: str) -> None:
        forks.is_fork(0, "job.log")
        self._send(("log", self.exec_id, level, message))

    def fence(self) -> Future[bool]:
        forks.is_fork(0, "job.fenced")
        answer: Future[bool] = Future()
        self._fences.append(answer)
        self._send(("fence", self.exec_id))
        return answer

    def fenced(self, error: tuple[str, str] | None) -> None:
        """The parent's answer, to the call that has waited for the longest."""
        answer = self._fences.popleft()
        if not answer.set_running_or_notify_cancel():
            return
        if error is None:
            answer.set_result(True)
        else:
            kind, message = error
            answer.set_exception(getattr(errors, kind, errors.Unavailable)(message))


class Child:
    """The process's state."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[tuple[Any, ...]] = SimpleQueue()
        self._flush_due = threading.Event()
        self._link: AttemptLink | None = None
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]] | None = None

    def send(self, message: tuple[Any, ...]) -> None:
        data = marshal.dumps(message)
        with self._lock:
            self._sock.sendall(LENGTH.pack(len(data)) + data)

    def listen(self) -> None:
        """Until the parent is gone: then this process ends too, whatever it does."""
        try:
            with contextlib.suppress(OSError):
                while (message := _receive(self._sock)) is not None:
                    if message[0] == "job":
                        self._jobs.put(message)
                    elif message[0] == "cancel":
                        self._cancel(message[1])
                    elif message[0] == "fenced" and (link := self._link) is not None and link.exec_id == message[1]:
                        link.fenced(message[2])
        finally:
            os._exit(0)

    def flush_forever(self) -> None:
        """Sends the last progress of a handler that reports in quick succession and then works on."""
        while True:
            self._flush_due.wait()
            self._flush_due.clear()
            threading.Event().wait(_PROGRESS_EVERY)
            if (link := self._link) is not None:
                link.flush()

    def _cancel(self, exec_id: bytes) -> None:
        link = self._link
        if link is None or link.exec_id != exec_id:
            return
        link.cancelled = True
        if (running := self._task) is not None:
            loop, task = running
            with contextlib.suppress(RuntimeError):  # its loop has ended since: there is nothing to cancel
                loop.call_soon_threadsafe(task.cancel)

    def serve(self, binding: Binding, function: Callable[..., Any], is_async: bool) -> None:
        state = ProcessState()
        self.send(("ready",))
        while True:
            _, job_id, exec_id, queue, task, attempt, retries, data, encoding, deadline, *options = self._jobs.get()
            link = self._link = AttemptLink(exec_id, self.send, self._flush_due)
            until = None if deadline is None else datetime.fromtimestamp(deadline, UTC)
            job = Job(link, job_id, exec_id, queue, task, attempt, retries, data, encoding, until, *options)
            verdict = self._run(binding, function, job, is_async)
            self._link = None
            link.flush()
            state.restore()
            failure = verdict.failure
            error = None if failure is None else (failure.type, failure.message, failure.traceback, failure.final)
            self.send(("done", exec_id, verdict.outcome, verdict.result, verdict.encoding, error, verdict.delay_ms))

    def _run(self, binding: Binding, function: Callable[..., Any], job: Job, is_async: bool) -> outcomes.Verdict:
        try:
            if is_async:
                value = asyncio.run(self._await(binding, function, job))
            else:
                value = contextvars.copy_context().run(binding.call, function, job)
        except BaseException as error:
            forks.end_if_fork(0, error)
            return outcomes.of_exception(error)
        forks.end_if_fork(0, None)
        return outcomes.of_value(value)

    async def _await(self, binding: Binding, function: Callable[..., Any], job: Job) -> Any:
        task = asyncio.ensure_future(self._call(binding, function, job))
        self._task = (asyncio.get_running_loop(), task)
        try:
            return await task
        finally:
            self._task = None

    async def _call(self, binding: Binding, function: Callable[..., Any], job: Job) -> Any:
        try:
            value = await binding.call(function, job)
        except BaseException as error:
            forks.end_if_fork(0, error)  # before the loop ends: the fork shares what it polls with its parent
            raise
        forks.end_if_fork(0, None)
        return value


def _receive(sock: socket.socket) -> tuple[Any, ...] | None:
    head = _exactly(sock, LENGTH.size)
    body = None if head is None else _exactly(sock, LENGTH.unpack(head)[0])
    if body is None:
        return None
    message: tuple[Any, ...] = marshal.loads(body)
    return message


def _exactly(sock: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = sock.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)


def find(module: str, qualname: str, main: tuple[str, str] | None) -> Callable[..., Any]:
    """The handler's function, by name. `main`: ("file", path) or ("module", name) where it lives in the main module."""
    from taskflow._handlers.task import BaseTask

    importing.by_handler_process = True
    try:
        if main is None:
            found: Any = importlib.import_module(module)
        elif main[0] == "module":
            found = importlib.import_module(main[1])
        else:
            found = _import_main(main[1])
    finally:
        importing.by_handler_process = False
    for part in qualname.split("."):
        found = getattr(found, part)
    function: Callable[..., Any] = found.handler.function if isinstance(found, BaseTask) else found
    return function


def _import_main(path: str) -> types.ModuleType:
    module = types.ModuleType("__mp_main__")
    module.__file__ = path
    sys.modules["__mp_main__"] = sys.modules["__main__"] = module
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    with contextlib.suppress(importing.StopImport):
        exec(code, module.__dict__)
    return module


def main(fd: int, module: str, qualname: str, place: tuple[str, str] | None, is_async: bool) -> None:
    """The process's main function.

    Signals that stop a worker are the worker's to answer. They are caught and not ignored, since a program that the
    handler starts would inherit that; a fork gets their defaults.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _heard)
    forks.restore_in_forks({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL})
    os.set_inheritable(fd, False)
    forks.close_in_forks(fd)
    child = Child(socket.socket(fileno=fd))
    threading.Thread(target=child.listen, name="taskflow-parent", daemon=True).start()
    threading.Thread(target=child.flush_forever, name="taskflow-progress", daemon=True).start()
    try:
        function = find(module, qualname, place)
        binding = Binding(function)
    except BaseException:
        child.send(("broken", traceback.format_exc()))
        return
    child.serve(binding, function, is_async)


def _heard(number: int, frame: types.FrameType | None) -> None:
    """The worker drains, and says when this process is to end."""
