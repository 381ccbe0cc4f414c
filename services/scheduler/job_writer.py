"""Stores submitted jobs: group commit, then the offer."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.dispatch_pb2 import LaneJobs
from taskflow_server.core.errors import (
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    TaskFlowFault,
    Unavailable,
)
from taskflow_server.core.ids import show
from taskflow_server.core.lanes import LaneKey
from taskflow_server.runtime import logs, metrics
from taskflow_server.runtime.batcher import Batcher
from taskflow_server.runtime.clock import SystemClock
from taskflow_server.runtime.failpoints import reach
from taskflow_server.runtime.readiness import Readiness
from taskflow_server.scheduler.coordinators import Coordinators
from taskflow_server.scheduler.handlers import Handlers
from taskflow_server.scheduler.quotas import JobQuotas, Reserved
from taskflow_server.scheduler.settings import SchedulerSettings
from taskflow_server.scheduler.topology_cache import TopologyCache
from taskflow_server.scheduler.validation import Validation
from taskflow_server.store.database import Writer
from taskflow_server.store.jobs import NewJob, Result, Stored, store_jobs, store_keyed

log = logs.get("job_writer")

OFFER_BYTES = 1 << 20  # a group of offered jobs with one job more stays well below the message limit

Item = tuple[NewJob, pb.JobSpec]
Store = Callable[[Writer, Sequence[NewJob]], Awaitable[Sequence[Result]]]


class JobWriter:
    def __init__(
        self,
        settings: SchedulerSettings,
        clock: SystemClock,
        validation: Validation,
        topology: TopologyCache,
        coordinators: Coordinators,
        readiness: Readiness,
        handlers: Handlers,
        quotas: JobQuotas,
    ) -> None:
        self._settings = settings
        self._quotas = quotas
        self._handlers = handlers
        # Only callers retry, and they may avoid a scheduler that is not ready: the failure expires by itself.
        self._outage = readiness.outage(log, "jobs cannot be stored", lasts=settings.unready_for)
        self._validation = validation
        self._topology = topology
        self._coordinators = coordinators
        self._plain = Writer(settings.database_url, timeout=settings.database_timeout)
        self._keyed = Writer(settings.database_url, timeout=settings.database_timeout)
        limit = settings.max_batch
        self._plain_batches: Batcher[Item, Result] = Batcher(
            self._flush_plain, limit=limit, weigh=_weigh, then=self.offer
        )
        self._calls = itertools.count(1)
        self._keyed_batches: Batcher[Item, Result] = Batcher(
            self._flush_keyed, limit=min(limit, 500), weigh=_weigh, then=self.offer
        )
        self._label = metrics.QueueLabels(settings.metrics_queues)
        self._lines = logs.RateLimitedLog(log, clock.monotonic)

    async def close(self) -> None:
        await self._plain.reset()
        await self._keyed.reset()

    async def create(
        self, specs: Sequence[pb.JobSpec], field: str, *, partial: bool
    ) -> tuple[list[Result], set[LaneKey]]:
        """Stores jobs. Returns their results, and the lanes of the accepted ones. `field`: their path in the request.

        Without `partial` all are stored or none, and the first error is raised.
        """
        call = 0 if partial or len(specs) == 1 else next(self._calls)
        tasks = {spec.task for spec in specs}
        if any(task and not self._handlers.known(task) for task in tasks):
            await self._handlers.look()
        checked = self._check(specs, field, call, tasks, partial=partial)
        reserved = await self._within_quotas(checked, specs, field, partial=partial) if self._quotas.limited else None
        results: list[Result] | None = None
        try:
            lanes = {LaneKey(*key) for key in {(j.queue, j.task, j.priority) for j in checked if isinstance(j, NewJob)}}
            if not all(map(self._topology.known, lanes)):
                await self._topology.learn(lanes)
            results = await self._store(checked, specs, whole=call > 0)
        finally:
            if reserved is not None:
                reserved.settle(results)
        if not partial:
            for result in results:
                if isinstance(result, TaskFlowFault):
                    raise result
        return results, lanes

    def _check(
        self, specs: Sequence[pb.JobSpec], field: str, call: int, tasks: set[str], *, partial: bool
    ) -> list[NewJob | TaskFlowFault]:
        """The row of each job, or its error; without `partial` the first error is raised."""
        own = {task: self._handlers.of(task) for task in tasks}
        same = own[next(iter(own))] if len(own) == 1 else None  # of thousands, all of one task or none
        before, _, after = field.partition("{}")
        numbered = field != before
        draining = self._topology.draining
        checked: list[NewJob | TaskFlowFault] = []
        for number, spec in enumerate(specs):
            place = f"{before}{number}{after}" if numbered else field
            try:
                job = self._validation.check(spec, place, call, same or own[spec.task])
                if job.queue in draining:
                    raise _draining(job, place)
                checked.append(job)
            except (InvalidArgument, FailedPrecondition) as fault:
                self._tell(spec, fault)
                if not partial:
                    raise
                checked.append(fault)
        return checked

    async def _within_quotas(
        self, checked: list[NewJob | TaskFlowFault], specs: Sequence[pb.JobSpec], field: str, *, partial: bool
    ) -> Reserved:
        """Replaces jobs that exceed a quota by errors; without `partial` the first error is raised."""
        reserved = await self._quotas.admit(checked, lambda number: field.replace("{}", str(number)))
        for spec, fault in zip(specs, checked, strict=True):
            if isinstance(fault, ResourceExhausted):
                self._tell(spec, fault)
                if not partial:
                    reserved.give_back()
                    raise fault
        return reserved

    def _tell(self, spec: pb.JobSpec, fault: InvalidArgument | FailedPrecondition | ResourceExhausted) -> None:
        """Logs the refusal for the operator, without the message: that is for the caller, and may hold its data."""
        if self._lines.wanted(logging.INFO):
            facts = {"job": show(spec.id)} if len(spec.id) == 16 else {}
            field = fault.field if isinstance(fault, InvalidArgument) else "queue"
            self._lines.say(logging.INFO, "a job was refused", **facts, field=field, reason=fault.reason)

    async def _store(
        self, checked: Sequence[NewJob | TaskFlowFault], specs: Sequence[pb.JobSpec], *, whole: bool
    ) -> list[Result]:
        """Jobs with keys are stored in batches of their own; in a `whole` call with a key, all jobs are."""
        together = whole and any(isinstance(job, NewJob) and job.key is not None for job in checked)
        items: dict[bool, list[Item]] = {False: [], True: []}  # True: with a key, or in a call with one
        for job, spec in zip(checked, specs, strict=True):
            if isinstance(job, NewJob):
                item = (job._replace(shard=self._topology.shard(job.queue)) if job.deferred else job, spec)
                items[together or job.key is not None].append(item)
        plain, keyed = self._submit(self._plain_batches, items[False]), self._submit(self._keyed_batches, items[True])
        stored = await asyncio.gather(plain, keyed) if items[True] else (await plain, ())  # a turn of the loop less
        results = {keyed: iter(answers) for keyed, answers in zip(items, stored, strict=True)}
        return [
            job if isinstance(job, TaskFlowFault) else next(results[together or job.key is not None]) for job in checked
        ]

    def _submit(self, batches: Batcher[Item, Result], items: list[Item]) -> asyncio.Future[Sequence[Result]]:
        if items and batches.backlog > 10 * self._settings.max_batch:
            raise Unavailable("the write buffer is full; retry", "OVERLOADED")
        return batches.submit(items)

    async def _flush_plain(self, items: list[Item]) -> Sequence[Result]:
        return await self._flush("jobs", store_jobs, self._plain, items)

    async def _flush_keyed(self, items: list[Item]) -> Sequence[Result]:
        return await self._flush("keyed_jobs", store_keyed, self._keyed, items)

    async def _flush(self, what: str, store: Store, writer: Writer, items: list[Item]) -> Sequence[Result]:
        try:
            with metrics.commit_seconds.labels(what).time():
                results = await store(writer, [job for job, _ in items])
        except Unavailable as error:
            self._outage.failed(error)
            raise
        self._outage.over()
        return results

    async def offer(self, items: list[Item], results: Sequence[Result]) -> None:
        """Offers the jobs to their owners without waiting: a hint that saves them a read."""
        metrics.commit_rows.labels("jobs").observe(len(items))
        lanes: defaultdict[tuple[str, str, int, int], list[pb.JobSpec]] = defaultdict(list)
        made: defaultdict[str, int] = defaultdict(int)
        for (job, spec), result in zip(items, results, strict=True):
            if isinstance(result, Stored) and result.tx:
                made[job.queue] += 1
                if not job.deferred:
                    lanes[job.queue, job.task, job.priority, result.tx].append(spec)
        for queue, count in made.items():
            metrics.jobs_created.labels(self._label(queue)).inc(count)
        groups = [
            LaneJobs(queue=q, task=t, priority=p, tx=tx, shard=self._topology.shard(q), jobs=part)
            for (q, t, p, tx), specs in lanes.items()
            for part in chunks(specs, OFFER_BYTES)
        ]
        if groups and not await reach("scheduler.offer"):
            self._coordinators.offer(groups)

    def runs_news(self) -> None:
        """Tells the owners, as a hint, that runs have new events."""
        self._coordinators.runs_news.set()


def _draining(job: NewJob, field: str) -> FailedPrecondition:
    said = f"{field}.queue: {job.queue!r} drains and accepts no new jobs; resume it or use another queue"
    return FailedPrecondition(said, "QUEUE_DRAINING")


def _weigh(item: Item) -> int:
    return len(item[0].payload or b"")


def chunks(specs: list[pb.JobSpec], most: int) -> Iterator[list[pb.JobSpec]]:
    """Splits `specs` into parts of about `most` bytes."""
    part: list[pb.JobSpec] = []
    size = 0
    for spec in specs:
        part.append(spec)
        size += spec.ByteSize()
        if size >= most:
            yield part
            part, size = [], 0
    if part:
        yield part
