"""One handler process, as the worker has it: a fresh interpreter below a keeper, which ends with all that it starts.

The keeper (`_process/keeper.py`) is the process's parent. It tells how the process ended, even where the application
waits for children of its own or ignores SIGCHLD, and where forks of the process hold its socket open.
"""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from taskflow._handlers.task import Handler
from taskflow._process import forks
from taskflow._transport.clock import SYSTEM
from taskflow._worker.executors.child import LENGTH
from taskflow.errors import FailedPrecondition

_KEEPER = Path(__file__).parents[2] / "_process" / "keeper.py"
_MAX_MESSAGE = 16 << 20  # bytes; a result has 1 MiB at most
_REAPED_EVERY = 0.005  # seconds between two looks at a keeper that has said its last word
_UNKILLABLE = 10.0  # seconds after SIGKILL; then the kernel holds it, and there is nothing to wait for


class Ending(NamedTuple):
    """How a process ended. `refused`: it was never started, by the system's decision."""

    how: str
    refused: bool = False


class HandlerProcess:
    """From its start. `ended` is done when nothing of it lives any more. On the I/O loop."""

    def __init__(
        self,
        keeper: subprocess.Popen[bytes],
        control: socket.socket,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        forget: Callable[[], None],
    ) -> None:
        """For `start`. `forget`: right before the sockets are closed."""
        self._keeper = keeper
        self._control = control
        self._reader = reader
        self._writer = writer
        self._forget = forget
        self._killed = False
        self.ended = asyncio.create_task(self._watch())

    @classmethod
    async def start(cls, handler: Handler) -> HandlerProcess:
        """OSError when the system has no room for it."""
        ours, theirs = socket.socketpair()
        control, keepers = socket.socketpair()
        forget = forks.close_in_forks(ours.fileno(), control.fileno())
        try:
            with theirs, keepers:
                keeper = _spawn(handler, theirs.fileno(), keepers.fileno())
            for each in (ours, control):
                each.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            forget()
            ours.close()
            control.close()  # the keeper ends
            raise
        return cls(keeper, control, reader, writer, forget)

    async def receive(self) -> tuple[Any, ...]:
        """Its next message. IncompleteReadError or ConnectionError at its end, ValueError for what is none."""
        (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        if length > _MAX_MESSAGE:
            raise ValueError(f"a message of {length:,} bytes")
        message: tuple[Any, ...] = marshal.loads(await self._reader.readexactly(length))
        return message

    def send(self, message: tuple[Any, ...]) -> None:
        if not self._writer.is_closing():
            data = marshal.dumps(message)
            self._writer.write(LENGTH.pack(len(data)) + data)

    def kill(self) -> None:
        """With everything that it has started. From any thread."""
        self._killed = True
        with contextlib.suppress(OSError):  # it has ended
            self._control.send(b"kill\n")

    async def close(self) -> Ending:
        """Kills it, unless it has ended. Returns when nothing of it lives, or the system does not let it go."""
        if not self.ended.done():
            self.kill()
        await asyncio.wait([self.ended], timeout=_UNKILLABLE)
        self._forget()
        self._writer.close()
        if not self.ended.done():
            return Ending("the handler's process cannot be killed: the system holds it")
        self._control.close()
        return self.ended.result()

    async def _watch(self) -> Ending:
        """The keeper's last word, as a sentence."""
        said = b""
        with contextlib.suppress(OSError):
            said = await asyncio.get_running_loop().sock_recv(self._control, 100)
        while self._keeper.poll() is None:
            await SYSTEM.sleep(_REAPED_EVERY)
        kind, _, number = said.decode().partition(" ")
        if not number.isdecimal():
            return Ending("the process that kept the handler's process has ended, and the handler's process with it")
        if kind == "error":
            return Ending(os.strerror(int(number)), refused=True)
        return Ending(_how(kind, int(number), self._killed))


def _how(kind: str, number: int, killed: bool) -> str:
    if kind == "exit":
        return f"the handler's process ended with exit status {number} before the handler returned"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    hint = "; was the machine out of memory?" if name == "SIGKILL" and not killed else ""
    return f"the handler's process was ended by {name}{hint}"


def _spawn(handler: Handler, fd: int, control: int) -> subprocess.Popen[bytes]:
    """A fresh interpreter with this one's path and flags, in a session of its own, below its keeper."""
    module, qualname = handler.function.__module__, handler.function.__qualname__
    place = _main_place() if module == "__main__" else None
    if not sys.executable:
        raise FailedPrecondition(
            "processes=…: this Python is embedded in a program and does not know its interpreter; set sys.executable"
            " to the path of a python of the same version, before the run"
        )
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; sys.argv[:] = {sys.argv!r}; "
        "from taskflow._worker.executors.child import main; "
        f"main({fd}, {module!r}, {qualname!r}, {place!r}, {handler.is_async!r})"
    )
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    command = [sys.executable, *flags, "-c", code]
    spec = {"argv": command, "env": dict(os.environ), "cwd": _folder(), "folder": "", "fds": [fd]}
    with tempfile.TemporaryFile() as file:
        file.write(marshal.dumps(spec))
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(_KEEPER), str(control), str(file.fileno())],
            pass_fds=[fd, control, file.fileno()],
            stdin=subprocess.DEVNULL,
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            start_new_session=True,
        )


def _folder() -> str:
    """The present one, which may have been removed."""
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _main_place() -> tuple[str, str]:
    module = sys.modules["__main__"]
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return ("module", spec.name)
    path = getattr(module, "__file__", None)
    if not path:
        raise FailedPrecondition("processes=…: the handler must live in a file, so that another process can import it")
    return ("file", os.path.abspath(path))
