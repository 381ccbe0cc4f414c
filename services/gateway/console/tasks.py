"""Named tasks with their last and next runs, their schedules, and what their runs gave."""

from __future__ import annotations

import asyncio
from typing import Any

from taskflow.v1 import cluster_pb2, jobs_pb2, schedules_pb2, tasks_pb2
from taskflow_server.gateway.console.page import PAGE_SIZE, Action, Ask, Page, full, link, pager
from taskflow_server.gateway.errors import Failure

NOT_NAMED = "A handler of an app: there is no named task of this name, so it has no settings of its own here."
MOST_WORKERS = 1_000  # looked through for those that have a handler
RECENT = 20  # of runs, and of schedules, on a task's page


async def _list(ask: Ask) -> dict[str, Any]:
    request = tasks_pb2.ListTasksRequest(page_size=PAGE_SIZE, page_token=ask.said("token"))
    found = await ask.up.call(ask.up.tasks.ListTasks, request)
    rows = [{"task": task, "name": full(task.namespace, task.name)} for task in found.tasks]
    return {"title": "Tasks", "rows": rows, "pages": pager(ask, found.next_page_token)}


async def _show(ask: Ask) -> dict[str, Any]:
    name = ask.params["name"]
    try:
        task = await ask.up.call(ask.up.tasks.GetTask, tasks_pb2.GetTaskRequest(task=name))
    except Failure as failure:
        if failure.status != 404 or not (known := await _handler(ask, name)):
            raise
        return known
    shown = full(task.namespace, task.name)
    schedules, logs, jobs = await asyncio.gather(
        ask.up.call(ask.up.schedules.ListSchedules, schedules_pb2.ListSchedulesRequest(task=shown, page_size=RECENT)),
        ask.up.call(ask.up.tasks.ListTaskLogs, tasks_pb2.ListTaskLogsRequest(task=shown, limit=RECENT)),
        ask.up.call(ask.up.jobs.ListJobs, jobs_pb2.ListJobsRequest(task=task.target, page_size=RECENT)),
    )
    return {
        "title": f"Task {shown}", "task": task, "name": shown, "schedules": schedules.schedules, "logs": logs,
        "jobs": jobs.jobs,
    }  # fmt: skip


async def _handler(ask: Ask, name: str) -> dict[str, Any]:
    """A handler without a named task, as schedules and jobs name it; nothing if it is unknown."""
    schedules, jobs, live = await asyncio.gather(
        ask.up.call(ask.up.schedules.ListSchedules, schedules_pb2.ListSchedulesRequest(task=name, page_size=RECENT)),
        ask.up.call(ask.up.jobs.ListJobs, jobs_pb2.ListJobsRequest(task=name, page_size=RECENT)),
        ask.up.call(ask.up.cluster.ListWorkers, cluster_pb2.ListWorkersRequest(page_size=MOST_WORKERS)),
    )
    workers = [worker.name or worker.id for worker in live.workers if name in worker.tasks][:RECENT]
    if not (schedules.schedules or jobs.jobs or workers):
        return {}
    return {
        "template": "handler.html", "title": f"Handler {name}", "kind": "Handler", "name": name, "note": NOT_NAMED,
        "schedules": schedules.schedules, "jobs": jobs.jobs, "runs": [], "workers": workers,
    }  # fmt: skip


async def _run(ask: Ask) -> str:
    job = await ask.up.call(ask.up.tasks.RunTask, tasks_pb2.RunTaskRequest(task=ask.params["name"]))
    return link("jobs", job.id)


PAGES = (
    Page("/tasks", "tasks.html", "tasks", _list),
    Page("/tasks/{name:path}", "task.html", "tasks", _show),
)
ACTIONS = (Action("/tasks/{name:path}/run", "fired", _run),)
