"""How `taskflow.testing` gets into an app and out of it, and where it runs."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from taskflow import errors
from taskflow._client import AsyncTaskFlow, TaskFlow
from taskflow._resources._async.jobs_queues_workers import AsyncJobs, AsyncQueues, AsyncWorkers
from taskflow._resources._sync.jobs_queues_workers import Jobs, Queues, Workers
from taskflow.testing._core import MemoryCore
from taskflow.v1 import jobs_pb2, worker_pb2

_MAX_RETRIES = 1_000

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


def check(spec: jobs_pb2.JobSpec, field: str) -> None:
    """Limits that a scheduler applies by its default settings, and the SDK does not check."""
    if spec.retries > _MAX_RETRIES:
        raise errors.InvalidArgument(
            f"{field}.retries: {spec.retries} is not between 0 and {_MAX_RETRIES}", field=f"{field}.retries"
        )


def fill(spec: jobs_pb2.JobSpec, said: worker_pb2.TaskDefaults | None) -> None:
    """Adds what a job leaves to its task, as a scheduler does."""
    if said is not None:
        spec.queue = spec.queue or said.queue
        for name in ("retries", "priority"):
            if said.HasField(name) and not spec.HasField(name):
                setattr(spec, name, getattr(said, name))
        for name in ("timeout", "heartbeat_timeout", "backoff", "sla"):
            if said.options.HasField(name) and not spec.options.HasField(name):  # type: ignore[arg-type]
                getattr(spec.options, name).CopyFrom(getattr(said.options, name))
    spec.queue = spec.queue or "default"


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
