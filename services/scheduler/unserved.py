"""Warnings that no worker or executor can run the jobs: just stored ones, or those of a schedule or workflow."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core.lanes import LaneKey
from taskflow_server.core.names import namespace_of, qualify
from taskflow_server.rpc.defaults import DEFAULT_QUEUE
from taskflow_server.scheduler.serving import Lane, Serving
from taskflow_server.store import jobs as store
from taskflow_server.store.database import Database
from taskflow_server.store.jobs import Result

MOST_WARNINGS = 20  # of one workflow
SHOWN_STEPS = 3  # that a warning names

Row = dict[str, Any]


def add_warnings(
    answer: pb.CreateJobsResponse,
    specs: Sequence[pb.JobSpec],
    results: Sequence[Result],
    warnings: Mapping[Lane, pb.Warning],
    stored_in: Collection[LaneKey],
) -> None:
    """Adds warnings for the stored jobs whose lanes no worker or executor serves.

    Refused jobs get none, nor do jobs stored earlier under the same key: a repeated call has the same answer.
    """
    stored = [
        index
        for index, made in enumerate(results)
        if isinstance(made, store.Stored) and (made.tx or made.id == specs[index].id)
    ]
    places: dict[Lane, list[int]] = defaultdict(list)
    if len(stored_in) == 1:  # thousands of jobs of one lane: no need to check each
        (key,) = stored_in
        places[key.queue, key.task] = stored
    else:
        for index in stored:
            spec = specs[index]
            lane = qualify(spec.queue, field=""), qualify(spec.task, field="") if spec.task else ""
            places[lane].append(index)
    for lane, indexes in places.items():
        if lane in warnings and indexes:
            answer.warnings.add(indexes=indexes, warning=warnings[lane])


class Makers:
    """Warnings for the sources of later jobs: schedules, and the steps of workflows."""

    def __init__(self, db: Database, serving: Serving) -> None:
        self._db = db
        self._serving = serving

    async def of_task(self, name: str) -> list[pb.Warning]:
        """The warnings for jobs that a schedule creates of this task (stored name)."""
        (row,) = await self._db.rows("tasks_of_jobs", names=[name])
        return list((await self._serving.warnings([_lane(None, row)])).values())

    async def of_latest(self, workflow: str) -> list[pb.Warning]:
        """The warnings for the latest version of a workflow, which its schedules start; empty if it does not exist."""
        rows = await self._db.rows("get_workflow", name=workflow, version=0)
        return await self.of_document(workflow, rows[0]["document"]) if rows else []

    async def of_document(self, workflow: str, document: str) -> list[pb.Warning]:
        """The warnings for the steps of a valid document; each names its steps."""
        # Imported late: see taskflow_server.core.workflow.
        from taskflow_server.core.workflow import wanted

        space = namespace_of(workflow)
        found = await asyncio.to_thread(wanted, document)  # the document may have 1 MiB
        steps = {(_full(queue, space), _full(task, space)): names for (queue, task), names in found.items()}
        tasks = sorted({task for _, task in steps if task})
        rows = await self._db.rows("tasks_of_jobs", names=tasks) if tasks else []
        known = {row["name"]: row for row in rows}
        lanes: defaultdict[Lane, list[str]] = defaultdict(list)
        for (queue, task), names in steps.items():
            lanes[_lane(queue, known.get(task, Row()))].extend(names)
        warnings = await self._serving.warnings(lanes)
        return [_of_steps(lanes[lane], warnings[lane]) for lane in lanes if lane in warnings][:MOST_WARNINGS]


def _full(name: str | None, space: str) -> str:
    return qualify(name, field="", namespace=space) if name else ""


def _lane(queue: str | None, row: Row) -> Lane:
    """The lane of the jobs: the queue of their source, else of the task, else of the workers that have its handler."""
    return queue or row.get("queue") or row.get("own_queue") or DEFAULT_QUEUE, row.get("target", "")


def _of_steps(names: Iterable[str], warning: pb.Warning) -> pb.Warning:
    names = list(dict.fromkeys(filter(None, names)))
    if not names:  # decisions
        return warning
    shown = ", ".join(map(repr, names[:SHOWN_STEPS]))
    more = f" and {len(names) - SHOWN_STEPS} more" if len(names) > SHOWN_STEPS else ""
    word = "step" if len(names) == 1 else "steps"
    return pb.Warning(reason=warning.reason, message=f"{word} {shown}{more}: {warning.message}")
