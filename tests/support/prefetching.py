"""A worker that has prefetched jobs, for as long as a test needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from taskflow import Job, JobHandle, JobState, NewJob, Outcome, TaskFlow
from tests.support.api import waiting_polls
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

QUICK = 40  # jobs that end at once: by their pace the worker decides how many it prefetches
SLOTS = 2  # a worker with one prefetches nothing
LONG = 10.0  # seconds of `prefetch`: prefetched attempts stay until the test is over


class Scene:
    """A worker, a job for each of its slots that keeps it, and jobs behind those, some of which are prefetched."""

    def __init__(self, cluster: ServiceCluster, queue: str) -> None:
        self.queue = queue
        self._polled = cluster.address("queue")
        self.tf = TaskFlow(cluster.scheduler_address)
        self.first = TaskFlow(cluster.scheduler_address)
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        kinds = ["quick"] * QUICK + ["keep"] * SLOTS + ["behind"] * 4
        jobs = self.tf.new_jobs([NewJob(queue, kind) for kind in kinds])
        self.keeper, self.behind = jobs[QUICK], jobs[QUICK + SLOTS :]

    def handle(self, job: Job) -> None:
        if job.payload == "keep":
            self.begun.release()
            self.go_on.wait(60)

    @contextmanager
    def worker(self, prefetch: float) -> Iterator[TaskFlow]:
        """With its slots kept."""
        options = {"concurrency": SLOTS, "prefetch": prefetch, "grace": 30.0, "name": "first"}
        with working(self.first, self.queue, self.handle, **options):
            assert all(self.begun.acquire(timeout=20) for _ in range(SLOTS))
            try:
                yield self.first
            finally:
                self.go_on.set()

    def prefetched(self) -> list[JobHandle]:
        """Those jobs behind them that are prefetched, once there are any."""
        return eventually(lambda: [job for job in self.behind if job.get().state is JobState.REQUESTED])

    def all_ran_once_elsewhere(self, *, resume: bool = False) -> None:
        """While the slots of the first worker are kept.

        `resume`: the queue, once the second worker waits for its jobs. Before, a poll of the first that came late, as
        on a machine that is short of time, could prefetch them again.
        """
        with working(self.tf, self.queue, self.handle, name="second"):
            if resume:
                eventually(lambda: waiting_polls(self._polled), 20)
                self.tf.queues.resume(self.queue)
            assert {job.wait(timeout=20).state for job in self.behind} == {JobState.SUCCEEDED}
        attempts = [self.tf.jobs.attempts(job.id) for job in self.behind]
        assert [[(a.number, a.outcome, a.worker) for a in found] for found in attempts] == [
            [(1, Outcome.SUCCEEDED, "second")]
        ] * len(self.behind)
        assert not self.keeper.get().state.final, "the slot was kept all the time"

    def close(self) -> None:
        self.go_on.set()
        self.first.close()
        self.tf.close()
