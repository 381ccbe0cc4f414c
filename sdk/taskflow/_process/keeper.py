"""Keeps one command: starts it, and is there until nothing of it lives any more. A command is a handler process, or
one of `shell.run`.

A program of its own, started by path, with few imports: its start is most of the 19 ms of CPU that a command costs more
than itself (`json`, `socket` and `contextlib` would add 6). It adopts whatever the command leaves behind, so that no
process of the command's can hide from it, in a session of its own or as somebody's orphan: once the keeper has no
child, nothing is left. Its socket, and a new parent, tell it when the worker is gone, however that ended.

Its arguments are two descriptors. In the file it finds, marshalled, what to start: `argv`, `env`, `cwd`, `folder`,
which is removed at the end, and `fds`, descriptors that the command inherits. Down the socket come `stop SECONDS` and
`kill`; up goes, at the end, `exit CODE`, `signal NUMBER`, or `error ERRNO` where the command could not be started.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 1.0  # seconds between two rounds of killing


def main(control: int, spec_file: int) -> None:
    """Returns when all is over."""
    os.set_inheritable(control, False)
    with open(spec_file, "rb") as file:
        spec = marshal.load(file)
    wake = _listen_for_children()
    worker = os.getppid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCHLD)  # a wake-up, should a fork of the worker hold the socket open
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = _start(spec["argv"], spec["env"], spec["cwd"])
    except OSError as error:
        ending = f"error {error.errno}"
    else:
        for fd in spec["fds"]:
            os.close(fd)
        ending = _Keeper(control, wake, child, worker).keep()
    if spec["folder"]:
        import shutil

        shutil.rmtree(spec["folder"], ignore_errors=True)
    try:
        os.write(control, ending.encode())
    except OSError:
        pass  # nobody is left to hear it


class _Keeper:
    def __init__(self, control: int, wake: int, child: int, worker: int) -> None:
        self._control = control
        self._wake = wake
        self._child = child
        self._worker = worker
        self._status = 0
        self._ended = False  # the command itself; what it started may live on
        self._stop_until: float | None = None

    def keep(self) -> str:
        """Until the command has ended, or is to be killed. How it ended; all that it had started is dead then."""
        while not self._over():
            left = None if self._stop_until is None else max(0.0, self._stop_until - time.monotonic())
            ready = select.select([self._control, self._wake], [], [], left)[0]
            if self._wake in ready:
                os.read(self._wake, 4096)
            if os.getppid() != self._worker or (self._control in ready and not self._hear()):
                break
        pause = _FIRST_PAUSE
        while self._reap():
            self._signal_all(signal.SIGKILL)
            select.select([], [], [], pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        if os.WIFSIGNALED(self._status):
            return f"signal {os.WTERMSIG(self._status)}"
        return f"exit {os.WEXITSTATUS(self._status)}"

    def _hear(self) -> bool:
        """False: it is to be killed now. After `stop`, the whole tree may end by itself for a while."""
        try:
            data = os.read(self._control, 4096)
        except ConnectionError:
            data = b""
        if not data or b"kill" in data:
            return False
        if self._stop_until is None:
            self._stop_until = time.monotonic() + float(data.split()[1])
            self._signal_all(signal.SIGTERM)
            self._signal_all(signal.SIGCONT)
        return True

    def _over(self) -> bool:
        living = self._reap()
        if self._stop_until is not None:
            return not living or time.monotonic() >= self._stop_until
        return self._ended

    def _reap(self) -> bool:
        """Takes note of the dead. Whether there is any child left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._child:
                    self._status, self._ended = status, True
        except ChildProcessError:
            return False

    def _signal_all(self, number: signal.Signals) -> None:
        for pid in _descendants() or [-self._child]:  # where there is no /proc, the group
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):
                pass


def _start(argv: list[str], env: dict[str, str], cwd: str) -> int:
    """The command, in a session of its own: what it sends to its group is not for the keeper. Or OSError."""
    keeper = os.getpid()
    told, tell = os.pipe()  # closed by a successful exec
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == keeper:
                os.chdir(cwd)
                os.execve(argv[0], argv, env)
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(tell)
    with open(told, "rb") as answer:
        word = answer.read()
    if word:
        os.waitpid(child, 0)
        raise OSError(int(word), os.strerror(int(word)))
    return child


def _listen_for_children() -> int:
    """The descriptor that becomes readable when a child ends. The worker answers a terminal's signals."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told, tell = os.pipe()
    os.set_blocking(told, False)
    os.set_blocking(tell, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    return told


def _descendants() -> list[int]:
    """Its children, theirs, and so on. Empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    parent = int(stat.read().rpartition(b")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it has just ended
            children.setdefault(parent, []).append(int(name))
    found = [os.getpid()]
    for each in found:
        found.extend(children.get(each, []))
    return found[1:]


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
