"""The worker's side of a keeper: starts a command, reads its output and exit status, ends it with all its processes."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import taskflow
from taskflow_server.runtime import logs

log = logs.get("shell")

KEEPER = Path(taskflow.__file__).parent / "_process" / "keeper.py"  # a program: handler processes have it too
_CHUNK = 64 << 10
_UNKILLABLE = 10.0  # seconds after SIGKILL; then the kernel holds it, and there is nothing to wait for

Reader = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Command:
    """The command to run: `argv[0]` is a path, `env` all of its environment, `folder` (if any) removed at the end."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    folder: str = ""
    stdin: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """`kind`: `exit`, `signal`, `error` (could not be started: an errno), or `lost` (the keeper itself was killed)."""

    kind: str
    number: int


class Kept:
    """One command under way, from the first moment. To be ended by `wait` or by `stop`, always.

    OSError when there is no room for another process.
    """

    def __init__(self, command: Command, stdout: Reader, stderr: Reader) -> None:
        self._name = command.argv[0]
        self._control, theirs = socket.socketpair()
        self._control.setblocking(False)
        outputs = [os.pipe(), os.pipe()]
        try:
            with theirs:
                self._keeper = _spawn(command, theirs, outputs[0][1], outputs[1][1])
        except BaseException:
            self._control.close()
            for read, _ in outputs:
                os.close(read)
            raise
        finally:
            for _, write in outputs:
                os.close(write)
        self._gone = False  # whether nothing of the command lives
        self._news: list[asyncio.Event] = []  # one for each reader
        self._over = asyncio.create_task(self._live(outputs[0][0], stdout, outputs[1][0], stderr))

    async def _live(self, out: int, stdout: Reader, err: int, stderr: Reader) -> Ending:
        loop = asyncio.get_running_loop()
        reading = [asyncio.create_task(self._read(out, stdout)), asyncio.create_task(self._read(err, stderr))]
        words: list[bytes] = []
        with contextlib.suppress(ConnectionError):
            words = (await loop.sock_recv(self._control, _CHUNK)).split()
        self._control.close()
        await asyncio.to_thread(self._keeper.wait)
        self._gone = True
        for news in self._news:
            news.set()
        await asyncio.gather(*reading)
        return Ending(words[0].decode(), int(words[1])) if words else Ending("lost", 0)

    async def _read(self, fd: int, reader: Reader) -> None:
        """All that comes, no faster than `reader` takes it. One that holds it open once all are gone is not awaited."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        self._news.append(news)
        os.set_blocking(fd, False)
        try:
            while True:
                try:
                    chunk = os.read(fd, _CHUNK)
                except BlockingIOError:
                    if self._gone:
                        return
                    news.clear()
                    loop.add_reader(fd, news.set)
                    await news.wait()
                    loop.remove_reader(fd)
                    continue
                if not chunk:
                    return
                await reader(chunk)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    async def wait(self) -> Ending:
        """How it ended, when nothing of it is left and all its output was read."""
        return await asyncio.shield(self._over)

    async def stop(self, grace: float) -> None:
        """SIGTERM to the whole tree, SIGKILL after `grace` seconds; returns when it is gone. A cancel hurries it."""
        self._tell(f"stop {grace}")
        until = asyncio.get_running_loop().time() + grace + _UNKILLABLE
        while not self._over.done():
            try:
                async with asyncio.timeout_at(until):
                    await asyncio.shield(self._over)
            except asyncio.CancelledError:
                self._tell("kill")
            except TimeoutError:
                log.error("a command cannot be killed", program=self._name, keeper=self._keeper.pid)
                return

    def _tell(self, word: str) -> None:
        with contextlib.suppress(OSError):  # it is over
            self._control.send(word.encode() + b"\n")


def _spawn(command: Command, control: socket.socket, stdout: int, stderr: int) -> subprocess.Popen[bytes]:
    """A fork of this process would take its threads' locks along: it starts another program, which forks."""
    spec = {"argv": command.argv, "env": command.env, "cwd": command.cwd, "folder": command.folder, "fds": []}
    with _file(marshal.dumps(spec)) as said, _file(command.stdin.encode()) as stdin:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(KEEPER), str(control.fileno()), str(said.fileno())],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[control.fileno(), said.fileno()],
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            start_new_session=True,
        )


def _file(data: bytes) -> IO[bytes]:
    """An unnamed file with the data: unlike that of a pipe, its writer never waits."""
    file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  its user closes it
    file.write(data)
    file.seek(0)
    return file
