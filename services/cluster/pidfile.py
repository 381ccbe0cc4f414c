"""The files in which a data folder names its server: postmaster.pid and postmaster.opts."""

import os
from pathlib import Path


def lines(data: Path) -> list[str]:
    """Pid, data, start, port, socket folder, address, memory, status; fewer while the server starts."""
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except OSError:
        return []


def ready(data: Path, pid: int) -> bool:
    """Whether the server `pid` of `data` accepts connections."""
    found = lines(data)
    return len(found) >= 8 and found[0] == str(pid) and found[7] == "ready"


def postmaster(data: Path) -> int | None:
    """The pid of the live server of `data`. A pid that now belongs to another program does not count."""
    found = lines(data)
    if not found or not found[0].isdigit():
        return None
    pid = int(found[0])
    try:
        if Path("/proc/self/cwd").exists():
            return pid if Path(f"/proc/{pid}/cwd").resolve(strict=True) == data.resolve() else None
        os.kill(pid, 0)
    except PermissionError:
        return None  # not ours: a server of this data would run as our user, or we are root
    except OSError:
        return None
    return pid


def last_port(data: Path) -> int:
    """The port of the server that ran here last, if its options are still there; else 0."""
    try:
        words = (data / "postmaster.opts").read_text().split('"')
        return int(words[words.index("-p") + 2])
    except (OSError, ValueError, IndexError):
        return 0
