"""A job of a named task is the same whoever makes it: RunTask, a schedule, a backfill, or a step of a workflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from taskflow import Constant, Job, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

NONE: Any = object()
OPTIONS: dict[str, Any] = {
    "queue": "special", "priority": 7, "retries": 3, "timeout": 30, "heartbeat_timeout": 20, "requested_timeout": 11,
    "in_progress_timeout": 12, "backoff": Constant(5), "sla": 3600, "metadata": {"team": "blue"}, "tags": ["night"],
    "concurrency": 2,
}  # fmt: skip
ORIGIN = ("taskflow.trigger", "taskflow.schedule", "taskflow.instant", "taskflow.run", "taskflow.step")
JOBS = "select id::text, queue, task, priority, retries, payload, encoding, options from taskflow.jobs where task = %s"


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:
        yield app


def make_all(cluster: ServiceCluster, tf: TaskFlow, task: str, payload: Any = NONE) -> dict[str, str]:
    """One job of the task from each that makes some, by what its log tells of its origin."""
    given = {} if payload is NONE else {"payload": payload}
    schedule = tf.schedules.create(task, cron="0 * * * *", **given)
    ((before,),) = rows.found(cluster.dsn, "select taskflow.now()")
    tf.advance_clock(timedelta(hours=2), step=7200)
    (firing,) = eventually(lambda: [f for f in tf.schedules.firings(schedule.id) if f.job_id], 20)
    (late,) = tf.schedules.backfill(schedule.id, start=before).firings
    tf.schedules.delete(schedule.id)
    by_hand = tf.tasks.run(task, *given.values())
    meta = {"task": task} | ({} if payload is NONE else {"input": payload})
    tf.workflows.put({"name": f"of-{task}", "steps": [{"name": "a", "kind": "task", "meta": meta}]})
    run = tf.workflows.start(f"of-{task}")
    (step,) = eventually(lambda: [job for step in tf.workflows.get_run(run.id).steps for job in step.jobs], 20)
    return {"schedule": firing.job_id, "backfill": late.job_id, "manual": by_hand.id, "workflow": step.job_id}


def made_as(cluster: ServiceCluster, handler: str) -> dict[str, tuple[Any, ...]]:
    """The rows of these jobs, without what differs by their origin."""
    found = {}
    for id, *columns, options in rows.found(cluster.dsn, JOBS, handler):
        options["metadata"] = {name: value for name, value in options["metadata"].items() if name not in ORIGIN}
        found[id] = (*columns, options)
    return found


@pytest.mark.feature("S1.1", "S1.2", "R18")
@pytest.mark.parametrize(
    ("name", "own", "given"),
    [
        ("text", "as it stands", NONE),
        ("bytes", b"\x00\xff", NONE),
        ("empty", "", NONE),
        ("none", None, NONE),
        ("given", "not this one", {"n": 1}),
    ],
)
def test_a_job_has_the_options_of_its_task_from_each_source(
    cluster: ServiceCluster, tf: TaskFlow, name: str, own: Any, given: Any
) -> None:
    handler = f"handle-{name}"
    task = tf.tasks.create(f"alike-{name}", target=handler, payload=own, **OPTIONS)

    made = make_all(cluster, tf, task.name, given)

    found = made_as(cluster, handler)
    assert set(found) == set(made.values())
    assert [found[id] for id in made.values()] == 4 * [found[made["manual"]]]
    queue, _, priority, retries, _, _, options = found[made["manual"]]
    assert (queue, priority, retries) == ("special", 7, 3)
    assert (options["task_id"], options["limited"], options["tags"]) == (task.id, True, ["night"])
    assert options["metadata"] == {"team": "blue", "taskflow.task": task.name}
    timed = rows.found(cluster.dsn, "select job_id::text from taskflow.job_slas")
    assert set(made.values()) <= {id for (id,) in timed}


@pytest.mark.feature("S1.2", "S4.4", "R22")
def test_each_job_of_a_task_is_in_its_logs_and_among_its_instances(cluster: ServiceCluster, tf: TaskFlow) -> None:
    task = tf.tasks.create("logged", target="handle", queue="logged", payload={"n": 1})
    made = make_all(cluster, tf, task.name)

    @tf.task(name="handle", queue="logged")
    def handle(job: Job) -> Any:
        return job.payload["n"]

    with working(tf):
        logs = eventually(lambda: len(found := tf.tasks.logs("logged").logs) == len(made) and found, 30)

    assert {log.trigger: log.job_id for log in logs} == made
    assert {log.result for log in logs} == {1}
    instances = rows.found(cluster.dsn, "select id::text from taskflow.task_instances where task_name = 'logged'")
    assert {id for (id,) in instances} == set(made.values())
