"""Groups the facts that alert rules have selected into messages, and creates the jobs that deliver them (S1.10).

Only the leader of the schedules does this. One transaction, which ends with a check of the leader's term, counts a fact
and creates its message: no crash of a leader loses or doubles one. Without a rule it costs one small query an interval.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core import alerts
from taskflow_server.core.errors import NotOwner
from taskflow_server.core.lanes import LaneKey
from taskflow_server.runtime import logs
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.failpoints import reach
from taskflow_server.runtime.readiness import Readiness
from taskflow_server.scheduler.alert_jobs import AlertJobs
from taskflow_server.scheduler.alert_lanes import AlertLanes
from taskflow_server.scheduler.job_writer import JobWriter
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.store import alerts as store
from taskflow_server.store.database import Database, Row, Writer
from taskflow_server.store.errors import FAULTS
from taskflow_server.store.jobs import NewJob, Stored

log = logs.get("alerts")

Job = tuple[NewJob, pb.JobSpec]


class Alerter:
    """`term` returns the term of this scheduler as leader of the schedules, or None."""

    def __init__(
        self,
        settings: SchedulerSettings,
        db: Database,
        clock: SystemClock,
        topology: TopologyCache,
        job_writer: JobWriter,
        readiness: Readiness,
        jobs: AlertJobs,
        lanes: AlertLanes,
        term: Callable[[], int | None],
    ) -> None:
        self._settings = settings
        self._db = db
        self._clock = clock
        self._topology = topology
        self._job_writer = job_writer
        self._jobs = jobs
        self._lanes = lanes
        self._term = term
        self._writer = Writer(settings.database_url, timeout=settings.database_timeout)
        self._outage = readiness.outage(log, "alerts cannot be evaluated")
        self._look_at = float("-inf")  # time of the next evaluation of lanes

    async def run(self) -> None:
        """Evaluates at every interval, while this scheduler leads."""
        while True:
            await self._clock.sleep(self._settings.alert_interval)
            if (term := self._term()) is None:
                continue
            try:
                await self._step(term)
                self._outage.over()
            except NotOwner:
                continue  # another scheduler leads and evaluates; the firing loop of this one detects that by itself
            except FAULTS as error:
                self._outage.failed(error)
            except Exception as error:  # a fault in TaskFlow: nothing was committed; schedules and calls continue
                log.error("alerts cannot be evaluated; retrying", exc_info=error)

    async def close(self) -> None:
        await self._writer.reset()

    async def _step(self, term: int) -> None:
        (todo,) = await self._db.rows("alerts_to_do")
        now = self._clock.monotonic()
        if not todo["watching"]:
            self._look_at = float("-inf")  # evaluate the first rule that watches lanes at once
        elif now >= self._look_at:
            await self._lanes.look(self._writer, term)
            self._look_at = now + self._settings.alert_lane_interval
            todo["facts"] = True  # group the new facts now
        if todo["facts"] or todo["due"]:
            while await self._gather(term):
                pass

    async def _gather(self, term: int) -> bool:
        """Groups facts in one transaction; True when there may be more."""
        most = self._settings.alert_batch
        made: list[Job] = []
        async with self._writer.transaction() as conn:
            taken = await store.begin(conn, most)
            groups = [self._group(rule, taken.facts.get(rule["id"], []), made) for rule in taken.rules]
            if made:
                await self._topology.learn({LaneKey(job.queue, job.task, job.priority) for job, _ in made})
            await reach("scheduler.before_alerts")
            tx = await store.write(conn, groups, [job for job, _ in made], term)
            await reach("scheduler.after_alerts")
        await self._job_writer.offer(made, [Stored(job.id, tx) for job, _ in made])
        return taken.count == most

    def _group(self, rule: Row, facts: list[dict[str, Any]], made: list[Job]) -> store.GroupRow:
        """Adds facts to the group of a rule. When its message is due, creates the message and closes the group."""
        limits = alerts.Limits(rule["gather"], rule["max_messages"], rule["period"])
        now, last_job = rule["now"], rule["last_job"]
        group = alerts.gathered(store.group_of(rule), facts, now)
        if alerts.due(group, limits, now):
            job = self._jobs.make(rule, group)
            made.append(job)
            last_job = UUID(bytes=job[0].id)
            log.info("alert sent", rule=rule["name"], facts=group.count, job=str(last_job))
            group = alerts.sent(group, limits, now)
        return store.group_row(rule["id"], group, last_job)
