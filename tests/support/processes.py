"""Looking at processes from outside, by /proc."""

import os
from collections.abc import Collection
from pathlib import Path


def descendants(pid: int, stop_at: Collection[int] = ()) -> list[int]:
    """Its children, their children, and so on; those of `stop_at` have none here."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):  # without pathlib, which takes ten times as long
        try:
            with open(f"/proc/{name}/stat", "rb", buffering=0) as stat:
                parents[int(name)] = int(stat.read(1000).rpartition(b")")[2].split(None, 2)[1])
        except (OSError, IndexError):
            continue  # it has just ended
    found = [pid]
    for each in found:
        if each not in stop_at:
            found.extend(child for child, parent in parents.items() if parent == each)
    return found[1:]


def runs(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def connected(pid: int, port: int) -> bool:
    """Whether it has an established TCP connection to `port`."""
    established = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "01" and int(words[2].rpartition(":")[2], 16) == port:
                established.add(f"socket:[{words[9]}]")
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(descriptor) in established:
                return True
        except OSError:
            continue
    return False


def parent(pid: int) -> int:
    """Who started it, or took it over."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def peak_memory(pid: int) -> int:
    """The most that was ever resident of it, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no VmHWM for {pid}")


def started_at(pid: int) -> float:
    """When it started, in seconds since the machine did."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return 0.0
    return int(ticks) / os.sysconf("SC_CLK_TCK")


def command_of(pid: int) -> str:
    """Its command line, cut."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
    except OSError:
        return "ended meanwhile"


def listening(pid: int) -> set[int]:
    """TCP ports that it listens on."""
    ports: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A":
                ports[f"socket:[{words[9]}]"] = int(words[1].rpartition(":")[2], 16)
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target in ports:
            found.add(ports[target])
    return found
