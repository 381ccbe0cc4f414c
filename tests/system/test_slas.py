"""The sla of jobs: a missed one is recorded, counted and shown, once, whatever the job waits for (S1.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from taskflow import Constant, Job, JobState, TaskFlow
from taskflow.errors import InvalidArgument
from tests.support import rows
from tests.support.api import Api
from tests.support.cluster import ServiceCluster
from tests.support.rawexecutor import RawExecutor
from tests.support.rawworker import RawWorker
from tests.support.visitor import metric
from tests.support.waiting import eventually
from tests.support.workers import working

OPEN = "select count(*) from taskflow.job_slas where job_id = %s"
MISSES = "select count(*) from taskflow.job_sla_misses where job_id = %s"
TOLD = "a job has not started within its sla"


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}}, metrics=True)
    running.start_all()
    return running


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as client:
        yield client


def told(cluster: ServiceCluster, job_id: str) -> int:
    """How often the coordinator says that this job has missed its sla."""
    return sum(TOLD in line and job_id in line for line in cluster.log("coordinator").splitlines())


def decided(cluster: ServiceCluster, job_id: str) -> bool:
    return rows.found(cluster.dsn, OPEN, job_id) == [(0,)]


@pytest.mark.feature("S1.1")
def test_a_job_that_never_starts_has_missed_its_sla_when_its_time_has_come(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    tf.tasks.create("late", queue="nobody", sla=600)
    tf.tasks.create("unhurried", queue="nobody")
    waits, cancelled, other = tf.tasks.run("late"), tf.tasks.run("late"), tf.tasks.run("unhurried")
    assert (waits.sla, waits.sla_missed, other.sla) == (600, False, None)
    tf.jobs.cancel(cancelled.id)

    tf.advance_clock(590, step=590)
    assert not tf.jobs.get(waits.id).sla_missed
    tf.advance_clock(12, step=12)

    eventually(lambda: tf.jobs.get(waits.id).sla_missed, timeout=30)
    eventually(lambda: decided(cluster, cancelled.id), timeout=30)
    assert [tf.jobs.get(job.id).sla_missed for job in (cancelled, other)] == [False, False]
    assert [job.sla_missed for job in tf.jobs.list(task="late", states=["ready"])] == [True]
    viewed = "select i.sla_missed, s.sla_missed from taskflow.task_instances i join taskflow.job_states s using (id)"
    assert rows.found(cluster.dsn, viewed + " where id = %s", waits.id) == [(True, True)]
    events = rows.found(cluster.dsn, "select event from taskflow.events where job_id = %s order by at", waits.id)
    assert events == [("submitted",), ("sla_missed",)]
    assert metric(cluster.metrics_port("coordinator"), "taskflow_jobs_sla_missed_total") == 1
    tf.jobs.cancel(waits.id)
    tf.jobs.retry(waits.id)
    assert tf.jobs.get(waits.id).sla_missed, "for good"
    assert (told(cluster, waits.id), told(cluster, cancelled.id)) == (1, 0)
    assert rows.found(cluster.dsn, "select count(*) from taskflow.job_slas") == [(0,)], "none of a job without"


@pytest.mark.feature("S1.1")
def test_an_sla_counts_from_when_a_job_is_due_and_its_first_start_meets_it(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    def fails_first(job: Job) -> None:
        if job.attempt == 1:
            raise ValueError("again")

    delayed = tf.new_job("prompt", sla=30, delay=90, retries=1)
    with working(TaskFlow(cluster.scheduler_address), "prompt", fails_first):
        retried = tf.new_job("prompt", sla=30, retries=1, backoff=Constant(60))
        eventually(lambda: tf.jobs.get(retried.id).state is JobState.RETRYING)
        tf.advance_clock(45)
        eventually(lambda: decided(cluster, retried.id), timeout=30)
        assert not decided(cluster, delayed.id)
        tf.advance_clock(60)
        for job in (retried, delayed):
            job.wait(timeout=30)
        tf.advance_clock(30)
        eventually(lambda: decided(cluster, delayed.id), timeout=30)
    assert [tf.jobs.get(job.id).sla_missed for job in (retried, delayed)] == [False, False]


@pytest.mark.feature("S1.1")
def test_a_job_that_a_worker_has_meets_its_sla_by_its_start_alone(cluster: ServiceCluster, tf: TaskFlow) -> None:
    with Api(cluster.scheduler_address) as api, RawWorker(api, queues=["held"]) as worker:
        started, prefetched = tf.new_job("held", sla=3600), tf.new_job("held", sla=3600)
        first, second = worker.take(), worker.take()
        worker.start(first)
        worker.have[:] = [first.held(started=True), second.held()]

        for job in (started, prefetched):
            rows.run(cluster.dsn, "update taskflow.job_slas set due_at = taskflow.now() where job_id = %s", job.id)

        eventually(lambda: decided(cluster, started.id) and decided(cluster, prefetched.id), timeout=30)
        assert [tf.jobs.get(job.id).sla_missed for job in (started, prefetched)] == [False, True]
        assert tf.jobs.get(prefetched.id).state is JobState.REQUESTED
        worker.start(second)
        assert worker.report(first.outcome(), second.outcome()) == {}
    assert tf.jobs.get(prefetched.id).sla_missed
    assert told(cluster, prefetched.id) == 1


@pytest.mark.feature("S1.1", "S1.4")
def test_jobs_of_schedules_steps_and_keys_have_the_sla_of_their_task(cluster: ServiceCluster, tf: TaskFlow) -> None:
    tf.tasks.create("kept", queue="nobody", sla=86_400)
    tf.workflows.put({"name": "one", "steps": [{"name": "a", "kind": "task", "meta": {"task": "kept"}}]})
    tf.workflows.start("one")
    tf.schedules.create("kept", cron="* * * * *")
    tf.advance_clock(61, step=61)
    keyed = tf.new_job("nobody", key="kept", sla=86_400)

    jobs = eventually(lambda: found if len(found := list(tf.jobs.list(task="kept"))) == 2 else None, timeout=30)

    assert [job.sla for job in jobs] == [86_400, 86_400]
    assert [decided(cluster, job_id) for job_id in (keyed.id, *(job.id for job in jobs))] == [False, False, False]


@pytest.mark.feature("S1.1")
def test_an_executor_s_task_that_was_not_started_in_time_has_missed_its_sla(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    job = tf.new_job("q", task="polled", sla=5, requested_timeout=60)
    with Api(cluster.scheduler_address) as api, RawExecutor(api, tasks=["polled"]) as executor:
        eventually(executor.poll)
        tf.advance_clock(10)
        eventually(lambda: tf.jobs.get(job.id).sla_missed, timeout=30)


@pytest.mark.feature("S1.1")
@pytest.mark.parametrize("point", ["before_sla", "after_sla"])
def test_a_coordinator_that_dies_while_it_records_a_miss_leaves_one_record(
    cluster: ServiceCluster, tf: TaskFlow, point: str
) -> None:
    cluster.restart("coordinator", {"TASKFLOW_FAILPOINTS": f"coordinator.{point}=kill"})
    job = tf.new_job("nobody", sla=0.1)
    cluster.wait_dead("coordinator")
    assert rows.found(cluster.dsn, MISSES, job.id) == [(int(point == "after_sla"),)]

    cluster.start("coordinator")
    cluster.wait_healthy("coordinator")

    eventually(lambda: tf.jobs.get(job.id).sla_missed, timeout=30)
    assert rows.found(cluster.dsn, MISSES, job.id) == [(1,)]
    assert decided(cluster, job.id)


@pytest.mark.feature("S1.1")
def test_an_sla_that_is_none_is_refused_by_field(tf: TaskFlow) -> None:
    for sla in (0, -1, "soon", 1e12):
        with pytest.raises(InvalidArgument) as refused:
            tf.tasks.create("bad", sla=sla)  # type: ignore[arg-type]
        assert refused.value.field == "sla"
