"""Where the time goes: py-spy looks at every process of ours while a backlog is made and drained.

Counted is who holds the interpreter's lock, which is where our processes spend their CPU; garbage collection counts for
the function that sets it off. py-spy is no dependency: it is used if it is on the path (`pip install py-spy`; it may
need root). Its files, one a process and shape with a stack and its count a line, are kept for flame graphs.
"""

import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.lab import BenchError, Lab
from benchmarks.procs import tree_cpu_seconds
from taskflow_server.cluster.process import stop

RATE = 200  # looks a second
_SHOWN = 10
_OUTERMOST = (  # what everything else is called by, which says nothing
    "threading.py", "runpy", "asyncio/runners", "/lifecycle.py", "uvloop/__init__", "__main__", "/_worker/run.py",
    "benchmarks/worker.py", "run (taskflow/_client/client.py)",
)  # fmt: skip


def profile(lab: Lab, folder: Path) -> str:
    """The tables; the stacks are in `folder`. BenchError without py-spy."""
    program = shutil.which("py-spy")
    if program is None:
        raise BenchError("py-spy is not on the path: pip install py-spy")
    folder.mkdir(parents=True, exist_ok=True)
    jobs = lab.plan.jobs

    def enqueue() -> None:
        lab.client("bulk", queue="backlog", jobs=jobs)

    def drain() -> None:
        since = lab.waiting_since
        lab.board.open(1)
        lab.until(lambda: lab.board.count(1) >= jobs, f"the handlers of {jobs} jobs")
        lab.wait_settled(since, jobs)

    lab.expect()
    parts = [_watched(lab, program, folder, "bulk", enqueue)]
    lab.start_worker("backlog", 1, shut=True)
    lab.until(lambda: lab.board.held(1) > 0, "the worker's first job")
    parts.append(_watched(lab, program, folder, "drain", drain))
    lab.stop_workers("backlog")
    lab.live_worker()

    def calls() -> None:
        lab.client("strangers", queue="live", callers=50, seconds=lab.plan.seconds)

    parts.append(_watched(lab, program, folder, "strangers", calls))
    return "\n".join(parts)


def _watched(lab: Lab, program: str, folder: Path, shape: str, work: Callable[[], None]) -> str:
    """Runs `work` with every Python process of ours looked at."""
    pids = {name: some[0] for name, some in lab.pids().items() if some and name != "postgres"}
    spies = {name: _spy(program, pid, folder / f"{shape}-{name}.txt") for name, pid in pids.items()}
    lab.pause(1.0)  # a spy needs a moment to read its process's symbols
    before, began = {name: tree_cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    work()
    seconds = time.monotonic() - began
    shares = {name: (tree_cpu_seconds(pid) - before[name]) / seconds for name, pid in pids.items()}
    for spy in spies.values():
        stop(spy, ((signal.SIGINT, 30.0),))
    return _tables(shape, {name: folder / f"{shape}-{name}.txt" for name in pids}, shares)


def _spy(program: str, pid: int, target: Path) -> "subprocess.Popen[bytes]":
    words = [program, "record", "--pid", str(pid), "--format", "raw", "--output", str(target)]
    words += ["--rate", str(RATE), "--duration", "600", "--gil"]
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _tables(shape: str, files: Mapping[str, Path], shares: Mapping[str, float]) -> str:
    lines = []
    for name, path in files.items():
        own, all_in = read(path)
        total = sum(own.values()) or 1
        lines.append(f"\n{shape}, {name}: {shares[name]:.0%} of a core, {total} looks")
        lines.append(f"  {'in itself':<66}{'with what it calls'}")
        inner = [each for each in all_in.most_common() if not any(file in each[0] for file in _OUTERMOST)]
        for (a, n), (b, m) in zip(own.most_common(_SHOWN), inner, strict=False):
            lines.append(f"  {n / total:>6.1%} {a:<58} {m / total:>6.1%} {b}")
    return "\n".join(lines)


def read(path: Path) -> tuple[Counter[str], Counter[str]]:
    """Looks by function: that found it at work itself, and that found it or what it had called."""
    own: Counter[str] = Counter()
    all_in: Counter[str] = Counter()
    for line in path.read_text().splitlines() if path.exists() else ():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        own[frames[-1]] += int(count)
        for frame in set(frames):
            all_in[frame] += int(count)
    return own, all_in


def _short(frame: str) -> str:
    """`name (path/file.py:12)` without the line, and with the last two parts of the path."""
    name, _, where = frame.partition(" (")
    file = where.rstrip(")").rpartition(":")[0] or where.rstrip(")")
    return f"{name} ({'/'.join(file.split('/')[-2:])})" if file else name
