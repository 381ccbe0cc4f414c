"""The app of the SDK's system tests: one task for each thing that a handler can do.

    python -m tests.support.sdk_app <scheduler> <file> [few] [keyword=value …]     as `tf.run` takes them

Each attempt appends lines to `file`: `start|end <task> <exec_id>`.
"""

import asyncio
import ctypes
import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from taskflow import Cancelled, Constant, Fail, Job, Retry, Snooze, TaskFlow

tf = TaskFlow(sys.argv[1] if len(sys.argv) > 1 else "localhost:9003")
NOTES = sys.argv[2] if len(sys.argv) > 2 else os.devnull


FEW = "few" in sys.argv  # of the tasks with processes only `work`: each process takes a tenth of a second to start


def elsewhere(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A task with a process of its own."""
    return (lambda function: function) if FEW else tf.task(queue="sdk", processes=1, **options)


def note(what: str, job: Job) -> None:
    with open(NOTES, "a") as file:
        file.write(f"{what} {job.task} {job.exec_id}\n")


@tf.task(queue="sdk")
def echo(job: Job) -> Any:
    return job.payload


@tf.task(queue="sdk")
async def attributes(job: Job) -> Any:
    return job.metadata


@elsewhere()
def attributes_elsewhere(job: Job) -> Any:
    return job.metadata


@tf.task(queue="sdk", retries=3, backoff=Constant(0.1))
async def end(job: Job) -> Any:
    """Ends as its payload says."""
    how, first = job.payload, job.attempt == 1
    if how == "retry" and first:
        raise Retry("again", delay=0.05)
    if how == "raise" and first:
        raise ValueError("no \x00 luck")
    if how == "fail":
        raise Fail("never")
    if how == "snooze" and first:
        raise Snooze(0.05)
    if how == "cancel":
        raise Cancelled("enough")
    if how == "unserialisable":
        return object()
    if how == "huge":
        return "x" * (2 << 20)
    return job.attempt


@tf.task(queue="sdk")
async def sleep(seconds: float, job: Job) -> str:
    note("start", job)
    await asyncio.sleep(seconds)
    note("end", job)
    return "slept"


@tf.task(queue="sdk")
def doze(seconds: float, job: Job) -> str:
    note("start", job)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.02)
    note("end", job)
    return "slept"


@tf.task(queue="sdk", processes=2)
def work(seconds: float, job: Job) -> str:
    note("start", job)
    job.progress(1, total=2, unit="things", message="half")
    job.log("at work", level="warning")
    time.sleep(seconds)
    note("end", job)
    return "worked"


@elsewhere(timeout=1)
def count() -> int:
    return sum(range(10**15))


@elsewhere()
def die(how: str) -> str:
    if how == "segfault":
        ctypes.string_at(0)
    if how == "exit":
        os._exit(3)
    if how == "raise":
        raise SystemExit(4)
    return "alive"


@elsewhere()
async def add(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


@tf.task(queue="sdk")
def obey(job: Job) -> None:
    note("start", job)
    while not job.cancelled:
        time.sleep(0.01)
    raise Cancelled


@elsewhere()
def obey_process(job: Job) -> None:
    note("start", job)
    while not job.cancelled:
        time.sleep(0.01)
    raise Cancelled


@elsewhere()
def defy(job: Job) -> None:
    note("start", job)
    while True:
        time.sleep(1)


@tf.task(queue="sdk", heartbeat_timeout=0.5)
async def beat(times: int, every: float, job: Job) -> str:
    for _ in range(times):
        await asyncio.sleep(every)
        job.heartbeat()
    return "lively"


@tf.task(queue="sdk")
async def block(seconds: float, job: Job) -> str:
    """A blocking call that no async handler should make."""
    note("start", job)
    time.sleep(seconds)  # noqa: ASYNC251
    return "blocked"


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    given = dict(word.split("=") for word in sys.argv[3:] if "=" in word)
    tf.run(**{key: int(value) if value.isdigit() else float(value) for key, value in given.items()})  # type: ignore
