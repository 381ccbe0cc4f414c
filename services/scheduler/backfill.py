"""BackfillSchedule: on request, creates jobs or runs for past nominal instants that have none.

The schedule is locked from the read of its ledger to the commit, as when the leader fires it. So each instant gets one
job or run, from the leader or from a backfill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2
from taskflow_server.core.errors import FailedPrecondition, InvalidArgument
from taskflow_server.core.lanes import LaneKey
from taskflow_server.core.schedules import Backfill, Firing, FiringState, backfill
from taskflow_server.core.timing import Timing
from taskflow_server.scheduler.firing_rows import FiringRows
from taskflow_server.scheduler.job_writer import JobWriter
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.store import schedules as store
from taskflow_server.store.database import Writer
from taskflow_server.store.jobs import Stored

TRIGGER = "backfill"
SLICE = 50  # firings after which the event loop serves other calls
_TICK = timedelta(microseconds=1)

Row = dict[str, Any]


class Backfiller:
    def __init__(self, writer: Writer, topology: TopologyCache, rows: FiringRows, job_writer: JobWriter) -> None:
        self._writer = writer
        self._topology = topology
        self._rows = rows
        self._job_writer = job_writer
        self._one_at_a_time = asyncio.Lock()

    async def run(
        self,
        schedule_id: UUID,
        start: datetime,
        end: datetime | None,
        *,
        timing_of: Callable[[Row], Timing],
        up_to_now: Callable[[Row], list[Row]],
    ) -> tuple[list[store.FiringRow], int] | None:
        """The created jobs and runs, and the number of instants that had one or wait for one. None: no such schedule.

        `up_to_now`: returns the ledger rows of the instants that passed while the schedule was inactive.
        """
        async with self._one_at_a_time, self._writer.transaction() as conn:
            row = await store.begin_backfill(conn, schedule_id, up_to_now)
            if row is None:
                return None
            end = _end(row, start, end)
            ledger = await store.ledger_between(conn, schedule_id, start, end)
            found = backfill(timing_of(row), start, end, map(_firing, ledger))
            decided, specs = await self._make(row, found)
            await self._topology.learn({LaneKey(job.queue, job.task, job.priority) for job in decided.jobs})
            tx = await store.write_backfilled(conn, decided, [_row(schedule_id, firing) for firing in found.kept])
        if decided.runs:
            self._job_writer.runs_news()
        await self._job_writer.offer(
            list(zip(decided.jobs, specs, strict=True)), [Stored(job.id, tx) for job in decided.jobs]
        )
        return decided.firings, found.existing

    async def _make(self, row: Row, found: Backfill) -> tuple[store.Decided, list[jobs_pb2.JobSpec]]:
        """The jobs, or runs, of its firings. Yields to other calls in between."""
        decided, specs = store.Decided(), []
        await self._rows.prepare()
        made: dict[str, Any]
        for number, firing in enumerate(found.fired):
            if number % SLICE == 0:
                await asyncio.sleep(0)
            if row["workflow"] is not None:
                decided.runs.append(self._rows.run_of(row, firing, TRIGGER))
                made = {"run_id": decided.runs[-1].id}
            else:
                job, spec = self._rows.job(row, firing, {"taskflow.trigger": TRIGGER})
                drains = self._rows.drains(job)
                if drains:
                    raise FailedPrecondition(f"schedule: {drains} and accepts no new jobs; resume it", "QUEUE_DRAINING")
                if exceeded := self._rows.exceeded(job):
                    raise exceeded
                decided.jobs.append(job)
                specs.append(spec)
                made = {"job_id": UUID(bytes=job.id)}
            decided.firings.append(_row(row["id"], firing)._replace(**made))
        return decided, specs


def _end(row: Row, start: datetime, end: datetime | None) -> datetime:
    """The end of the backfill; instants that an active schedule has not decided yet are left to the leader."""
    if end is not None and end > row["now"]:
        raise InvalidArgument(f"end_time: {end.isoformat()} is in the future; the schedule will fire it", "end_time")
    end = row["now"] if end is None else end
    if start >= end:
        raise InvalidArgument(f"start_time: {start.isoformat()} is not before the end", "start_time")
    return min(end, row["cursor"] + _TICK) if row["active"] else end


def _firing(row: Row) -> Firing:
    return Firing(row["instant"], FiringState(row["state"]), row["reason"], row["first"], row["count"])


def _row(schedule_id: UUID, firing: Firing) -> store.FiringRow:
    return store.FiringRow(schedule_id, firing.instant, firing.first, firing.count, firing.state, firing.reason)
