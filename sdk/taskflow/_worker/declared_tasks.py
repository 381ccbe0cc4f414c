"""Named tasks that an app declares in its code: made on the cluster, or brought up to date, when its worker starts.

Any number of workers may do it at once: what is there as declared is left alone, so that its schedule counts on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, TypedDict

from taskflow._handlers.task import Handler
from taskflow._jobs.core import Core
from taskflow._messages import checks
from taskflow._messages.options import JobOptions
from taskflow._messages.tasks import TaskOptions, _message
from taskflow._transport.clock import SYSTEM
from taskflow.errors import AlreadyExists, InvalidArgument, TaskFlowError
from taskflow.v1 import tasks_pb2 as pb

log = logging.getLogger("taskflow")

_JOB_FIELDS = ("timeout", "heartbeat_timeout", "backoff", "sla")  # of its options
_OF_SCHEDULE = ("time_zone", "start", "end")
_NORMAL_PRIORITY = 5
_FIRST_PAUSE = 0.5  # seconds between tries
_LONGEST_PAUSE = 30.0


class DeclaredOptions(TypedDict, total=False):
    """Fields that make a decorated function a named task of the cluster as well."""

    schedule: str | None
    """A cron expression: its own schedule."""
    time_zone: str | None
    """The zone of the schedule; UTC without one."""
    start: datetime | None
    """No firing before this; without a zone it is UTC."""
    end: datetime | None
    """No firing after this."""
    title: str | None
    """Left out, it stays as it is on the cluster; so do the following."""
    description: str | None
    active: bool | None
    """False stops its schedule; it can still be run."""
    payload: Any
    """The payload of its jobs that bring none."""
    concurrency: int | None
    """How many of its jobs may run at once in the cluster; 0: no limit."""


def declaration(
    handler: Handler, queue: str, options: JobOptions, declared: DeclaredOptions
) -> pb.UpdateTaskRequest | None:
    """The named task that is wanted, and the fields of it that the code says; None where it declares none.

    InvalidArgument when the handler cannot run with the payload that its schedule's jobs have.
    """
    checks.options(declared, DeclaredOptions.__annotations__, "a declared task")
    said: dict[str, Any] = {name: value for name, value in declared.items() if value is not None}
    if said.get("schedule") == "":
        del said["schedule"]
    for name in _OF_SCHEDULE:
        if name in said and "schedule" not in said:
            raise InvalidArgument(f"{name}: it is the schedule's; give a schedule, too", field=name)
    if not said:
        return None
    if "schedule" in said:
        _check_payload(handler, said)
        said = {"time_zone": "UTC", "start": None, "end": None} | said
    given: TaskOptions = {
        "target": handler.name,
        "queue": queue,
        "priority": _NORMAL_PRIORITY if options.priority is None else options.priority,
        "retries": options.retries or 0,
    }
    given |= {name: getattr(options, name) for name in _JOB_FIELDS}  # type: ignore[typeddict-item]
    message, paths = _message(given | said)  # type: ignore[arg-type]
    message.name = handler.name
    request = pb.UpdateTaskRequest(task=handler.name, changes=message)
    request.update_mask.paths.extend(paths)
    return request


def _check_payload(handler: Handler, said: Mapping[str, Any]) -> None:
    """Any other payload than a mapping is not checked: the handler takes the job."""
    payload = said.get("payload", {})
    if not isinstance(payload, Mapping):
        return
    try:
        handler.binding.payload((), payload)
    except InvalidArgument as error:
        if "payload" in said:
            raise InvalidArgument(f"payload: {error.message}", field="payload") from None
        raise InvalidArgument(
            f"schedule: what a schedule runs has no payload, and {error.message}; give it a default, or a payload=",
            field="schedule",
        ) from None


async def declare(core: Core, tasks: Iterable[pb.UpdateTaskRequest]) -> None:
    """On the I/O loop. Goes on until all are there; InvalidArgument for what the cluster refuses, as a wrong cron."""
    for wanted in tasks:
        pause = _FIRST_PAUSE
        while True:
            try:
                await _make_or_update(core, wanted)
                break
            except InvalidArgument:
                raise
            except TaskFlowError as error:
                log.warning("task %s is not declared yet, again in %g s: %s", wanted.task, pause, error)
            await SYSTEM.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


async def _make_or_update(core: Core, wanted: pb.UpdateTaskRequest) -> None:
    t, paths = core.transport, list(wanted.update_mask.paths)
    try:
        inactive = "active" in paths and not wanted.changes.active
        await t.call(t.tasks.CreateTask, pb.CreateTaskRequest(task=wanted.changes, inactive=inactive))
    except AlreadyExists:
        there = await t.call(t.tasks.GetTask, pb.GetTaskRequest(task=wanted.task))
        changed = [path for path in paths if _value(there, path) != _value(wanted.changes, path)]
        if changed:
            request = pb.UpdateTaskRequest(task=wanted.task, changes=wanted.changes)
            request.update_mask.paths.extend(changed)
            await t.call(t.tasks.UpdateTask, request)


def _value(task: pb.Task, path: str) -> Any:
    """The value of a task's field; None for a message that it does not have."""
    if path == "payload":
        return task.payload, task.encoding
    owner, _, name = path.rpartition(".")
    message: Any = task.options if owner else task
    if message.DESCRIPTOR.fields_by_name[name].has_presence and not message.HasField(name):
        return None
    return getattr(message, name)
