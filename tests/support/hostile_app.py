"""The app of tests/system/test_sdk_hostile.py: handlers of four kinds that end in every way that user code can end.

python -m tests.support.hostile_app <queue> [async]    # async: by AsyncTaskFlow, beside the application's own work
"""

import asyncio
import dataclasses
import os
import sys
import threading
from typing import Any
from unittest.mock import MagicMock

from taskflow import AsyncTaskFlow, InvalidArgument, Job, Retry, Snooze, TaskFlow

tf = (AsyncTaskFlow if "async" in sys.argv else TaskFlow)(os.environ.get("TASKFLOW_SCHEDULER_ADDRESS"))
_TOO_MUCH = 1 << 46  # bytes of stack that no machine has: the system refuses such a thread


@dataclasses.dataclass
class Report:
    pages: int = dataclasses.field(init=False)  # never set: reading it raises


class RateLimited(Retry):
    def __init__(self, status: int) -> None:
        self.status = status


class NotYet(Snooze):
    def __init__(self) -> None:
        pass


class Mute(Exception):
    def __str__(self) -> str:
        raise SystemExit(5)


class Nameless(Exception):
    pass


Nameless.__qualname__ = "Name\ud800less"


class Impostor:
    @property
    def __class__(self) -> type:
        raise SystemExit(6)

    @__class__.setter
    def __class__(self, kind: type) -> None: ...


class Exiting:
    def model_dump(self, mode: str) -> Any:
        raise SystemExit(7)


def _itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def _ten_to_the(power: int) -> list[Any]:
    value: list[Any] = [0]
    for _ in range(power):
        value = [value] * 10
    return value


def _recurse(depth: int) -> int:
    return _recurse(depth + 1)


def _raise(error: BaseException) -> Any:
    raise error


ENDS = {
    "unset field": (Report, "AttributeError"),
    "mock": (MagicMock, "InvalidResult"),
    "itself": (_itself, "InvalidResult"),
    "many times": (lambda: _ten_to_the(40), "InvalidResult"),
    "keys": (lambda: {1: 2}, "InvalidResult"),
    "impostor": (Impostor, "InvalidResult"),
    "exits while dumped": (Exiting, "SystemExit"),
    "retry": (lambda: _raise(RateLimited(429)), "RateLimited"),
    "snooze": (lambda: _raise(NotYet()), "NotYet"),
    "mute": (lambda: _raise(Mute()), "Mute"),
    "nameless": (lambda: _raise(Nameless("x")), "Name\\ud800less"),
    "sys.exit": (lambda: sys.exit(3), "SystemExit"),
    "interrupt": (lambda: _raise(KeyboardInterrupt()), "KeyboardInterrupt"),
    "generator": (lambda: _raise(GeneratorExit()), "GeneratorExit"),
    "recursion": (lambda: _recurse(0), "RecursionError"),
}
"""By name: how a handler ends, and the type of its attempt's error."""

NOTES = {
    "current": lambda job: job.progress(float("nan")),
    "total": lambda job: job.progress(1, total=object()),
    "unit": lambda job: job.progress(1, unit=ValueMute()),
    "message": lambda job: job.log(ValueMute()),
}


class ValueMute:
    def __str__(self) -> str:
        raise ValueError("no text")


def _refuse_one_task() -> None:
    """The next that the handlers' loop makes."""
    loop = asyncio.get_running_loop()

    def refuse(of: asyncio.AbstractEventLoop, work: Any, **_: Any) -> Any:
        of.set_task_factory(None)
        raise LookupError("a task factory of the application's")

    loop.set_task_factory(refuse)


def end(job: Job) -> Any:
    if job.payload == "notes":
        return _refused(job)
    if job.payload == "refuse one task":
        return _refuse_one_task()
    return "pong" if job.payload is None else ENDS[job.payload][0]()


def _refused(job: Job) -> list[str]:
    """The fields of notes that are refused where they are made."""
    fields = []
    for note in NOTES.values():
        try:
            note(job)
        except InvalidArgument as error:
            fields.append(error.field)
    return fields


@tf.task(queue="hostile")
def in_thread(job: Job) -> Any:
    return end(job)


async def _exit() -> None:
    await asyncio.sleep(0)
    sys.exit(3)


async def _group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_exit())
        group.create_task(asyncio.sleep(60))


async def _left_behind() -> str:
    """Nobody awaits it."""
    left = asyncio.create_task(_exit())
    await asyncio.wait([left])
    return "pong"


IN_TASKS = {
    "exit of a task": (lambda: asyncio.create_task(_exit()), "SystemExit"),
    "gathered": (lambda: asyncio.gather(_exit(), asyncio.sleep(0)), "SystemExit"),
    "group": (_group, "SystemExit"),
    "in time": (lambda: asyncio.wait_for(_exit(), 60), "SystemExit"),
    "in a thread": (lambda: asyncio.to_thread(sys.exit, 3), "SystemExit"),
    "left behind": (_left_behind, ""),
}
"""By name: what an async handler awaits, and the type of its attempt's error."""


@tf.task(queue="hostile")
async def on_loop(job: Job) -> Any:
    if job.payload in IN_TASKS:
        return await IN_TASKS[job.payload][0]()
    return end(job)


@tf.task(queue="hostile", processes=1)
def in_process(job: Job) -> Any:
    return end(job)


@tf.task(queue="hostile", processes=1)
async def in_process_loop(job: Job) -> Any:
    if job.payload in IN_TASKS:
        return await IN_TASKS[job.payload][0]()
    return end(job)


@tf.task(queue="hostile")
async def refuse_threads(job: Job) -> None:
    threading.stack_size(_TOO_MUCH if job.payload else 0)


async def _beside() -> None:
    """An application that has more to do than to run a worker."""
    work = asyncio.create_task(asyncio.sleep(3600))
    running = asyncio.create_task(tf.run(queues=sys.argv[1], concurrency=2))
    await asyncio.wait([work, running], return_when=asyncio.FIRST_COMPLETED)
    print("work goes on" if not work.done() else f"work ended: {work}", flush=True)
    await running


if __name__ == "__main__":
    if "async" in sys.argv:
        asyncio.run(_beside())
    else:
        tf.run(queues=sys.argv[1], concurrency=2)
