"""`@tf.task(schedule=…)`: the worker's start makes the named task, or changes it; any number of workers at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from taskflow import Constant, Exponential, TaskFlow
from taskflow.errors import InvalidArgument
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually


def app_of(
    cluster: ServiceCluster, schedule: str, *, time_zone: str | None = None, retries: int = 0,
    concurrency: int | None = None,
) -> TaskFlow:  # fmt: skip
    app = TaskFlow(cluster.scheduler_address)

    @app.task(
        queue="declared", name="tick", schedule=schedule, time_zone=time_zone, retries=retries, concurrency=concurrency
    )
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

    tf.tasks.update("tick", active=False, title="By hand", concurrency=4)
    with working(app_of(cluster, "* * * * * *", retries=2)):
        eventually(lambda: tf.tasks.get("tick").schedule == "* * * * * *")
        changed = tf.tasks.get("tick")
        assert (changed.id, changed.time_zone, changed.retries) == (first.id, "UTC", 2)
        assert (changed.active, changed.title) == (False, "By hand"), "what is not declared is left alone"
        assert changed.concurrency == 4
        assert rows.found(cluster.dsn, OWNED) == [(schedule,)]

        tf.tasks.update("tick", active=True)
        eventually(lambda: {job.result for job in tf.jobs.list(task="tick")} >= {7})
    with working(app_of(cluster, "* * * * * *", retries=2, concurrency=1)):
        eventually(lambda: tf.tasks.get("tick").concurrency == 1)
    tf.tasks.remove("tick")


def whole_app(cluster: ServiceCluster, **fields: object) -> TaskFlow:
    app = TaskFlow(cluster.scheduler_address)

    @app.task(queue="declared", priority="high", retries=2, timeout=9, backoff=Constant(3), **fields)  # type: ignore[call-overload]
    def whole(n: int) -> int:
        return n

    return app


@pytest.mark.feature("S1.1")
def test_every_field_of_a_task_can_be_declared_and_what_is_not_stays(cluster: ServiceCluster, tf: TaskFlow) -> None:
    start, end = datetime(2098, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
    times = {"schedule": "0 8 * * *", "time_zone": "Asia/Tokyo", "start": start, "end": end}
    words = {"title": "Whole", "description": "All of it", "active": False, "payload": {"n": 4}}
    with working(whole_app(cluster, sla=60, **times, **words)):
        eventually(lambda: [task.name for task in tf.tasks.list()] == ["whole"])
    made = tf.tasks.get("whole")
    assert {name: getattr(made, name) for name in (*times, *words)} == times | words
    assert (made.sla, made.target, made.queue, made.priority, made.retries) == (60, "whole", "declared", 7, 2)
    assert (made.timeout, made.backoff) == (9, Exponential(first=3, factor=1, limit=3))
    # Jobs by its name have it too, once the scheduler knows that the worker has registered the handler.
    eventually(lambda: tf.new_job(task="whole", payload={"n": 1}).get().sla == 60)

    with working(whole_app(cluster, schedule="0 9 * * *", payload={"n": 5})):
        eventually(lambda: tf.tasks.get("whole").schedule == "0 9 * * *")
    changed = tf.tasks.get("whole")
    assert (changed.start, changed.end, changed.time_zone, changed.sla) == (None, None, "UTC", None)
    assert (changed.title, changed.description, changed.active) == ("Whole", "All of it", False)
    assert changed.payload == {"n": 5}
    with working(whole_app(cluster, title="On demand")):
        eventually(lambda: tf.tasks.get("whole").title == "On demand")
    assert tf.tasks.get("whole").schedule == "0 9 * * *", "the code says nothing of it"
    tf.tasks.remove("whole")


@pytest.mark.feature("S1.1")
@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"start": datetime(2099, 1, 1, tzinfo=UTC)}, "start"),
        ({"schedule": "@daily"}, "schedule"),
        ({"schedule": "@daily", "payload": {"m": 1}}, "payload"),
        ({"sla": 0}, "sla"),
        ({"title": 7}, "title"),
    ],
)
def test_a_declared_field_that_cannot_be_is_refused_at_the_decorator(
    cluster: ServiceCluster, fields: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        whole_app(cluster, **fields)
    assert refused.value.field == field


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
