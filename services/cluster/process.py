"""Child processes that never outlive us.

Each child has a session of its own (a Ctrl-C in the terminal reaches the supervisor alone, which then stops the
children in order) and gets a signal from the kernel when we end, however we end. That signal is sent when the *thread*
that started the child ends, so all children are started by one thread that lasts as long as the process.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_STUB = Path(__file__).with_name("_child.py")
_spawner = ThreadPoolExecutor(1, "spawner")


class Interrupted(Exception):
    """A stop was requested during a wait."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user that a child runs as."""

    uid: int
    gid: int
    name: str


def spawn(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path | None,
    death_signal: signal.Signals = signal.SIGKILL,
    identity: Identity | None = None,
) -> "subprocess.Popen[bytes]":
    """Start `command`; its output is appended to `log` (None: dropped). Raises OSError when that file is out of reach.

    A program that cannot be run shows as exit status 126 with one line in the log.
    """
    uid, gid = (identity.uid, identity.gid) if identity else (-1, -1)
    stub = [sys.executable, "-I", "-S", str(_STUB), str(os.getpid()), str(int(death_signal)), str(uid), str(gid)]

    def start() -> "subprocess.Popen[bytes]":
        with open(log or os.devnull, "ab") as output:
            return subprocess.Popen(
                [*stub, *(str(word) for word in command)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(env),
                cwd=cwd,
                start_new_session=True,
            )

    return _spawner.submit(start).result()


def wait_until(
    condition: Callable[[], bool], timeout: float, stopping: Callable[[], bool] = lambda: False, every: float = 0.02
) -> bool:
    """Whether `condition`, checked `every` seconds, became true within `timeout` seconds.

    Raises Interrupted as soon as `stopping()` holds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if stopping():
            raise Interrupted
        if time.monotonic() >= deadline:
            return False
        time.sleep(every)
    return True


def stop(
    process: "subprocess.Popen[bytes]",
    signals: Sequence[tuple[signal.Signals, float]],
    hurry: Callable[[], bool] = lambda: False,
) -> None:
    """Send the signals one after the other, each with its seconds to work; SIGKILL after the last, or on `hurry()`.

    Returns when the child has ended and is reaped.
    """
    for number, patience in signals:
        if process.poll() is not None:
            return
        process.send_signal(number)
        try:
            wait_until(lambda: process.poll() is not None, patience, hurry)
        except Interrupted:
            break
    if process.poll() is None:
        process.kill()
    process.wait()


def tail(log: Path, offset: int = 0) -> str:
    """The last line with words in it after `offset`, for a notice; empty when there is none."""
    return next(reversed(last_lines(log, offset)), "")


def last_lines(log: Path, offset: int = 0) -> list[str]:
    """The lines with words in them at the end of a log, after `offset`: those of 4 KiB."""
    try:
        with log.open("rb") as file:
            file.seek(max(offset, log.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return []
    return [line for line in lines if line]


def rotate(log: Path, limit: int) -> bool:
    """Whether a log of more than `limit` bytes was moved to `.log.1`. Its program goes on writing to it: it is copied
    and cut, as it was opened for appending; lines written between the two are lost."""
    try:
        if log.stat().st_size <= limit:
            return False
        with log.open("rb") as source, log.with_suffix(".log.1").open("wb") as target:
            shutil.copyfileobj(source, target)
        os.truncate(log, 0)
    except OSError:
        return False  # without room for a copy, a log that grows is better than none
    return True


def take_lock(path: Path) -> int:
    """Lock the file, made if need be, until the descriptor returned is closed or we end, however we end.

    Children do not inherit it. Raises BlockingIOError when another process has it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
