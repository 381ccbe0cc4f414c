"""Queues: what waits, what runs, who serves them; pause, drain and resume."""

from __future__ import annotations

import asyncio
from typing import Any

from taskflow.v1 import jobs_pb2, queues_pb2
from taskflow_server.gateway.console.page import PAGE_SIZE, Action, Ask, Page, full, link, pager

RECENT = 20  # jobs shown on a queue's page
COUNTED_AT_ONCE, MOST_COUNTED = 1_000, 5_000  # queues that the tiles of the start page sum
BAD_ENDS = (jobs_pb2.OUTCOME_FAILED, jobs_pb2.OUTCOME_TIMED_OUT, jobs_pb2.OUTCOME_LOST)


async def _list(ask: Ask) -> dict[str, Any]:
    request = queues_pb2.ListQueuesRequest(page_size=PAGE_SIZE, page_token=ask.said("token"))
    found = await ask.up.call(ask.up.queues.ListQueues, request)
    rows = [_row(queue) for queue in found.queues]
    pages = pager(ask, found.next_page_token)
    totals = await _totals_of_all(ask) if pages else _totals(rows)
    return {"title": "Queues", "rows": rows, "pages": pages, "totals": totals}


async def _totals_of_all(ask: Ask) -> dict[str, Any]:
    """Totals of all queues, not only of those that the page shows."""
    rows: list[dict[str, Any]] = []
    token = ""
    while len(rows) < MOST_COUNTED:
        request = queues_pb2.ListQueuesRequest(page_size=COUNTED_AT_ONCE, page_token=token)
        found = await ask.up.call(ask.up.queues.ListQueues, request)
        rows += map(_row, found.queues)
        token = found.next_page_token
        if not token:
            break
    return _totals(rows, more=bool(token))


def _totals(rows: list[dict[str, Any]], *, more: bool = False) -> dict[str, Any]:
    """`more`: there are further queues, which are not counted."""
    queues = [row["queue"] for row in rows]
    return {
        "more": more,
        "queues": len(rows),
        "capped": any(queue.ready_capped for queue in queues),
        "estimated": any(queue.ready_estimated for queue in queues),
        **{name: sum(getattr(queue, name) for queue in queues) for name in ("ready", "running", "scheduled")},
        **{name: sum(row[name] for row in rows) for name in ("well", "badly")},
    }


async def _show(ask: Ask) -> dict[str, Any]:
    name = ask.params["name"]
    queue, jobs = await asyncio.gather(
        ask.up.call(ask.up.queues.GetQueue, queues_pb2.GetQueueRequest(name=name)),
        ask.up.call(ask.up.jobs.ListJobs, jobs_pb2.ListJobsRequest(queue=name, page_size=RECENT)),
    )
    return {"title": f"Queue {name}", "row": _row(queue), "jobs": jobs.jobs}


def _row(queue: queues_pb2.Queue) -> dict[str, Any]:
    """A queue with its full name, and how its jobs ended in the last hour."""
    ends = {count.outcome: count.count for count in queue.finished}
    return {
        "queue": queue,
        "name": full(queue.namespace, queue.name),
        "well": ends.get(jobs_pb2.OUTCOME_SUCCEEDED, 0),
        "badly": sum(ends.get(outcome, 0) for outcome in BAD_ENDS),
    }


async def _pause(ask: Ask) -> str:
    await ask.up.call(ask.up.queues.PauseQueue, queues_pb2.PauseQueueRequest(name=ask.params["name"]))
    return link("queues", ask.params["name"])


async def _drain(ask: Ask) -> str:
    await ask.up.call(ask.up.queues.DrainQueue, queues_pb2.DrainQueueRequest(name=ask.params["name"]))
    return link("queues", ask.params["name"])


async def _resume(ask: Ask) -> str:
    await ask.up.call(ask.up.queues.ResumeQueue, queues_pb2.ResumeQueueRequest(name=ask.params["name"]))
    return link("queues", ask.params["name"])


PAGES = (
    Page("/queues", "queues.html", "queues", _list),
    Page("/queues/{name:path}", "queue.html", "queues", _show),
)
ACTIONS = (
    Action("/queues/{name:path}/pause", "paused", _pause),
    Action("/queues/{name:path}/drain", "drained", _drain),
    Action("/queues/{name:path}/resume", "resumed", _resume),
)
