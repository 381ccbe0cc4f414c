"""A worker that keeps a record of its own: each start and each end of a handler is a line on disk before it counts.

Run as a program: `python -m tests.support.recorder FILE QUEUE [CONCURRENCY] [async|thread]`, TASKFLOW_ADDRESS naming
the scheduler. A payload says what to do: {"sleep": seconds, "fail": times, "die": true}. A handler that is cancelled
writes `stop` in place of `end`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from taskflow import Job, TaskFlow


@dataclass
class Record:
    """The handlers' records, by job."""

    starts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    overlapping: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, *files: Path) -> Record:
        found = cls()
        running: Counter[str] = Counter()
        texts = (f.read_text() for f in files if f.exists())
        # Text after the last line's end is a line that is just being written.
        lines = sorted(line for text in texts for line in text.rpartition("\n")[0].splitlines())
        for line in lines:
            _, kind, job, _ = line.split()
            if kind == "start":
                found.starts[job] += 1
                running[job] += 1
                if running[job] > 1:
                    found.overlapping.append(job)
            else:
                found.ends[job] += kind == "end"
                running[job] -= 1
        return found


def main() -> None:
    path, queue = Path(sys.argv[1]), sys.argv[2]
    concurrency = int(sys.argv[3]) if len(sys.argv) > 3 else 20
    tf = TaskFlow(os.environ["TASKFLOW_ADDRESS"])
    out = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(kind: str, job: Job) -> None:
        now = time.monotonic()  # the machine's, the same for every process
        os.write(out, f"{now:.6f} {kind} {job.id} {job.exec_id}\n".encode())

    def begin(job: Job) -> float:
        note("start", job)
        wish = job.payload if isinstance(job.payload, dict) else {}
        if wish.get("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        return float(wish.get("sleep", 0))

    def end(job: Job) -> dict[str, int]:
        note("end", job)
        wish = job.payload if isinstance(job.payload, dict) else {}
        if job.attempt <= wish.get("fail", 0):
            raise RuntimeError(f"attempt {job.attempt} was told to fail")
        return {"attempt": job.attempt}

    async def handle(job: Job) -> dict[str, int]:
        seconds = begin(job)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            note("stop", job)
            raise
        return end(job)

    def handle_in_thread(job: Job) -> dict[str, int]:
        time.sleep(begin(job))
        return end(job)

    threaded = sys.argv[4:5] == ["thread"]
    tf.run(queue, handler=handle_in_thread if threaded else handle, concurrency=concurrency)


if __name__ == "__main__":
    main()
