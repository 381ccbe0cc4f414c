"""Workflows through real processes: documents, runs, their jobs and waits, and what is left of them after a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from taskflow import RunFailed, RunInfo, RunState, StepState, TaskFlow
from taskflow.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, RunCancelled
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

TIMEOUT = 60.0


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    running.start_all()
    running.run("app", "-m", "tests.support.workflow_app", running.scheduler_address)
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:
        yield app


def task(name: str, task: str, input: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": "task", "queue": "steps", "meta": {"task": task, "input": input}, **more}


def states(run: RunInfo) -> dict[str, str]:
    return {step.name: str(step.state) for step in run.steps}


def in_state(tf: TaskFlow, run: RunInfo, step: str, state: StepState) -> None:
    eventually(lambda: tf.workflows.get_run(run.id).step(step).state is state, timeout=30)


@pytest.mark.feature("S1.3", "S1.4", "S0.2", "S0.3", "S0.6")
def test_steps_run_in_order_and_in_parallel_and_their_values_flow(tf: TaskFlow) -> None:
    document = {
        "name": "sums",
        "steps": [
            task("left", "add", "{{ input.left }}"),
            task("right", "add", "{{ input.right }}"),
            task("both", "add", ["{{ steps.left.result }}", "{{ steps.right.result }}"], depends_on=["left", "right"]),
            task("unhappy", "add", [0]),
        ],
        "edges": [{"from": "both", "to": "unhappy", "on": "failure"}],
        "output": {"sum": "{{ steps.both.result }}", "who": "{{ context.user }}"},
    }
    put = tf.workflows.put(document)
    again = tf.workflows.put(json.dumps(document))
    assert (put.version, again.version) == (1, 1)

    run = tf.workflows.start("sums", {"left": [1, 2], "right": [3, 4]}, metadata={"user": "u1"}, label="first")
    done = tf.workflows.wait(run.id, TIMEOUT)

    assert done.output == {"sum": 10, "who": "u1"}
    assert states(done) == {"left": "succeeded", "right": "succeeded", "both": "succeeded", "unhappy": "skipped"}
    (job,) = done.step("both").jobs
    made = tf.jobs.get(job.job_id)
    assert (made.payload, made.result, made.queue, made.task) == ([3, 7], 10, "steps", "add")
    assert made.metadata["user"] == "u1"
    assert made.metadata["taskflow.run"] == run.id
    assert [r.id for r in tf.workflows.runs("sums", states=["succeeded"], metadata={"user": "u1"})] == [run.id]
