"""The jobs of a cluster in memory, and what the apps' calls do to them."""

from __future__ import annotations

import threading
from datetime import UTC

from taskflow import errors
from taskflow._jobs.batching import Created
from taskflow._values.jobs import JobInfo
from taskflow.testing._clock import MovedClock
from taskflow.testing._handlers import AppHandlers
from taskflow.testing._jobs import MemoryJob
from taskflow.testing._specs import check, fill, qualified
from taskflow.testing._worker import MemoryWorker
from taskflow.v1 import jobs_pb2


class MemoryJobs:
    """By id and by key. The worker is told of each that has something to do."""

    def __init__(self, handlers: AppHandlers, worker: MemoryWorker, clock: MovedClock) -> None:
        self.clock = clock
        self.closed = False
        self._handlers = handlers
        self._worker = worker
        self._jobs: dict[str, MemoryJob] = {}
        self._keys: dict[tuple[str, str], MemoryJob] = {}
        self._lock = threading.Lock()

    def all(self) -> list[MemoryJob]:
        """In the order in which they were made."""
        return list(self._jobs.values())

    def queue_names(self) -> set[str]:
        return {"default", *self._handlers.of_queue, *(job.queue for job in self._jobs.values())}

    def find(self, job_id: str) -> MemoryJob:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise errors.NotFound(f"there is no job {job_id}", reason="JOB_NOT_FOUND") from None

    def admit(self, specs: list[jobs_pb2.JobSpec], first: int = 0) -> list[Created]:
        """Makes all of these jobs or none, as a scheduler does. InvalidArgument names the place, from `first` on."""
        if self.closed:
            raise errors.FailedPrecondition("this cluster of taskflow.testing is closed", reason="CLOSED")
        for index, spec in enumerate(specs, first):
            fill(spec, self._handlers.defaults_of(qualified(spec.task)))
            check(spec, f"jobs[{index}]")
        with self._lock:
            return [self._admit(spec) for spec in specs]

    def _admit(self, spec: jobs_pb2.JobSpec) -> Created:
        spec.queue, spec.task = qualified(spec.queue), qualified(spec.task)
        if spec.key:
            key = (spec.queue.rpartition("/")[0], spec.key)
            if key in self._keys:
                return self._keys[key].spec.id, True, ()
        job = MemoryJob(spec, self.clock)
        if spec.HasField("run_at"):
            job.schedule(spec.run_at.ToDatetime(UTC))
        elif spec.HasField("delay") and spec.delay.ToMicroseconds():
            job.schedule(self.clock.now().astimezone(UTC) + spec.delay.ToTimedelta())
        if spec.key:
            self._keys[key] = job
        self._jobs[job.id] = job
        self._worker.arrived(job)
        return spec.id, False, ()

    def cancel(self, job: MemoryJob, reason: str) -> JobInfo:
        if job.final:
            raise errors.FailedPrecondition(
                f"job {job.id} is finished and cannot be cancelled", reason="JOB_FINISHED"
            )
        self._worker.cancel(job, reason.replace("\0", "")[:1000])
        return job.info

    def retry(self, job: MemoryJob) -> JobInfo:
        if not job.final:
            raise errors.FailedPrecondition(
                f"job {job.id} is not finished; only a succeeded, failed or cancelled job is retried by hand",
                reason="JOB_NOT_FINISHED",
            )
        job.retry_by_hand()
        self._worker.arrived(job)
        return job.info
