"""What runs start: jobs of their steps, and child runs. What cannot be made is told to its run as a failed job."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from services.coordinator.pager import Pager
from services.coordinator.run_turns import Heard, Worked, array
from services.coordinator.state import State
from services.core.errors import InvalidArgument
from services.core.lanes import LaneKey
from services.core.names import namespace_of, qualify
from services.core.workflow import CreateJob, JobFinished, StartRun, decision_task
from services.rpc.values import duration, options_from_json, options_to_json
from services.runtime import metrics
from services.store.jobs import NewJob
from services.store.lanes import KnownLanes
from services.store.runs import RunChanges, RunJobRow, new_run
from services.store.tags import words
from taskflow._policy import RUN_OF_JOB, STEP_OF_JOB, Outcome
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.dispatch_pb2 import LaneJobs

MAX_DEPTH = 20  # of runs that runs have started
OFFER_BYTES = 1 << 20  # of jobs offered as one group
_PRIORITY = 5

Offer = tuple[NewJob, pb.JobSpec]
Row = dict[str, Any]


class RunJobs:
    def __init__(self, state: State, pager: Pager) -> None:
        self._state = state
        self._pager = pager
        self._lanes = KnownLanes(state.db)
        self._label = metrics.QueueLabels(state.settings.metrics_queues)

    async def make(self, worked: Sequence[Worked], changes: RunChanges) -> list[Offer]:
        """Adds the rows of jobs and child runs to `changes`; what is to be offered once they are written."""
        wanted = [(run.heard, change) for run in worked for change in run.changes if isinstance(change, CreateJob)]
        tasks = await self._tasks({full for run, change in wanted if (full := _full(run, change.task))})
        offers = [made for run, change in wanted if (made := self._job(run, change, tasks, changes)) is not None]
        await self._lanes.learn({LaneKey(job.queue, job.task, job.priority) for job, _ in offers})
        changes.jobs += [job for job, _ in offers]
        await self._children(worked, changes)
        return offers

    async def _tasks(self, names: set[str]) -> dict[str, Row]:
        rows = await self._state.db.rows("tasks_of_jobs", names=sorted(names)) if names else []
        return {row["name"]: row for row in rows}

    def _job(self, run: Heard, change: CreateJob, tasks: dict[str, Row], changes: RunChanges) -> Offer | None:
        try:
            spec = self._spec(run, change, tasks)
            options = options_to_json(spec.options.SerializeToString(deterministic=True), "options")
        except InvalidArgument as fault:
            _unmade(run, change, str(fault), changes)
            return None
        found_by = tuple(words(spec.options.tags, spec.options.metadata))
        job = NewJob(
            spec.id, spec.priority, pb.ENCODING_JSON, spec.retries, False, spec.queue, spec.task, spec.payload, None,
            None, options, shard=0, words=found_by,
        )  # fmt: skip
        changes.run_jobs.append(_row(run, change, job_id=UUID(bytes=spec.id), after=change.after))
        return job, spec

    def _spec(self, run: Heard, change: CreateJob, tasks: dict[str, Row]) -> pb.JobSpec:
        """As the step says; what it leaves out, as its task says."""
        space = namespace_of(run.workflow)
        if change.workflow is not None:
            name, row = decision_task(change.workflow), Row()
        else:
            name = qualify(change.task, field="task", namespace=space) if change.task else ""
            row = tasks.get(name, Row())
        queue = qualify(change.queue, field="queue", namespace=space) if change.queue else row.get("queue", "default")
        spec = pb.JobSpec(
            id=self._state.clock.new_id(), queue=queue, task=row.get("target", name),
            payload=json.dumps(change.payload, ensure_ascii=False, separators=(",", ":")).encode(),
            encoding=pb.ENCODING_JSON,
            retries=row.get("retries", 0) if change.retries is None else change.retries,
            priority=row.get("priority", _PRIORITY) if change.priority is None else change.priority,
        )  # fmt: skip
        options = options_from_json(row.get("options"))
        if options is not None:
            spec.options.CopyFrom(options)
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
        spec.options.metadata.update(run.metadata)
        spec.options.metadata.update({RUN_OF_JOB: str(run.id), STEP_OF_JOB: change.step})
        return spec

    async def _children(self, worked: Sequence[Worked], changes: RunChanges) -> None:
        wanted = [(run.heard, change) for run in worked for change in run.changes if isinstance(change, StartRun)]
        names = {full for run, change in wanted if (full := _full(run, change.workflow))}
        rows = await self._state.db.rows("latest_versions", names=sorted(names)) if names else []
        versions = {row["name"]: row["version"] for row in rows}
        children = []
        for run, change in wanted:
            name = _full(run, change.workflow)
            if name not in versions or run.depth >= MAX_DEPTH:
                deep = f"runs within runs are {MAX_DEPTH} deep at most"
                why = f"there is no workflow {change.workflow!r}" if name not in versions else deep
                _unmade(run, change, why, changes)
                continue
            child = new_run(
                self._state.clock.new_id(), name, versions[name], json.dumps(change.input), run.metadata,
                trigger="workflow", label=change.label, parent_id=run.id, parent_step=change.step,
                parent_iteration=change.iteration, depth=run.depth + 1,
            )  # fmt: skip
            children.append(child)
            changes.run_jobs.append(_row(run, change, child_id=child.id))
        changes.begin(children)

    def offer(self, offers: Sequence[Offer], tx: int) -> None:
        """They are on disk: the pager takes those of our own lanes; others' owners find theirs by themselves."""
        lanes: defaultdict[tuple[str, str, int], list[pb.JobSpec]] = defaultdict(list)
        for job, spec in offers:
            lanes[job.queue, job.task, job.priority].append(spec)
            metrics.jobs_created.labels(self._label(job.queue)).inc()
        for (queue, task, priority), specs in lanes.items():
            shard = self._lanes.shard(queue)
            self._pager.offer(LaneJobs(queue=queue, task=task, priority=priority, tx=tx, shard=shard, jobs=specs))


def _full(run: Heard, name: str | None) -> str:
    """The stored form of a name; empty for none, and for one that is no name."""
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
    changes.told.append((run.id, JobFinished(row.step, row.iteration, row.place, Outcome.FAILED, error=error)))
