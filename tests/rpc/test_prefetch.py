"""Attempts that a worker has beyond its slots: they start within a moment or are returned (R4)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from taskflow import Job, JobState, NewJob, Outcome, TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import queue_pb2
from tests.support.api import TIMEOUT, Api, pending, spec
from tests.support.cluster import ServiceCluster
from tests.support.prefetching import LONG, QUICK, SLOTS, Scene
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually
from tests.support.workers import working


@pytest.fixture
def scene(cluster: ServiceCluster, queue: str) -> Iterator[Scene]:
    made = Scene(cluster, queue)
    yield made
    made.close()


@pytest.mark.feature("R4", "X.22")
def test_a_draining_worker_returns_prefetched_jobs_at_once_and_no_try_is_used(scene: Scene) -> None:
    with scene.worker(LONG) as first:
        assert scene.prefetched()
        first.stop()
        scene.all_ran_once_elsewhere()


@pytest.mark.feature("R4", "X.9")
def test_prefetched_jobs_of_a_queue_are_returned_when_the_queue_is_paused(scene: Scene) -> None:
    with scene.worker(LONG):
        assert scene.prefetched()
        scene.tf.queues.pause(scene.queue)
        eventually(lambda: {job.get().state for job in scene.behind} == {JobState.READY})
        assert not scene.keeper.get().state.final, "the slot was kept all the time"
        scene.all_ran_once_elsewhere(resume=True)


@pytest.mark.feature("R7", "X.10")
def test_a_prefetched_job_is_cancelled_at_once(scene: Scene) -> None:
    with scene.worker(LONG):
        job = scene.prefetched()[-1]
        job.cancel()
        eventually(lambda: job.get().state is JobState.CANCELLED)
        assert not scene.keeper.get().state.final, "the slot was kept all the time"
        (attempt,) = scene.tf.jobs.attempts(job.id)
        assert (attempt.outcome, attempt.start_time) == (Outcome.CANCELLED, None)
        assert attempt.error is not None and attempt.error.type == "Cancelled", "by its worker, not after the grace"


@pytest.mark.feature("R4")
def test_a_job_behind_a_long_one_goes_to_a_worker_that_is_free(scene: Scene) -> None:
    """By default prefetched jobs are returned after 50 ms, here after 2.5 s."""
    with scene.worker(0.5):
        scene.all_ran_once_elsewhere()


@pytest.mark.feature("R4")
def test_a_worker_of_long_handlers_prefetches_nothing(cluster: ServiceCluster, tf: TaskFlow, queue: str) -> None:
    running, go_on = threading.Semaphore(0), threading.Event()

    def slow(job: Job) -> None:
        running.release()
        go_on.wait(60)

    with (
        TaskFlow(cluster.scheduler_address) as first,
        working(first, queue, slow, concurrency=2, prefetch=LONG, name="first"),
    ):
        jobs = tf.new_jobs([NewJob(queue) for _ in range(6)])
        assert all(running.acquire(timeout=20) for _ in range(2))
        with working(tf, queue, lambda job: None, name="second"):
            assert {job.wait(timeout=20).state for job in jobs[2:]} == {JobState.SUCCEEDED}
        go_on.set()
    assert {a.worker for job in jobs[2:] for a in tf.jobs.attempts(job.id)} == {"second"}


@pytest.mark.feature("R4")
def test_a_killed_worker_takes_along_no_job_that_waits_behind_a_long_one(
    cluster: ServiceCluster, tf: TaskFlow, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    notes.touch()
    kinds = [("echo", 0)] * QUICK + [("doze", {"seconds": 60})] * SLOTS + [("echo", 1)] * 4
    jobs = tf.new_jobs([NewJob("sdk", payload, task=task) for task, payload in kinds])
    keeper, behind = jobs[QUICK], jobs[QUICK + SLOTS :]
    app = ("-m", "tests.support.sdk_app", cluster.scheduler_address, str(notes), "few", f"concurrency={SLOTS}")
    worker = cluster.run("prefetching", *app)
    eventually(lambda: notes.read_text().count("start doze") == SLOTS, 20)
    eventually(lambda: all(job.get().state is JobState.READY for job in behind))

    worker.kill()
    second = cluster.run("prefetching-2", *app)

    assert [job.wait(timeout=20).attempt for job in behind] == [1] * 4
    eventually(lambda: keeper.get().state is JobState.FAILED)
    second.kill()


@pytest.mark.feature("S3.4")
def test_prefetched_jobs_are_shown_as_requested_and_not_as_running(scene: Scene) -> None:
    with scene.worker(LONG):
        assert scene.prefetched()

        def shown() -> bool:
            """The last quick jobs may not be committed at first."""
            behind = [job.get().state for job in scene.behind]
            queue = scene.tf.queues.get(scene.queue)
            (worker,) = [w for w in scene.tf.workers.list() if w.name == "first"]
            requested = behind.count(JobState.REQUESTED)
            return (queue.running, queue.requested, queue.ready, worker.running, worker.requested) == (
                SLOTS, requested, len(behind) - requested, SLOTS, requested,
            )  # fmt: skip

        eventually(shown)


@pytest.mark.feature("R13")
def test_a_prefetched_job_that_is_returned_keeps_its_place_before_those_that_wait(
    cluster: ServiceCluster, api: Api, queue: str
) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        jobs = [api.new(queue).id for _ in range(6)]
        eventually(lambda: pending(cluster.address("queue"), queue) == 6)
        handed = worker.poll(most=3, prefetch=2)
        given_back = [each.outcome(pb.OUTCOME_RETURNED, started=False, prefetched=True) for each in handed[1:]]
        worker.report(handed[0].outcome(), *given_back)
        eventually(lambda: pending(cluster.address("queue"), queue) == 5)

        order = [str(UUID(bytes=worker.take().task.job_id)) for _ in range(5)]

    assert order == jobs[1:]


@pytest.mark.feature("R4")
def test_returns_of_prefetched_jobs_are_not_capped(api: Api, queue: str) -> None:
    """Other returns without a start are: three here, by setting."""
    with RawWorker(api, queues=[queue]) as worker:
        job = api.new(queue)
        for _ in range(5):
            handed = worker.poll(most=2, prefetch=1)[0]
            worker.report(handed.outcome(pb.OUTCOME_RETURNED, started=False, prefetched=True))
        worker.report(worker.take().outcome())

    final = api.wait(job.id, 10)
    assert (final.state, final.attempt) == (pb.JOB_STATE_SUCCEEDED, 1)


def test_jobs_to_prefetch_are_handed_out_at_once_or_not_at_all(api: Api, queue: str) -> None:
    with RawWorker(api, queues=[queue]) as worker:
        assert worker.poll(most=5, seconds=60, prefetch=5) == [], "without a wait"

        waited: list[int] = []
        poll = threading.Thread(target=lambda: waited.append(len(worker.poll(most=6, prefetch=4))))
        poll.start()
        eventually(lambda: worker.queue_service.Stats(queue_pb2.StatsRequest(), timeout=TIMEOUT).waiting_polls)
        api.jobs.CreateJobs(pb.CreateJobsRequest(jobs=[spec(queue) for _ in range(10)]), timeout=TIMEOUT)
        poll.join(TIMEOUT)
        assert 1 <= waited[0] <= 2, "after a wait, for the free slots only"

        eventually(lambda: _pending(worker, queue) == 10 - waited[0])
        assert len(worker.poll(most=6, prefetch=4)) == 6


def _pending(worker: RawWorker, queue: str) -> int:
    stats = worker.queue_service.Stats(queue_pb2.StatsRequest(), timeout=TIMEOUT)
    return sum(lane.pending for lane in stats.lanes if lane.queue == queue)
