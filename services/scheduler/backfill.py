"""BackfillSchedule: jobs, or runs, for nominal instants that have none, asked for by hand.

The schedule stays locked from the look at its ledger to the commit, as it is while the leader fires it: each instant
gets one, whoever makes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from services.core.errors import InvalidArgument
from services.core.lanes import LaneKey
from services.core.schedules import Backfill, Firing, FiringState, backfill
from services.core.timing import Timing
from services.scheduler.directory import Directory
from services.scheduler.firing import Firer
from services.scheduler.intake import Intake
from services.store import schedules as store
from services.store.database import Writer
from services.store.jobs import Stored
from taskflow.v1 import jobs_pb2

TRIGGER = "backfill"
_TICK = timedelta(microseconds=1)

Row = dict[str, Any]


class Backfiller:
    def __init__(self, writer: Writer, directory: Directory, firer: Firer, intake: Intake) -> None:
        self._writer = writer
        self._directory = directory
        self._firer = firer
        self._intake = intake
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
        """What was made, and how many instants had a job or wait for one. None: there is no such schedule.

        `up_to_now`: the schedule decided until now, where it is inactive.
        """
        async with self._one_at_a_time, self._writer.transaction() as conn:
            row = await store.begin_backfill(conn, schedule_id, up_to_now)
            if row is None:
                return None
            end = _end(row, start, end)
            ledger = await store.ledger_between(conn, schedule_id, start, end)
            found = backfill(timing_of(row), start, end, map(_firing, ledger))
            decided, specs = self._make(row, found)
            await self._directory.learn({LaneKey(job.queue, job.task, job.priority) for job in decided.jobs})
            tx = await store.write_backfilled(conn, decided, [_row(schedule_id, firing) for firing in found.kept])
        if decided.runs:
            self._intake.runs_news()
        await self._intake.offer(
            list(zip(decided.jobs, specs, strict=True)), [Stored(job.id, tx) for job in decided.jobs]
        )
        return decided.firings, found.existing

    def _make(self, row: Row, found: Backfill) -> tuple[store.Decided, list[jobs_pb2.JobSpec]]:
        """The jobs, or runs, of its firings."""
        decided, specs = store.Decided(), []
        made: dict[str, Any]
        for firing in found.fired:
            if row["workflow"] is not None:
                decided.runs.append(self._firer.run_of(row, firing, TRIGGER))
                made = {"run_id": decided.runs[-1].id}
            else:
                job, spec = self._firer.job(row, firing, {"taskflow.trigger": TRIGGER})
                decided.jobs.append(job)
                specs.append(spec)
                made = {"job_id": UUID(bytes=job.id)}
            decided.firings.append(_row(row["id"], firing)._replace(**made))
        return decided, specs


def _end(row: Row, start: datetime, end: datetime | None) -> datetime:
    """What an active schedule has not decided yet is left to it."""
    if end is not None and end > row["now"]:
        raise InvalidArgument(f"end_time: {end.isoformat()} is still to come; it fires by itself then", "end_time")
    end = row["now"] if end is None else end
    if start >= end:
        raise InvalidArgument(f"start_time: {start.isoformat()} is not before the end", "start_time")
    return min(end, row["cursor"] + _TICK) if row["active"] else end


def _firing(row: Row) -> Firing:
    return Firing(row["instant"], FiringState(row["state"]), row["reason"], row["first"], row["count"])


def _row(schedule_id: UUID, firing: Firing) -> store.FiringRow:
    return store.FiringRow(schedule_id, firing.instant, firing.first, firing.count, firing.state, firing.reason)
