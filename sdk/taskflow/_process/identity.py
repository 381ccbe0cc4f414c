"""Which process this is, and the proof that another one on the same machine has ended.

A pid alone proves nothing: it is reused, and means another process in another container. A process is its pid
namespace, its pid there and its start time. Linux only; elsewhere the namespace is empty and nothing can be proved.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """`started` is in clock ticks since the machine's boot."""

    namespace: str = ""
    pid: int = 0
    started: int = 0


def own() -> Process:
    """This process; without a namespace where the system does not tell."""
    namespace, stat = _namespace(), _stat(os.getpid())
    return Process(namespace, os.getpid(), stat.started) if namespace and stat else Process()


def is_gone(process: Process) -> bool:
    """Whether it is certain that the process has ended. False also where this process cannot know."""
    if not process.namespace or process.pid <= 0 or process.started <= 0 or process.namespace != _namespace():
        return False
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass  # it exists and is another user's, or is not a pid
    stat = _stat(process.pid)  # None: hidden from this user, or gone since, which the next look tells
    return stat is not None and (stat.started != process.started or stat.is_zombie)


class _Stat(NamedTuple):
    is_zombie: bool
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        # The second field, the command's name in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        state, threads, started = fields[0], int(fields[17]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
    # A leader that ended before its threads is shown as a zombie, too, and its process lives.
    return _Stat(state in ("Z", "X") and threads <= 1, started)


@functools.cache
def _namespace() -> str:
    """Boot, pid namespace and time namespace, which start times depend on."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        pids = os.stat("/proc/self/ns/pid").st_ino
        times = os.stat("/proc/self/ns/time").st_ino if os.path.exists("/proc/self/ns/time") else 0
    except OSError:
        return ""
    return f"{boot}/{pids}/{times}"
