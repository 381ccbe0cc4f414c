"""A worker that records each start and end of two handlers on one queue: `narrow`, which tests limit, and `wide`.

Run as a program: `python -m tests.support.limited_app FILE SECONDS`, TASKFLOW_ADDRESS naming the scheduler.
A payload is a number of seconds for its job alone.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from pathlib import Path

from taskflow import Job, TaskFlow


def main() -> None:
    path, seconds = Path(sys.argv[1]), float(sys.argv[2])
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    tf = TaskFlow(os.environ["TASKFLOW_ADDRESS"])

    def note(kind: str, job: Job) -> None:
        now = time.monotonic()  # the machine's, the same for every process
        os.write(out, f"{now:.6f} {kind} {job.task} {job.id} {job.exec_id}\n".encode())

    async def handle(job: Job) -> None:
        note("start", job)
        await asyncio.sleep(job.payload or seconds)
        note("end", job)

    for name in ("narrow", "wide"):
        tf.task(name=name, queue="q", retries=20)(handle)
    tf.run(concurrency=20)


def most_at_once(task: str, killed: dict[Path, float], *files: Path) -> tuple[int, Counter[str]]:
    """How many jobs of a task ran at once, and how often each has ended; `killed`: when the worker of a file was."""
    events: list[tuple[float, int, Path, str]] = []
    ends: Counter[str] = Counter()
    for file in files:
        for line in file.read_text().rpartition("\n")[0].splitlines():
            at, kind, name, job, exec_id = line.split()
            if name == task:
                events.append((float(at), 1 if kind == "start" else -1, file, exec_id))
                ends[job] += kind == "end"
    events += [(at, 0, file, "") for file, at in killed.items()]
    running: dict[Path, set[str]] = {file: set() for file in files}
    most = 0
    for _, change, file, exec_id in sorted(events, key=lambda event: event[:2]):
        if change > 0:
            running[file].add(exec_id)
        elif change < 0:
            running[file].discard(exec_id)
        else:
            running[file].clear()  # its handlers have ended with it
        most = max(most, sum(map(len, running.values())))
    return most, ends


if __name__ == "__main__":
    main()
