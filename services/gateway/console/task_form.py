"""A named task's form: a new one, or the fields of one that is there. Only fields that were changed are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow.v1 import jobs_pb2, tasks_pb2
from taskflow_server.gateway.console import formatting
from taskflow_server.gateway.console.jobs import instant_of
from taskflow_server.gateway.console.page import Action, Ask, Page, bad, full, link
from taskflow_server.rpc.values import MAX_SECONDS, duration

MOST_PAYLOAD = 16_384  # bytes of a payload that is edited here
WAS = "was_"  # before the name of a field: its value when the form was loaded
TEXTS = ("name", "title", "description", "target", "queue", "schedule", "time_zone")
NUMBERS = {"priority": 9, "retries": 1_000_000, "concurrency": 1_000_000}  # the largest
INSTANTS = {"start": "start_time", "end": "end_time"}
SPANS = ("sla", "timeout")  # seconds, of the jobs' options
BACKOFF = ("backoff_first", "backoff_factor", "backoff_limit")
FIELDS = (*TEXTS, "active", *NUMBERS, *INSTANTS, *SPANS, *BACKOFF, "payload")
RANKS = {str(n): formatting.priority(n) for n in range(9, -1, -1)}


async def _load(ask: Ask) -> dict[str, Any]:
    """A form that was refused comes back as it was filled in."""
    name = ask.params.get("name", "")
    if ask.form:
        shown = {field: ask.form.get(field, "") for field in FIELDS}
        was = {field: ask.form.get(WAS + field, "") for field in FIELDS}
        editable = "payload" in ask.form
    elif name:
        task = await ask.up.call(ask.up.tasks.GetTask, tasks_pb2.GetTaskRequest(task=name))
        shown, editable = _shown(task), _is_editable(task)
        was = shown
    else:
        shown, editable = dict.fromkeys(FIELDS, "") | {"active": "on"}, True
        was = dict.fromkeys(FIELDS, "")
    title = f"Task {name}" if name else "New task"
    return {
        "title": title, "name": name, "shown": shown, "was": was, "editable": editable, "ranks": RANKS, "live": False,
        "problem": "",
    }  # fmt: skip


def _is_editable(task: tasks_pb2.Task) -> bool:
    """Whether its payload is JSON of a size for a form."""
    return task.encoding in (0, jobs_pb2.ENCODING_JSON) and len(task.payload) <= MOST_PAYLOAD


def _shown(task: tasks_pb2.Task) -> dict[str, str]:
    """A task as the form's fields say it; empty for what it does not have."""
    found = {field: str(getattr(task, field)) for field in (*TEXTS, *NUMBERS)} | {"active": "on" if task.active else ""}
    for field, name in INSTANTS.items():
        instant = formatting.moment(getattr(task, name))
        found[field] = instant.replace(tzinfo=None).isoformat(timespec="seconds") if instant else ""
    for field in SPANS:
        has = task.options.HasField(field)  # type: ignore[arg-type]
        found[field] = f"{formatting.seconds_of(getattr(task.options, field)):g}" if has else ""
    backoff = task.options.backoff
    found |= {
        "backoff_first": f"{formatting.seconds_of(backoff.first):g}" if backoff.HasField("first") else "",
        "backoff_factor": f"{backoff.factor:g}" if backoff.factor else "",
        "backoff_limit": f"{formatting.seconds_of(backoff.limit):g}" if backoff.HasField("limit") else "",
    }
    found["payload"] = task.payload.decode(errors="replace") if task.payload and _is_editable(task) else ""
    return found


def _task(form: Mapping[str, str]) -> tasks_pb2.Task:
    """The task of a form, checked as far as a message cannot hold it otherwise."""
    said = {field: form.get(field, "").strip() for field in FIELDS}
    task = tasks_pb2.Task(active=bool(said["active"]))
    for field in TEXTS:
        setattr(task, field, said[field])
    for field, most in NUMBERS.items():
        if said[field]:
            setattr(task, field, int(_number(said[field], field, most, whole=True)))
    for field, name in INSTANTS.items():
        instant: Timestamp | None = instant_of(said[field], field)
        if instant is not None:
            getattr(task, name).CopyFrom(instant)
    for field in SPANS:
        if said[field]:
            getattr(task.options, field).CopyFrom(duration(_number(said[field], field, MAX_SECONDS)))
    for field in ("backoff_first", "backoff_limit"):
        if said[field]:
            part = getattr(task.options.backoff, field.removeprefix("backoff_"))
            part.CopyFrom(duration(_number(said[field], field, MAX_SECONDS)))
    if said["backoff_factor"]:
        task.options.backoff.factor = _number(said["backoff_factor"], "backoff_factor", 1000)
    if said["payload"]:
        _check_json(said["payload"])
        task.payload, task.encoding = said["payload"].encode(), jobs_pb2.ENCODING_JSON
    return task


def _number(text: str, field: str, most: float, *, whole: bool = False) -> float:
    try:
        value = float(int(text)) if whole else float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise bad(field, f"{text[:40]!r} is not a {'whole ' if whole else ''}number from 0 to {most:,.0f}")
    return value


def _check_json(text: str) -> None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad("payload", f"it is not JSON: {error}") from None


def _paths(form: Mapping[str, str]) -> list[str]:
    """The fields of the task that the form has changed."""
    changed = [field for field in FIELDS if field in form or field == "active"]
    changed = [field for field in changed if form.get(field, "").strip() != form.get(WAS + field, "").strip()]
    paths = {
        "options.backoff" if field in BACKOFF else f"options.{field}" if field in SPANS else INSTANTS.get(field, field)
        for field in changed
    }
    return sorted(paths)


async def _create(ask: Ask) -> str:
    task = _task(ask.form)
    request = tasks_pb2.CreateTaskRequest(task=task, inactive=not task.active)
    made = (await ask.up.call(ask.up.tasks.CreateTask, request)).task
    return link("tasks", full(made.namespace, made.name))


async def _update(ask: Ask) -> str:
    name, paths = ask.params["name"], _paths(ask.form)
    if not paths:
        return link("tasks", name)
    request = tasks_pb2.UpdateTaskRequest(task=name, changes=_task(ask.form))
    request.update_mask.paths.extend(paths)
    changed = await ask.up.call(ask.up.tasks.UpdateTask, request)
    return link("tasks", full(changed.namespace, changed.name))


_NEW = Page("/edit/tasks", "task_form.html", "tasks", _load)
_EDIT = Page("/edit/tasks/{name:path}", "task_form.html", "tasks", _load)
PAGES = (_NEW, _EDIT)
ACTIONS = (
    Action("/edit/tasks", "saved", _create, again=_NEW),
    Action("/edit/tasks/{name:path}", "saved", _update, again=_EDIT),
)
