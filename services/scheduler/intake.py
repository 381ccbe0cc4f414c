"""Storing what callers bring: group commit, then the offer."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence

from services.core.errors import InvalidArgument, TaskFlowFault, Unavailable
from services.core.ids import show
from services.core.lanes import LaneKey
from services.runtime import logs, metrics
from services.runtime.batcher import Batcher
from services.runtime.clock import SystemClock
from services.runtime.failpoints import reach
from services.scheduler.admission import Admission
from services.scheduler.coordinators import Coordinators
from services.scheduler.directory import Directory
from services.scheduler.settings import SchedulerSettings
from services.store.database import Writer
from services.store.jobs import NewJob, Result, Stored, store_jobs, store_keyed
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.dispatch_pb2 import LaneJobs

log = logs.get("intake")

OFFER_BYTES = 1 << 20  # a group of offered jobs stays well below the message limit, once another job is added

Item = tuple[NewJob, pb.JobSpec]


class Intake:
    def __init__(
        self,
        settings: SchedulerSettings,
        clock: SystemClock,
        admission: Admission,
        directory: Directory,
        coordinators: Coordinators,
    ) -> None:
        self._settings = settings
        self._admission = admission
        self._directory = directory
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
        self._lines = logs.Sparing(log, clock.monotonic)

    async def close(self) -> None:
        await self._plain.reset()
        await self._keyed.reset()

    async def create(self, specs: Sequence[pb.JobSpec], field: str, *, partial: bool) -> list[Result]:
        """Stores jobs; a result for each. `field` is their path in the request.

        Without `partial` all are stored or none, and the first fault is raised.
        """
        call = 0 if partial or len(specs) == 1 else next(self._calls)
        checked: list[NewJob | TaskFlowFault] = []
        for number, spec in enumerate(specs):
            try:
                checked.append(self._admission.check(spec, field.format(number), call))
            except InvalidArgument as fault:
                self._tell(spec, fault)
                if not partial:
                    raise
                checked.append(fault)
        lanes = {LaneKey(j.queue, j.task, j.priority) for j in checked if isinstance(j, NewJob)}
        if not all(map(self._directory.known, lanes)):
            await self._directory.learn(lanes)
        results = await self._store(checked, specs, whole=call > 0)
        if not partial:
            for result in results:
                if isinstance(result, TaskFlowFault):
                    raise result
        return results

    def _tell(self, spec: pb.JobSpec, fault: InvalidArgument) -> None:
        """A line for whoever looks after the scheduler; what is wrong, in words, is the caller's to know."""
        if self._lines.wanted(logging.INFO):
            facts = {"job": show(spec.id)} if len(spec.id) == 16 else {}
            self._lines.say(logging.INFO, "a job was refused", **facts, field=fault.field, reason=fault.reason)

    async def _store(
        self, checked: Sequence[NewJob | TaskFlowFault], specs: Sequence[pb.JobSpec], *, whole: bool
    ) -> list[Result]:
        """Jobs with keys go with their like; in a `whole` call with any, all of them do."""
        together = whole and any(isinstance(job, NewJob) and job.key is not None for job in checked)
        items: dict[bool, list[Item]] = {False: [], True: []}  # with a key, or together with one
        for job, spec in zip(checked, specs, strict=True):
            if isinstance(job, NewJob):
                item = (job._replace(shard=self._directory.shard(job.queue)) if job.deferred else job, spec)
                items[together or job.key is not None].append(item)
        plain, keyed = self._submit(self._plain_batches, items[False]), self._submit(self._keyed_batches, items[True])
        stored = await asyncio.gather(plain, keyed) if items[True] else (await plain, ())  # a turn of the loop less
        results = {keyed: iter(answers) for keyed, answers in zip(items, stored, strict=True)}
        return [
            job if isinstance(job, TaskFlowFault) else next(results[together or job.key is not None]) for job in checked
        ]

    def _submit(self, batches: Batcher[Item, Result], items: list[Item]) -> asyncio.Future[Sequence[Result]]:
        if items and batches.backlog > 10 * self._settings.max_batch:
            raise Unavailable("more jobs wait to be stored than can be held; try again", "OVERLOADED")
        return batches.submit(items)

    async def _flush_plain(self, items: list[Item]) -> Sequence[Result]:
        with metrics.commit_seconds.labels("jobs").time():
            return await store_jobs(self._plain, [job for job, _ in items])

    async def _flush_keyed(self, items: list[Item]) -> Sequence[Result]:
        with metrics.commit_seconds.labels("keyed_jobs").time():
            return await store_keyed(self._keyed, [job for job, _ in items])

    async def offer(self, items: list[Item], results: Sequence[Result]) -> None:
        """Tells the owners, without waiting: a hint that saves them a read."""
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
            LaneJobs(queue=q, task=t, priority=p, tx=tx, shard=self._directory.shard(q), jobs=part)
            for (q, t, p, tx), specs in lanes.items()
            for part in chunks(specs, OFFER_BYTES)
        ]
        if groups and not await reach("scheduler.offer"):
            self._coordinators.offer(groups)

    def runs_news(self) -> None:
        """Tells the owners that runs have something to hear: a hint, too."""
        self._coordinators.runs_news.set()



def _weigh(item: Item) -> int:
    return len(item[0].payload or b"")


def chunks(specs: list[pb.JobSpec], most: int) -> Iterator[list[pb.JobSpec]]:
    """Runs of `specs` that come to `most` bytes, or just above."""
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
