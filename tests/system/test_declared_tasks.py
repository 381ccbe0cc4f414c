"""`@tf.task(schedule=…)`: the worker's start makes the named task, or changes it; any number of workers at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from taskflow import TaskFlow
from taskflow.errors import InvalidArgument
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually


def app_of(cluster: ServiceCluster, schedule: str, *, time_zone: str | None = None, retries: int = 0) -> TaskFlow:
    app = TaskFlow(cluster.scheduler_address)

    @app.task(queue="declared", name="tick", schedule=schedule, time_zone=time_zone, retries=retries)
    def tick(n: int = 7) -> int:
        return n

    return app


@contextmanager
def working(*apps: TaskFlow) -> Iterator[None]:
    """These run at the same time."""
    workers = [threading.Thread(target=app.run, kwargs={"name": f"w{n}"}, daemon=True) for n, app in enumerate(apps)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for app in apps:
            app.stop()
        for worker in workers:
            worker.join(30)
        for app in apps:
            app.close()


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:
        yield app


OWNED = "select id from taskflow.schedules where task = 'tick' and owned"


@pytest.mark.feature("S4.1", "S4.5")
def test_a_declared_task_is_made_once_and_changed_where_it_differs(cluster: ServiceCluster, tf: TaskFlow) -> None:
    with working(*(app_of(cluster, "0 8 * * mon", time_zone="Europe/Berlin") for _ in range(4))):
        eventually(lambda: len(list(tf.workers.list())) == 4)
        eventually(lambda: [t.schedule for t in tf.tasks.list()] == ["0 8 * * mon"])
    first = tf.tasks.get("tick")
    ((schedule,),) = rows.found(cluster.dsn, OWNED)
    assert (first.queue, first.time_zone, first.retries, first.active) == ("declared", "Europe/Berlin", 0, True)

    tf.tasks.update("tick", active=False, title="By hand")
    with working(app_of(cluster, "* * * * * *", retries=2)):
        eventually(lambda: tf.tasks.get("tick").schedule == "* * * * * *")
        changed = tf.tasks.get("tick")
        assert (changed.id, changed.time_zone, changed.retries) == (first.id, "UTC", 2)
        assert (changed.active, changed.title) == (False, "By hand"), "what is not declared is left alone"
        assert rows.found(cluster.dsn, OWNED) == [(schedule,)]

        tf.tasks.update("tick", active=True)
        eventually(lambda: {job.result for job in tf.jobs.list(task="tick")} >= {7})
    tf.tasks.remove("tick")


@pytest.mark.feature("S4.1")
def test_a_declaration_that_cannot_be_is_refused_by_field(cluster: ServiceCluster) -> None:
    with app_of(cluster, "61 * * * *") as app, pytest.raises(InvalidArgument) as refused:
        app.run(signals=False)
    assert refused.value.field == "task.schedule"

    with TaskFlow(cluster.scheduler_address) as app:
        with pytest.raises(InvalidArgument, match=r"schedule: .* month: .* needs it"):

            @app.task(schedule="@daily")
            def report(month: int) -> None: ...

        with pytest.raises(InvalidArgument, match="time_zone"):
            app.task(print_nothing, time_zone="UTC")  # type: ignore[call-overload]


def print_nothing() -> None: ...
