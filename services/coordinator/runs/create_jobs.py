"""Creates the jobs of steps, and child runs. One that cannot be created is reported to its run as a failed job."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from taskflow._policy import PRIORITY_OF_RUN, RUN_OF_JOB, STEP_OF_JOB, Outcome
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.dispatch_pb2 import LaneJobs
from taskflow_server.coordinator.lanes.pager import LanePager
from taskflow_server.coordinator.runs.apply import Worked, array
from taskflow_server.coordinator.runs.inputs import Heard
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.lanes import LaneKey
from taskflow_server.core.names import namespace_of, qualify
from taskflow_server.core.workflow import CreateJob, Definition, JobFinished, StartRun, decision_task
from taskflow_server.core.workflow.changes import decided_document
from taskflow_server.rpc.defaults import NOTHING, defaults_of
from taskflow_server.rpc.first_seen import first_seen
from taskflow_server.rpc.task_jobs import job_of
from taskflow_server.rpc.values import duration, options_to_json
from taskflow_server.runtime import logs, metrics
from taskflow_server.store import tasks as store_tasks
from taskflow_server.store import workflows
from taskflow_server.store.jobs import NewJob
from taskflow_server.store.lanes import KnownLanes
from taskflow_server.store.runs import RunChanges, RunJobRow, new_run
from taskflow_server.store.tags import words

log = logs.get("runs")

MAX_DEPTH = 20  # of nested child runs
OFFER_BYTES = 1 << 20  # of jobs offered as one group
_PRIORITY = 5

Offer = tuple[NewJob, pb.JobSpec]
Row = dict[str, Any]


class RunJobs:
    def __init__(self, shared: Shared, pager: LanePager) -> None:
        self._shared = shared
        self._pager = pager
        self._lanes = KnownLanes(shared.db)
        self._label = metrics.QueueLabels(shared.settings.metrics_queues)

    async def make(self, worked: Sequence[Worked], changes: RunChanges) -> list[Offer]:
        """Adds the rows of jobs and child runs to `changes`; returns the offers to make once they are written."""
        wanted = [(run.heard, change) for run in worked for change in run.changes if isinstance(change, CreateJob)]
        tasks = await self._tasks({full for run, change in wanted if (full := _full(run, change.task))})
        decided = {_full(run, change.task) for run, change in wanted if _decided(run) and change.workflow is None}
        if unknown := {name for name in decided & tasks.keys() if tasks[name]["task_id"] is None}:
            for name in sorted(unknown):
                await self._register_task(name, tasks[name])
            tasks |= await self._tasks(unknown)
        offers = [made for run, change in wanted if (made := self._job(run, change, tasks, changes)) is not None]
        await self._lanes.learn({LaneKey(job.queue, job.task, job.priority) for job, _ in offers})
        changes.jobs += [job for job, _ in offers]
        await self._children(worked, changes)
        return offers

    async def _tasks(self, names: set[str]) -> dict[str, Row]:
        rows = await self._shared.db.rows("tasks_of_jobs", names=sorted(names)) if names else []
        return {row["name"]: row for row in rows}

    def _job(self, run: Heard, change: CreateJob, tasks: dict[str, Row], changes: RunChanges) -> Offer | None:
        try:
            spec = self._spec(run, change, tasks)
            options = options_to_json(spec.options.SerializeToString(deterministic=True), "options")
        except InvalidArgument as fault:
            _unmade(run, change, str(fault), changes)
            return None
        except Exception as fault:  # the row of its task cannot be read: only this step fails
            log.error("the job of a step cannot be created", run=str(run.id), step=change.step, exc_info=fault)
            _unmade(run, change, f"its task's row cannot be read ({type(fault).__name__}: {fault})"[:300], changes)
            return None
        found_by = tuple(words(spec.options.tags, spec.options.metadata))
        encoding = spec.encoding or pb.ENCODING_JSON
        payload = spec.payload or (None if encoding == pb.ENCODING_JSON else b"")
        job = NewJob(
            spec.id, spec.priority, encoding, spec.retries, False, spec.queue, spec.task, payload, None, None, options,
            shard=0, words=found_by,
        )  # fmt: skip
        changes.run_jobs.append(_row(run, change, job_id=UUID(bytes=spec.id), after=change.after))
        return job, spec

    def _spec(self, run: Heard, change: CreateJob, tasks: dict[str, Row]) -> pb.JobSpec:
        """The job's options: those of the step, else of its task, else of the workers that have its handler."""
        space = namespace_of(run.workflow)
        row = None
        if change.task and change.workflow is None:
            row = tasks.get(qualify(change.task, field="task", namespace=space))
        payload = json.dumps(change.payload, ensure_ascii=False, separators=(",", ":")).encode()
        if row is not None:
            spec = job_of(row, None if change.payload is None else (payload, pb.ENCODING_JSON))
        else:
            task = decision_task(change.workflow) if change.workflow is not None else ""
            spec = pb.JobSpec(task=task, payload=payload, encoding=pb.ENCODING_JSON)
        spec.id = self._shared.clock.new_id()
        if change.queue:
            spec.queue = qualify(change.queue, field="queue", namespace=space)
        _set_own(spec, run, change)
        (NOTHING if row is None else defaults_of(row)).fill(spec)
        spec.priority = spec.priority if spec.HasField("priority") else _PRIORITY
        spec.options.metadata.update(run.metadata)
        spec.options.metadata.update({RUN_OF_JOB: str(run.id), STEP_OF_JOB: change.step})
        return spec

    async def _children(self, worked: Sequence[Worked], changes: RunChanges) -> None:
        wanted = [(run.heard, change) for run in worked for change in run.changes if isinstance(change, StartRun)]
        names = {full for run, change in wanted if (full := _full(run, change.workflow))}
        rows = await self._shared.db.rows("latest_versions", names=sorted(names)) if names else []
        versions = {row["name"]: row["version"] for row in rows}
        unknown = {_full(run, change.workflow) for run, change in wanted if _decided(run)}
        if unknown := unknown - versions.keys() - {""}:
            for name in sorted(unknown):
                await self._register_workflow(name)
            rows = await self._shared.db.rows("latest_versions", names=sorted(unknown))
            versions |= {row["name"]: row["version"] for row in rows}
        children = []
        for run, change in wanted:
            name = _full(run, change.workflow)
            if name not in versions or run.depth >= MAX_DEPTH:
                deep = f"nested runs exceed the limit of {MAX_DEPTH} levels"
                why = f"there is no workflow {change.workflow!r}" if name not in versions else deep
                _unmade(run, change, why, changes)
                continue
            child = new_run(
                self._shared.clock.new_id(), name, versions[name], json.dumps(change.input), run.metadata,
                trigger="workflow", label=change.label, parent_id=run.id, parent_step=change.step,
                parent_iteration=change.iteration, depth=run.depth + 1,
            )  # fmt: skip
            children.append(child)
            changes.run_jobs.append(_row(run, change, child_id=child.id))
        changes.begin(children)

    async def _register_task(self, name: str, row: Row) -> None:
        task = first_seen(name, defaults_of(row))
        options = options_to_json(task.options.SerializeToString(deterministic=True), "options")
        made = {
            "id": UUID(bytes=self._shared.clock.new_id()), "name": name, "title": "", "description": "", "active": True,
            "target": name, "queue": None, "priority": None,
            "retries": task.retries if task.HasField("retries") else None,
            "options": options.decode() if options else None, "payload": None, "encoding": None,
            "concurrency": 0,
        }  # fmt: skip
        # No quota: the run continues, and this row only shows its names to people.
        await store_tasks.create(self._shared.db, made, None, within_quota=False)

    async def _register_workflow(self, name: str) -> None:
        """Stores a workflow without a document, as its first create-and-execute or poll would: its executor decides."""
        document = decided_document(name)
        await workflows.put(self._shared.db, name, document, Definition.parse(document).digest, None)

    def offer(self, offers: Sequence[Offer], tx: int) -> None:
        """Offers jobs that are on disk to the pager, for owned lanes; other owners find theirs by their sweep."""
        lanes: defaultdict[tuple[str, str, int], list[pb.JobSpec]] = defaultdict(list)
        for job, spec in offers:
            lanes[job.queue, job.task, job.priority].append(spec)
            metrics.jobs_created.labels(self._label(job.queue)).inc()
        for (queue, task, priority), specs in lanes.items():
            shard = self._lanes.shard(queue)
            self._pager.offer(LaneJobs(queue=queue, task=task, priority=priority, tx=tx, shard=shard, jobs=specs))


