"""How `taskflow.testing` gets into an app and out of it, and where it runs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from taskflow import errors
from taskflow._client.async_client import AsyncTaskFlow
from taskflow._client.client import TaskFlow
from taskflow._resources._async.jobs_queues_workers import AsyncJobs, AsyncQueues, AsyncWorkers
from taskflow._resources._sync.jobs_queues_workers import Jobs, Queues, Workers
from taskflow.testing._core import MemoryCore

REPLACED = ("_core", "jobs", "queues", "workers", "run")


def install(app: TaskFlow | AsyncTaskFlow, core: MemoryCore) -> dict[str, Any]:
    """Puts the app on `core`. Returns the attributes that it replaced."""
    kept = {name: value for name, value in vars(app).items() if name in REPLACED}
    if isinstance(kept.get("_core"), MemoryCore):
        raise errors.FailedPrecondition("this app is in a cluster of taskflow.testing already", reason="IN_MEMORY")
    replaced: dict[str, Any] = {"_core": core, "run": _run}
    if isinstance(app, TaskFlow):
        replaced |= {"jobs": Jobs(core), "queues": Queues(core), "workers": Workers(core)}
    else:
        replaced |= {"jobs": AsyncJobs(core), "queues": AsyncQueues(core), "workers": AsyncWorkers(core)}
    vars(app).update(replaced)
    return kept


def _run(*args: object, **options: object) -> None:
    raise errors.FailedPrecondition(
        "run: in taskflow.testing jobs are run by run_until_idle() and advance(); handle(queue, handler) gives a whole"
        " queue its handler",
        reason="IN_MEMORY",
    )


def off_loop(work: Callable[[], None]) -> None:
    """Calls it here, or, where an event loop runs, in a thread that ends with it: a thread runs one loop at a time."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        work()
        return
    context, failed = contextvars.copy_context(), []

    def call() -> None:
        try:
            context.run(work)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=call, name="taskflow-testing")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
