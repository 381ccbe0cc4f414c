"""The concurrency of a named task: how many of its jobs run at once in the cluster (R18, B4)."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest

from taskflow import Constant, Job, JobState, NewJob, TaskFlow
from taskflow.errors import InvalidArgument
from taskflow.v1 import jobs_pb2, jobs_pb2_grpc
from tests.support.cluster import ServiceCluster
from tests.support.gates import Gate
from tests.support.prefetching import LONG, QUICK, SLOTS
from tests.support.waiting import eventually
from tests.support.workers import working

DEPTH = 10  # jobs of one limit in memory
IN_MEMORY = 40  # of all limits
LIMITS, EACH = 6, 18  # tasks, and jobs of each: more than wait in memory
MISSES = "select job_id from taskflow.job_sla_misses where job_id in ('{}', '{}')"
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    settings = {"TASKFLOW_BLOCKED_DEPTH": str(DEPTH), "TASKFLOW_BLOCKED_IN_MEMORY": str(IN_MEMORY)}
    running = make_cluster(env={"coordinator": settings})
    running.start_all()
    return running


@dataclass
class Scene:
    """A handler that stops at a gate, and a named task for it."""

    tf: TaskFlow
    dsn: str
    name: str
    gate: Gate = field(default_factory=Gate)
    failing: set[str] = field(default_factory=set)  # jobs

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn) as conn:
            return conn.execute(query).fetchall()

    @property
    def in_postgres(self) -> int:
        query = f"select from taskflow.deferred where blocked_by is not null and task = '{self.name}'"
        return len(self.rows(query))

    def ended(self) -> None:
        """Every job of the handler has succeeded or was cancelled, and nothing is left of its waiting."""
        query = f"""select from taskflow.jobs j join taskflow.job_facts f on f.id = j.id
            where j.task = '{self.name}' and f.state not in (6, 8)"""
        eventually(lambda: not self.rows(query), 30)
        assert not self.in_postgres

    def inside(self, count: int, name: str = "") -> None:
        eventually(lambda: self.gate.inside[name or self.name] == count, 20)


@pytest.fixture
def scene(cluster: ServiceCluster) -> Iterator[Scene]:
    with TaskFlow(cluster.scheduler_address) as tf:
        scene = Scene(tf, cluster.dsn, f"narrow-{next(_numbers)}")
        yield scene
        scene.gate.open()


@contextmanager
def served(
    scene: Scene, cluster: ServiceCluster, *names: str, workers: int = 2, slots: int = 20, **options: Any
) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(workers):
            tf = stack.enter_context(TaskFlow(cluster.scheduler_address))
            for name in names or (scene.name,):

                @tf.task(name=name, queue="q")
                def handle(job: Job, name: str = name) -> str:
                    scene.gate.pass_through(name, job)
                    if job.id in scene.failing:
                        raise RuntimeError("told to fail")
                    return "done"

            stack.enter_context(working(tf, concurrency=slots, **options))
        stack.callback(scene.gate.open)
        yield


@contextmanager
def paused(tf: TaskFlow, queue: str) -> Iterator[None]:
    tf.queues.pause(queue)
    try:
        yield
    finally:
        tf.queues.resume(queue)


@pytest.mark.feature("S1.1", "R17", "R18", "B4")
def test_no_more_than_its_concurrency_run_at_once_whoever_made_them(scene: Scene, cluster: ServiceCluster) -> None:
    tf, name, other = scene.tf, scene.name, f"{scene.name}-other"
    tf.tasks.create(name, queue="q", concurrency=3)
    tf.tasks.create(other, queue="q", target=name)  # the same handler, so the same lane
    with served(scene, cluster):
        at = datetime.now(UTC) + timedelta(seconds=0.5)
        tf.schedules.create(name, at=at)
        steps = [{"name": step, "kind": "task", "meta": {"task": name}} for step in ("a", "b")]
        tf.workflows.put({"name": f"{name}-run", "steps": steps})
        tf.workflows.start(f"{name}-run")
        for _ in range(30):
            tf.tasks.run(name)
        scene.inside(3)
        eventually(lambda: scene.in_postgres, 20)
        unlimited = [tf.tasks.run(other) for _ in range(4)]
        scene.inside(7)  # they stand behind those that wait, and are not held up
        assert {job.id for job in unlimited} <= set(scene.gate.entered)
        ready = [JobState.READY]
        eventually(lambda: len(list(tf.jobs.list(task=name, states=ready))) == 30, 20)  # those by schedule and run, too
        scene.gate.open()
        scene.ended()


@pytest.mark.feature("S1.1")
def test_a_job_says_that_it_waits_for_the_concurrency_of_its_task(scene: Scene, cluster: ServiceCluster) -> None:
    tf, name = scene.tf, scene.name
    tf.tasks.create(name, queue="q", concurrency=1, sla=0.05)
    with served(scene, cluster):
        jobs = [tf.tasks.run(name) for _ in range(2 * DEPTH + 5)]
        scene.inside(1)
        eventually(lambda: scene.in_postgres, 20)
        eventually(lambda: len(scene.rows(MISSES.format(jobs[1].id, jobs[-1].id))) == 2, 20)  # of its sla
        for job in (jobs[1], jobs[-1]):  # one waits in memory, the other in Postgres alone
            found = tf.jobs.get(job.id)
            (said,) = [w for w in found.warnings if w.reason == "CONCURRENCY"]
            assert said.message == f"waits for the concurrency of task {name}, of which 1 may run at once"
            assert found.state is JobState.READY
        assert tf.queues.get("q").ready == len(jobs) - 1


@pytest.mark.feature("S1.1", "B4")
def test_beyond_a_depth_jobs_wait_in_postgres_alone_and_run_in_their_order(
    scene: Scene, cluster: ServiceCluster
) -> None:
    tf, name = scene.tf, scene.name
    tf.tasks.create(name, queue="q", concurrency=2)
    with served(scene, cluster):
        jobs = [tf.tasks.run(name).id for _ in range(5 * DEPTH)]
        scene.inside(2)
        eventually(lambda: scene.in_postgres >= 2 * DEPTH, 20)
        urgent = tf.tasks.run(name, priority=9).id
        eventually(lambda: tf.jobs.get(urgent).warnings, 20)  # its owner knows it
        scene.gate.let(name)
        eventually(lambda: urgent in scene.gate.entered, 20)
        scene.gate.open()
        scene.ended()
    assert scene.gate.entered.index(urgent) <= 3
    assert scene.gate.most[name] == 2
    order = [jobs.index(job) for job in scene.gate.entered if job != urgent]
    assert all(abs(place - index) <= 2 for index, place in enumerate(order)), order  # two run side by side


@pytest.mark.feature("S1.1")
def test_prefetched_jobs_count_and_a_paused_queue_gets_none_of_those_that_wait(
    scene: Scene, cluster: ServiceCluster
) -> None:
    tf, name = scene.tf, scene.name
    tf.tasks.create(name, queue="q", concurrency=3)
    scene.gate.let(name, QUICK)
    tf.new_jobs([NewJob("q", task=name) for _ in range(QUICK)])  # by their pace the worker prefetches
    jobs = [tf.tasks.run(name).id for _ in range(6)]
    with served(scene, cluster, workers=1, slots=SLOTS, prefetch=LONG):

        def states() -> Counter[str]:
            return Counter(tf.jobs.get(job).state for job in jobs)

        eventually(lambda: states() == {JobState.RUNNING: 2, JobState.REQUESTED: 1, JobState.READY: 3}, 20)
        with paused(tf, "q"):
            eventually(lambda: states() == {JobState.RUNNING: 2, JobState.READY: 4}, 20)
            scene.gate.let(name, 2)
            eventually(lambda: states() == {JobState.SUCCEEDED: 2, JobState.READY: 4}, 20)
            assert not scene.gate.inside[name]
        scene.inside(2)
        scene.gate.open()
        scene.ended()
    assert scene.gate.most[name] == SLOTS


@pytest.mark.feature("S1.1", "B4")
def test_many_limits_share_the_memory_and_hold_up_nobody(scene: Scene, cluster: ServiceCluster) -> None:
    tf, other = scene.tf, f"{scene.name}-other"
    names = [f"{scene.name}-{number}" for number in range(LIMITS)]
    with served(scene, cluster, *names, other):
        for name in names:
            tf.tasks.create(name, queue="q", concurrency=1)
        with ThreadPoolExecutor(4) as pool:
            jobs = list(pool.map(tf.tasks.run, names * EACH))
        for name in names:
            scene.inside(1, name)
        waiting = "select from taskflow.deferred where blocked_by is not null"
        eventually(lambda: len(scene.rows(waiting)) >= len(jobs) - LIMITS - IN_MEMORY, 20)
        free = tf.new_job("q", task=other)
        scene.inside(1, other)
        scene.gate.open()
        ended = "select from taskflow.attempts where final and job_id = any(array{}::uuid[])"
        eventually(lambda: len(scene.rows(ended.format([job.id for job in jobs]))) == len(jobs), 30)
    assert {scene.gate.most[name] for name in names} == {1}
    assert sorted(scene.gate.entered) == sorted([*(job.id for job in jobs), free.id]), "each once"


@pytest.mark.feature("S1.1")
def test_a_change_of_the_concurrency_counts_for_what_is_dispatched_next(scene: Scene, cluster: ServiceCluster) -> None:
    tf, name = scene.tf, scene.name
    tf.tasks.create(name, queue="q")
    for _ in range(40):  # all of them in the queue service, without a worker
        tf.tasks.run(name)
    assert tf.tasks.get(name).concurrency == 0
    assert tf.tasks.update(name, concurrency=2).concurrency == 2
    with served(scene, cluster):
        scene.inside(2)
        tf.tasks.update(name, concurrency=5)
        scene.inside(5)
        tf.tasks.update(name, concurrency=1)
        for left in (4, 3, 2, 1):
            scene.gate.let(name)
            scene.inside(left)
        scene.gate.let(name)
        eventually(lambda: len(scene.gate.entered) == 6, 20)
        scene.inside(1)
        tf.tasks.update(name, concurrency=0)
        scene.inside(35)
        scene.gate.open()
        scene.ended()


@pytest.mark.feature("S1.1")
def test_jobs_that_wait_for_a_permit_are_cancelled_and_freed_with_their_task(
    scene: Scene, cluster: ServiceCluster
) -> None:
    tf, name = scene.tf, scene.name
    tf.tasks.create(name, queue="q", concurrency=1)
    with served(scene, cluster):
        jobs = [tf.tasks.run(name) for _ in range(2 * DEPTH + 5)]
        scene.inside(1)
        eventually(lambda: scene.in_postgres, 20)
        for job in (jobs[1], jobs[-1]):
            tf.jobs.cancel(job.id)
            assert tf.jobs.get(job.id).state is JobState.CANCELLED
        tf.tasks.remove(name)  # nothing limits its jobs any more
        scene.inside(len(jobs) - 2)
        scene.gate.open()
        scene.ended()
    assert not {jobs[1].id, jobs[-1].id} & set(scene.gate.entered)


@pytest.mark.feature("S1.1")
def test_a_job_that_waits_for_a_permit_expires_by_its_start_by(scene: Scene, cluster: ServiceCluster) -> None:
    tf, name = scene.tf, scene.name
    task = tf.tasks.create(name, queue="q", concurrency=1)
    spec = jobs_pb2.JobSpec(queue="q", task=name, options=jobs_pb2.JobOptions(task_id=task.id, limited=True))
    spec.options.start_by.FromDatetime(datetime.now(UTC) + timedelta(seconds=2))
    with served(scene, cluster), grpc.insecure_channel(cluster.scheduler_address) as channel:
        tf.tasks.run(name)
        scene.inside(1)
        jobs = jobs_pb2_grpc.JobServiceStub(channel)
        late = jobs.CreateJob(jobs_pb2.CreateJobRequest(job=spec), timeout=10)
        eventually(lambda: tf.jobs.get(late.id).state is JobState.CANCELLED, 20)
        error = tf.jobs.get(late.id).error
        assert error is not None and error.type == "expired"
        assert late.id not in scene.gate.entered


@pytest.mark.feature("S1.1")
def test_a_retry_that_waits_for_its_time_holds_no_permit(scene: Scene, cluster: ServiceCluster) -> None:
    tf, name = scene.tf, scene.name
    tf.tasks.create(name, queue="q", concurrency=1, retries=1, backoff=Constant(3600))
    scene.failing.add(tf.tasks.run(name).id)
    with served(scene, cluster):
        scene.inside(1)
        second = tf.tasks.run(name)
        scene.gate.let(name)
        eventually(lambda: second.id in scene.gate.entered, 20)
        assert tf.jobs.get(scene.gate.entered[0]).state is JobState.RETRYING


@pytest.mark.feature("S1.1")
@pytest.mark.parametrize("wrong", [-1, 1_000_001, True, "3"])
def test_a_concurrency_that_is_no_number_of_jobs_is_refused(scene: Scene, wrong: object) -> None:
    with pytest.raises(InvalidArgument, match=r"concurrency: .* 0 to 1,000,000"):
        scene.tf.tasks.create(scene.name, concurrency=wrong)  # type: ignore[arg-type]
