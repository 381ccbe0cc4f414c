"""Named tasks: an app's own, by name or id, on demand or by their schedule (S4)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

from taskflow import Fail, Job, JobFailed, JobState, TaskFlow
from taskflow.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    running.start_all()
    return running


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:

        @app.task(queue="app")
        def double(n: int) -> int:
            if n < 0:
                raise Fail("no negative numbers")
            return 2 * n

        @app.task(queue="app")
        async def awaited(job: Job) -> str:
            return f"{job.payload}, in {job.attempt}"

        worker = threading.Thread(target=app.run, daemon=True)
        worker.start()
        eventually(lambda: len(list(app.workers.list())) == 1)
        yield app
        app.stop()
        worker.join(20)


@pytest.mark.feature("S4.1", "S4.2", "S4.3", "R20")
def test_a_task_is_made_found_and_run_by_name_or_id(tf: TaskFlow) -> None:
    task = tf.tasks.create("double", queue="app", title="Twice", retries=1, schedule="0 8 * * mon")

    assert (task.active, task.target, task.schedule, task.warnings) == (True, "double", "0 8 * * mon", ())
    assert task.next_run_at is not None and (task.next_run_at.weekday(), task.next_run_at.hour) == (0, 8)
    assert tf.tasks.get(task.id) == tf.tasks.get("double")
    assert tf.tasks.run_with_result("double", {"n": 21}) == 42
    job = tf.tasks.run(task.id, {"n": 4})
    assert tf.jobs.wait(job.id, timeout=20).result == 8
    assert [t.name for t in tf.tasks.list()] == ["double"]
    eventually(lambda: tf.tasks.get("double").last_run_at is not None)
    with pytest.raises(AlreadyExists):
        tf.tasks.create("double")
    with pytest.raises(NotFound):
        tf.tasks.get("no-such-task")


@pytest.mark.feature("S4.2", "S4.7", "R21")
def test_a_result_an_error_or_the_end_of_patience_is_what_the_caller_gets(tf: TaskFlow) -> None:
    tf.tasks.create("twice", target="double", queue="app")
    tf.tasks.create("later", target="awaited", queue="app")
    tf.tasks.create("never", queue="app")

    assert tf.tasks.run_with_result("twice", {"n": 1}) == 2
    assert tf.tasks.run_with_result("later", "here") == "here, in 1"
    with pytest.raises(JobFailed, match="no negative numbers"):
        tf.tasks.run_with_result("twice", {"n": -1})
    with pytest.raises(DeadlineExceeded, match="it goes on"):
        tf.tasks.run_with_result("never", timeout=0.3)
    assert [job.state for job in tf.jobs.list(task="never")] == [JobState.READY]


@pytest.mark.feature("S4.4", "R22")
def test_each_run_leaves_a_log_newest_first(tf: TaskFlow) -> None:
    tf.tasks.create("logged", target="double", queue="app")
    for n in (1, -1, 2, -2, 3):
        tf.jobs.wait(tf.tasks.run("logged", {"n": n}).id, timeout=20)

    logs = tf.tasks.logs("logged")

    assert (logs.count, [log.result for log in logs.logs if log.type == "app.task.completed"]) == (5, [6, 4, 2])
    assert {log.task for log in logs.logs} == {"logged"}
    failed = tf.tasks.logs("logged", type="failed", limit=1)
    assert (failed.count, len(failed.logs)) == (2, 1)
    assert failed.logs[0].error is not None and failed.logs[0].error.message == "no negative numbers"
    assert tf.tasks.logs(type="app.task.completed").count >= 3
    with pytest.raises(InvalidArgument, match="neither completed nor failed"):
        tf.tasks.logs("logged", type="done")


@pytest.mark.feature("S4.5", "R18", "R19")
def test_an_inactive_task_fires_no_more_and_can_still_be_run(tf: TaskFlow, cluster: ServiceCluster) -> None:
    task = tf.tasks.create("awaited", queue="app", frequency="*/10 * * * *")
    assert tf.tasks.update("awaited", active=False).next_run_at is None

    tf.advance_clock(3600, step=600)

    by_schedule = {"taskflow.schedule": schedule_of(cluster, "awaited")}
    assert list(tf.jobs.list(task="awaited", metadata=by_schedule)) == []
    assert tf.tasks.run_with_result("awaited", "by hand") == "by hand, in 1"
    on = tf.tasks.update(task.id, active=True)
    now = now_of(cluster)
    assert on.next_run_at is not None and timedelta(0) < on.next_run_at - now <= timedelta(minutes=10)
    tf.advance_clock(1200, step=60)
    eventually(lambda: len(fired(tf, cluster)) == 2)
    assert min(fired(tf, cluster)) > now


@pytest.mark.feature("S4.5")
def test_a_task_s_properties_change_and_it_goes_with_its_schedule(tf: TaskFlow, cluster: ServiceCluster) -> None:
    task = tf.tasks.create("changing", target="double", schedule="@daily")
    changed = tf.tasks.update(
        task.id, name="changed", queue="app", title="New", schedule="0 12 * * *", time_zone="Asia/Tokyo"
    )

    assert (changed.name, changed.queue, changed.title, changed.schedule) == ("changed", "app", "New", "0 12 * * *")
    assert changed.next_run_at is not None and changed.next_run_at.hour == 3
    assert tf.tasks.run_with_result("changed", {"n": 5}) == 10
    assert tf.tasks.update("changed", schedule="").next_run_at is None
    tf.tasks.update("changed", schedule="@hourly")
    tf.tasks.remove("changed")
    with pytest.raises(NotFound):
        tf.tasks.get("changed")
    assert rows.found(cluster.dsn, "select 1 from taskflow.schedules where task in ('changing', 'changed')") == []


@pytest.mark.feature("S4.1", "R20")
def test_a_bad_task_is_refused_by_field(tf: TaskFlow) -> None:
    for name, options, field in (
        ("bad name", {}, "task.name"),
        ("bad", {"schedule": "61 * * * *"}, "task.schedule"),
        ("bad", {"retries": -1}, "task.retries"),
        ("bad", {"frequency": "@daily", "schedule": "@daily"}, "frequency"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            tf.tasks.create(name, **options)  # type: ignore[arg-type]
        assert refused.value.field == field
    assert tf.tasks.create("unseen").warnings == ("HANDLER_NOT_SEEN",)
    with pytest.raises(FailedPrecondition, match="no worker has registered"):
        tf.tasks.create("required", require_handler=True)


def schedule_of(cluster: ServiceCluster, task: str) -> str:
    ((schedule_id,),) = rows.found(cluster.dsn, "select id from taskflow.schedules where task = %s and owned", task)
    return str(schedule_id)


def fired(tf: TaskFlow, cluster: ServiceCluster) -> list[datetime]:
    firings = tf.schedules.firings(schedule_of(cluster, "awaited"))
    return [f.instant for f in firings if f.state == "fired"]


def now_of(cluster: ServiceCluster) -> datetime:
    ((now,),) = rows.found(cluster.dsn, "select taskflow.now()")
    assert isinstance(now, datetime)
    return now
