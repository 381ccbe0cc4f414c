"""The app of tests/system/test_stop_contract.py: a handler for each way to be at work when a cancel comes.

    python -m tests.support.stopping_app <file>

A handler appends to `file`: `<task> <pid>` for each process that must be gone after its end, or `<task> started` and
`<task> ended`.
"""

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

from taskflow import Cancelled, Job, TaskFlow

tf = TaskFlow(os.environ.get("TASKFLOW_SCHEDULER_ADDRESS"))
FILE = sys.argv[1] if len(sys.argv) > 1 else os.devnull
TREE = """
trap '' TERM
echo tree $$ >> "$0"
(setsid bash -c 'trap "" TERM; echo tree $$ >> "$0"; sleep 600; :' "$0" &)
setsid bash -c 'trap "" TERM; echo tree $$ >> "$0"; sleep 600; :' "$0" &
sleep 600
:
"""


def note(line: str) -> None:
    with open(FILE, "a") as file:
        file.write(line + "\n")


@tf.task(queue="stopping")
async def coroutine(job: Job) -> Any:
    note("coroutine started")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        note("coroutine ended")
        if job.payload == "late":
            return "a late success"
        raise


@tf.task(queue="stopping")
def loop(job: Job) -> Any:
    note("loop started")
    while not job.cancelled:
        time.sleep(0.01)
    note("loop ended")
    if job.payload == "late":
        return "a late success"
    raise Cancelled


@tf.task(queue="stopping", processes=1)
def blocking(job: Job) -> Any:
    note(f"blocking {os.getpid()}")
    return sum(range(10**15))  # one call into C


@tf.task(queue="stopping", processes=1)
def tree(job: Job) -> Any:
    note(f"tree {os.getpid()}")
    return subprocess.run(["bash", "-c", TREE, FILE], start_new_session=True, check=False).returncode


@tf.task(queue="stopping")
async def ping() -> str:
    return "pong"


if __name__ == "__main__":
    tf.run(concurrency=3, cancel_grace=0.2, grace=60)
