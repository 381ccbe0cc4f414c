"""The rows that a decision about a schedule writes: its firings, their jobs or runs, its cursor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core.errors import InvalidArgument, ResourceExhausted
from taskflow_server.core.schedules import Firing, Firings, FiringState, Misfire, Overlap, Policy, ScheduleState, due
from taskflow_server.core.timing import Timing, parse_timing
from taskflow_server.rpc.defaults import defaults_of
from taskflow_server.rpc.task_jobs import job_of
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.scheduler.quotas import JobQuotas
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.scheduler.validation import Validation
from taskflow_server.store import schedules as store
from taskflow_server.store.jobs import NewJob
from taskflow_server.store.runs import NewRun, new_run

Row = dict[str, Any]


class FiringRows:
    def __init__(
        self,
        settings: SchedulerSettings,
        clock: SystemClock,
        validation: Validation,
        topology: TopologyCache,
        quotas: JobQuotas,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._validation = validation
        self._topology = topology
        self._quotas = quotas

    async def prepare(self) -> None:
        """Call before decisions: counts waiting jobs again where the count is too old."""
        if self._quotas.limited:
            await self._quotas.freshen()

    def decide(self, row: Row, decided: store.Decided, specs: list[pb.JobSpec], limit: int) -> Firings:
        """Adds the firings of a locked schedule, `row`, to `decided`. When it raises, nothing was added."""
        timing = _timing(row)
        found = due(_state(row, timing), row["now"], self._policy(row), limit)
        last_at: datetime | None = None
        made: list[tuple[NewJob, pb.JobSpec]] = []
        runs: list[NewRun] = []
        firings = []
        for firing in (*((found.dequeued,) if found.dequeued else ()), *found.rows):
            job_id = run_id = None
            if firing.state is FiringState.FIRED and row["workflow"] is not None:
                runs.append(self.run_of(row, firing))
                run_id = runs[-1].id
                last_at = row["now"]
            elif firing.state is FiringState.FIRED:
                job, spec = self.job(row, firing)
                refused = self.drains(job) or str(self.exceeded(job) or "")
                if refused:  # no job is cancelled for a firing that makes no job
                    firing = replace(firing, state=FiringState.SKIPPED_OFF, reason=refused)
                    found = replace(found, cancel_unfinished=False)
                else:
                    made.append((job, spec))
                    job_id = UUID(bytes=job.id)
                    last_at = row["now"]
            firings.append(
                store.FiringRow(
                    row["id"], firing.instant, firing.first, firing.count, firing.state, firing.reason, job_id, run_id
                )
            )
        decided.runs += runs
        decided.jobs += [job for job, _ in made]
        specs += [spec for _, spec in made]
        decided.firings += firings
        if found.cancel_unfinished:
            decided.replaced += row["jobs"] or []
            decided.replaced_runs += row["runs"] or []
        if found.taken_back:
            decided.taken_back.append((row["id"], row["now"], timing))
        decided.cursors.append(store.CursorRow(row["id"], found.cursor, found.next_at, found.wake_at, last_at))
        return found

    def _policy(self, row: Row) -> Policy:
        late = timedelta(seconds=self._settings.misfire_after)
        ahead = timedelta(seconds=self._settings.clock_step)
        return Policy(Misfire(row["misfire"]), Overlap(row["overlap"]), late, ahead)

    def drains(self, job: NewJob) -> str:
        """The error if the queue of a schedule's job drains; else empty. Runs, and their steps, are not refused."""
        return f"its queue {job.queue} drains" if job.queue in self._topology.draining else ""

    def exceeded(self, job: NewJob) -> ResourceExhausted | None:
        """The quota that a schedule's job exceeds now. None: the job is now counted as waiting."""
        return self._quotas.exceeded(job) if self._quotas.limited else None

    def run_of(self, row: Row, firing: Firing, trigger: str = "schedule") -> NewRun:
        """The run of a firing, of the latest version of its workflow."""
        if row["version"] is None:
            raise InvalidArgument(f"there is no workflow {row['workflow']!r} any more", "schedule.workflow")
        metadata = {**row["metadata"], "taskflow.instant": firing.instant.isoformat()}
        return new_run(
            self._clock.new_id(), row["workflow"], row["version"], (row["payload"] or b"null").decode(), metadata,
            trigger=trigger, schedule_id=row["id"],
        )  # fmt: skip

    def job(
        self, row: Row, firing: Firing, metadata: Mapping[str, str] = MappingProxyType({})
    ) -> tuple[NewJob, pb.JobSpec]:
        """The job of a firing. Its options come from its task's row, and where that has none, or there is no such row,
        from the workers that have registered the handler.
        """
        none = not row["payload"] and row["encoding"] in (pb.ENCODING_UNSPECIFIED, pb.ENCODING_JSON)
        spec = job_of(row, None if none else (row["payload"] or b"", row["encoding"]))
        spec.options.metadata.update(row["metadata"])
        spec.options.metadata.update(metadata)
        spec.options.metadata["taskflow.schedule"] = str(row["id"])
        spec.options.metadata["taskflow.instant"] = firing.instant.isoformat()
        return self._validation.check(spec, "schedule", 0, defaults_of(row)), spec


def _timing(row: Row) -> Timing:
    return parse_timing(
        cron=row["cron"], at=row["at"], time_zone=row["time_zone"], start=row["start_at"], end=row["end_at"]
    )


def _state(row: Row, timing: Timing) -> ScheduleState:
    return ScheduleState(
        timing=timing,
        cursor=row["cursor"],
        unfinished=row["unfinished"],
        queued=row["queued"],
        oldest_queued=row["oldest_queued"],
        known=(row["known_first"], row["known_last"]) if row["known_first"] is not None else None,
    )