def _set_own(spec: pb.JobSpec, run: Heard, change: CreateJob) -> None:
    """Sets the options of the step, and the priority of the run, in place of those of the task."""
    if change.retries is not None:
        spec.retries = change.retries
    if change.priority is not None:
        spec.priority = change.priority
    elif (of_run := run.metadata.get(PRIORITY_OF_RUN, "")).isdecimal():
        spec.priority = min(int(of_run), 9)
    if change.timeout is not None:
        spec.options.timeout.CopyFrom(duration(change.timeout))
    if change.backoff is not None:
        backoff = change.backoff
        spec.options.backoff.CopyFrom(
            pb.Backoff(
                first=duration(backoff.first), factor=backoff.factor, limit=duration(backoff.limit),
                jitter=backoff.jitter,
            )
        )  # fmt: skip
    if change.label:
        spec.options.label = change.label


def _decided(run: Heard) -> bool:
    return isinstance(run.definition, Definition) and run.definition.decider is not None


def _full(run: Heard, name: str | None) -> str:
    """The stored form of a name; empty for no name, and for an invalid one."""
    try:
        return qualify(name, field="", namespace=namespace_of(run.workflow)) if name else ""
    except InvalidArgument:
        return ""


def _row(
    run: Heard,
    change: CreateJob | StartRun,
    *,
    job_id: UUID | None = None,
    child_id: UUID | None = None,
    after: Sequence[str] = (),
) -> RunJobRow:
    index = change.index if isinstance(change, CreateJob) else 0
    return RunJobRow(run.id, change.step, change.iteration, index, job_id, child_id, array(after))


def _unmade(run: Heard, change: CreateJob | StartRun, why: str, changes: RunChanges) -> None:
    row = _row(run, change)
    changes.run_jobs.append(row)
    error = {"type": "bad_job", "message": why}
    if _decided(run):
        error["definition"] = (change.workflow if isinstance(change, StartRun) else change.task) or ""
    changes.told.append((run.id, JobFinished(row.step, row.iteration, row.place, Outcome.FAILED, error=error)))
