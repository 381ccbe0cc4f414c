"""Whatever a handler does or returns, its attempt ends with an outcome that names the cause, and its slot is freed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from taskflow import Constant, JobHandle, JobInfo, JobUnsuccessful, TaskFlow
from tests.support.cluster import Program, ServiceCluster
from tests.support.hostile_app import ENDS, IN_TASKS, NOTES
from tests.support.waiting import eventually

KINDS = ("in_thread", "on_loop", "in_process", "in_process_loop")


@pytest.fixture(scope="module")
def worker(cluster: ServiceCluster) -> Program:
    """With two slots: those of a third attempt that was wedged would be missed."""
    return cluster.run("hostile", "-m", "tests.support.hostile_app", "hostile")


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster, worker: Program) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as made:
        yield made


def new(tf: TaskFlow, task: str, payload: Any = None, queue: str = "hostile", **options: Any) -> JobHandle:
    return tf.new_job(queue, payload, task=task, **options)


def ended(job: JobHandle) -> JobInfo:
    try:
        return job.wait(timeout=20)
    except JobUnsuccessful as error:
        return error.job


@pytest.fixture(scope="module")
def beside(cluster: ServiceCluster) -> Program:
    """The same in an application of its own event loop, by AsyncTaskFlow."""
    return cluster.run("beside", "-m", "tests.support.hostile_app", "hostile-async", "async")


@pytest.mark.feature("R14")
@pytest.mark.parametrize("queue", ["hostile", "hostile-async"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_end_of_a_handler_is_an_outcome_that_names_the_cause(
    tf: TaskFlow, beside: Program, kind: str, queue: str
) -> None:
    jobs = {how: new(tf, kind, how, queue) for how in ENDS}

    ends = {how: ended(job) for how, job in jobs.items()}

    assert {how: (str(end.state), end.error and end.error.type) for how, end in ends.items()} == {
        how: ("failed", type_name) for how, (_, type_name) in ENDS.items()
    }
    assert [new(tf, kind, queue=queue).wait(timeout=20).result for _ in range(3)] == ["pong"] * 3
    assert beside.alive and "work ended" not in beside.output


@pytest.mark.parametrize(
    ("kind", "queue"), [("on_loop", "hostile"), ("on_loop", "hostile-async"), ("in_process_loop", "hostile")]
)
def test_an_exit_in_a_task_of_a_handler_ends_its_job_alone(
    tf: TaskFlow, worker: Program, beside: Program, kind: str, queue: str
) -> None:
    ends = {how: ends for how, (_, ends) in IN_TASKS.items() if (kind, how) != ("in_process_loop", "left behind")}
    for how, type_name in ends.items():  # a loop of a job of its own ends as its task does
        for _ in range(2):
            end = ended(new(tf, kind, how, queue))
            assert (how, end.error.type if end.error else "") == (how, type_name)

    assert new(tf, kind, queue=queue).wait(timeout=20).result == "pong"
    assert worker.alive
    assert beside.alive and "work ended" not in beside.output, "the application goes on"


def test_a_worker_beside_an_application_ends_in_order_after_exits_in_its_tasks(
    tf: TaskFlow, cluster: ServiceCluster
) -> None:
    worker = cluster.run("leaving", "-m", "tests.support.hostile_app", "hostile-leaving", "async")
    assert ended(new(tf, "on_loop", "exit of a task", "hostile-leaving")).error is not None

    assert worker.stop() == 0
    assert "work goes on" in worker.output


@pytest.mark.feature("R3")
def test_a_retry_that_does_not_call_its_base_is_tried_again_by_the_backoff_of_the_job(tf: TaskFlow) -> None:
    job = new(tf, "in_thread", "retry", retries=1, backoff=Constant(0.05))

    assert ended(job).attempt == 2


def test_a_task_factory_that_raises_fails_the_attempt_alone(tf: TaskFlow) -> None:
    new(tf, "on_loop", "refuse one task").wait(timeout=20)

    refused = ended(new(tf, "on_loop")).error

    assert refused is not None and refused.type == "LookupError"
    assert new(tf, "on_loop").wait(timeout=20).result == "pong"


@pytest.mark.feature("X.12")
@pytest.mark.parametrize("kind", KINDS)
def test_a_note_that_cannot_be_stored_is_refused_where_it_is_made(tf: TaskFlow, kind: str) -> None:
    assert new(tf, kind, "notes").wait(timeout=20).result == list(NOTES)


def test_attempts_wait_while_the_system_refuses_threads_and_then_run(cluster: ServiceCluster, tf: TaskFlow) -> None:
    """In a worker that has none yet."""
    worker = cluster.run("threadless", "-m", "tests.support.hostile_app", "threadless")
    new(tf, "refuse_threads", True, queue="threadless").wait(timeout=20)
    jobs = [new(tf, "in_thread", queue="threadless") for _ in range(2)]
    eventually(lambda: "no further thread" in worker.output)
    assert not any(job.get().state.final for job in jobs)

    new(tf, "refuse_threads", False, queue="threadless").wait(timeout=20)

    assert [job.wait(timeout=20).result for job in jobs] == ["pong"] * 2
