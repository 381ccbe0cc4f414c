"""Tasks that an app declares with a schedule: made on the cluster, or brought up to date, when its worker starts.

Any number of workers may do it at once: what is there as declared is left alone, so that its schedule counts on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from taskflow._clock import SYSTEM
from taskflow._core import Core
from taskflow._options import JobOptions
from taskflow._task_values import TaskOptions, _message
from taskflow._tasks import Handler
from taskflow.errors import AlreadyExists, InvalidArgument, TaskFlowError
from taskflow.v1 import jobs_pb2
from taskflow.v1 import tasks_pb2 as pb

log = logging.getLogger("taskflow")

_FIELDS = ("target", "queue", "priority", "retries", "schedule", "time_zone")
_JOB_FIELDS = ("timeout", "heartbeat_timeout", "backoff")  # of its options
_NORMAL_PRIORITY = 5
_FIRST_PAUSE = 0.5  # seconds between tries
_LONGEST_PAUSE = 30.0


def declaration(handler: Handler, queue: str, options: JobOptions, schedule: str, time_zone: str) -> pb.Task:
    """The named task that is wanted. InvalidArgument when the handler cannot run without a payload."""
    try:
        handler.binding.payload((), {})
    except InvalidArgument as error:
        said = f"schedule: what a schedule runs has no payload, and {error.message}; give it a default"
        raise InvalidArgument(said, field="schedule") from None
    given: TaskOptions = {
        "target": handler.name,
        "queue": queue,
        "priority": _NORMAL_PRIORITY if options.priority is None else options.priority,
        "retries": options.retries or 0,
        "schedule": schedule,
        "time_zone": time_zone,
    }
    given |= {name: getattr(options, name) for name in _JOB_FIELDS}  # type: ignore[typeddict-item]
    message, _ = _message(given)
    message.name = handler.name
    return message


async def declare(core: Core, tasks: Iterable[pb.Task]) -> None:
    """On the I/O loop. Goes on until all are there; InvalidArgument for what the cluster refuses, as a wrong cron."""
    for task in tasks:
        pause = _FIRST_PAUSE
        while True:
            try:
                await _make_or_update(core, task)
                break
            except InvalidArgument:
                raise
            except TaskFlowError as error:
                log.warning("task %s is not declared yet, again in %g s: %s", task.name, pause, error)
            await SYSTEM.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _make_or_update(core: Core, wanted: pb.Task) -> None:
    t = core.transport
    try:
        await t.call(t.tasks.CreateTask, pb.CreateTaskRequest(task=wanted))
    except AlreadyExists:
        there = await t.call(t.tasks.GetTask, pb.GetTaskRequest(task=wanted.name))
        changed = [name for name in _FIELDS if getattr(there, name) != getattr(wanted, name)]
        changed += [f"options.{name}" for name in _JOB_FIELDS if _differ(there.options, wanted.options, name)]
        if changed:
            request = pb.UpdateTaskRequest(task=wanted.name, changes=wanted)
            request.update_mask.paths.extend(changed)
            await t.call(t.tasks.UpdateTask, request)


def _differ(there: jobs_pb2.JobOptions, wanted: jobs_pb2.JobOptions, name: str) -> bool:
    given = [options.HasField(name) for options in (there, wanted)]  # type: ignore[arg-type]
    return given[0] != given[1] or getattr(there, name) != getattr(wanted, name)
