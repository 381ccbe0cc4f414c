"""Costs of processes, read from /proc: CPU seconds, memory, and how busy the machine was with others' work."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its reaped children; 0 when it is gone. To 10 ms."""
    fields = _stat(pid)
    return sum(int(fields[n]) for n in (11, 12, 13, 14)) / _TICK if fields else 0.0


def tree(pid: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, ()))
    return found


def tree_cpu_seconds(pid: int) -> float:
    """CPU seconds of the process and all its descendants. Grows only: a dead child's are counted with its parent."""
    return sum(map(cpu_seconds, tree(pid)))


def command(pid: int) -> list[str]:
    """The words by which a process was started; none when it is gone."""
    return _read(_PROC / str(pid) / "cmdline").split("\0")


def resident_mb(pid: int) -> float:
    """Resident memory of one process, in MB of 10^6 bytes."""
    for line in _read(_PROC / str(pid) / "status").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def tree_mb(pid: int) -> float:
    """Memory of a process and its descendants, what they share counted once, in MB. 0 where the kernel does not say."""
    kilobytes = 0
    for each in tree(pid):
        for line in _read(_PROC / str(each) / "smaps_rollup").splitlines():
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024 / 1e6


def machine_busy_seconds() -> float:
    """CPU seconds that all cores together have worked since the machine's start."""
    words = _read(_PROC / "stat").partition("\n")[0].split()
    return sum(int(words[n]) for n in (1, 2, 3, 6, 7)) / _TICK


@dataclass(slots=True)
class Window:
    """The difference between two looks. `others`: share of one core that processes not ours used."""

    seconds: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)
    others: float = 0.0


@contextmanager
def window(pids: Callable[[], Mapping[str, list[int]]]) -> Iterator[Window]:
    """CPU seconds by name over the block, of processes that live at its end; descendants count.

    Our own process and what it has reaped meanwhile is `harness`.
    """
    before = _look(pids())
    seen = Window()
    yield seen
    after = _look(pids())
    seen.seconds = after.at - before.at
    seen.cpu = {name: used - before.cpu.get(name, 0.0) for name, used in after.cpu.items()}
    ours = sum(seen.cpu.values())
    seen.others = max(0.0, after.busy - before.busy - ours) / seen.seconds


@dataclass(slots=True)
class _Look:
    at: float
    busy: float
    cpu: dict[str, float]


def _look(pids: Mapping[str, list[int]]) -> _Look:
    cpu = {name: sum(map(tree_cpu_seconds, some)) for name, some in pids.items()}
    times = os.times()
    cpu["harness"] = times.user + times.system + times.children_user + times.children_system
    return _Look(time.monotonic(), machine_busy_seconds(), cpu)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name, which may hold anything."""
    return _read(_PROC / str(pid) / "stat").rpartition(")")[2].split()


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended
        return ""
