"""A run whose rows cannot be read fails alone and says why; runs that wait, or have many events, hold up no others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest

from taskflow import RunInfo, RunState, StepState, TaskFlow
from taskflow.errors import FailedPrecondition
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

PATIENT = {"name": "patient", "steps": [{"name": "wait", "kind": "wait", "meta": {"signal": "go"}}]}
WORKING = {
    "name": "working",
    "steps": [{"name": "work", "kind": "task", "queue": "nobody-polls", "meta": {"task": "never", "input": 1}}],
}
QUICK = {"name": "quick", "steps": [{"name": "rest", "kind": "wait", "meta": {"duration": 0}}], "output": "done"}
EVENT = (
    "insert into taskflow.run_inbox (run_id, shard, event)"
    " select id, shard, %s::json from taskflow.runs, generate_series(1, %s) where id = %s returning 1"
)


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"coordinator": {"TASKFLOW_HELD_INTERVAL": "0.2"}})
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address, timeout=30) as app:
        for document in (PATIENT, WORKING, QUICK):
            app.workflows.put(document)
        yield app


def tell(cluster: ServiceCluster, run: RunInfo, event: Any, times: int = 1) -> None:
    """Events into its inbox, as a service of another version may write them."""
    rows.found(cluster.dsn, EVENT, json.dumps(event), times, UUID(run.id))


def in_state(tf: TaskFlow, run: RunInfo, state: RunState) -> RunInfo:
    eventually(lambda: tf.workflows.get_run(run.id).state is state, timeout=20)
    return tf.workflows.get_run(run.id)


def others_go_on(cluster: ServiceCluster, tf: TaskFlow, pid: int) -> None:
    assert tf.workflows.wait(tf.workflows.start("quick").id, 20).output == "done"
    assert cluster.alive("coordinator") and cluster.pid("coordinator") == pid


@pytest.mark.feature("A11", "S1.4")
@pytest.mark.parametrize("state", ['{"steps": {"work": {"status": "unheard-of"}}}', '{"status": "sideways"}', "[]"])
def test_a_run_whose_state_cannot_be_read_fails_alone_and_its_jobs_are_cancelled(
    cluster: ServiceCluster, tf: TaskFlow, state: str
) -> None:
    pid = cluster.pid("coordinator")
    run = tf.workflows.start("working")
    eventually(lambda: tf.workflows.get_run(run.id).step("work").jobs)

    update = "update taskflow.runs set state = %s::json, turn = turn + 1 where id = %s returning 1"
    rows.found(cluster.dsn, update, state, UUID(run.id))
    tell(cluster, run, {"event": "signal", "name": "go"})

    failed = in_state(tf, run, RunState.FAILED)
    assert failed.error and failed.error.type == "broken_workflow" and "state cannot be read" in failed.error.message
    (job,) = failed.step("work").jobs
    eventually(lambda: str(tf.jobs.get(job.job_id).state) == "cancelled", timeout=20)
    assert failed.step("work").state is StepState.CANCELLED
    assert rows.found(cluster.dsn, "select state::text from taskflow.runs where id = %s", UUID(run.id)) == [(state,)]
    for call in (lambda: tf.workflows.retry(run.id), lambda: tf.workflows.signal(run.id, "go")):
        with pytest.raises(FailedPrecondition) as refused:
            call()
        assert refused.value.reason == "RUN_UNREADABLE"
    others_go_on(cluster, tf, pid)


@pytest.mark.feature("A11", "S1.4")
@pytest.mark.parametrize(
    "event", [{"event": "from a newer version"}, {"event": "signal", "volume": 11}, {}, ["signal"], "signal"]
)
def test_a_run_with_an_event_that_cannot_be_read_fails_alone(cluster: ServiceCluster, tf: TaskFlow, event: Any) -> None:
    pid = cluster.pid("coordinator")
    run, other = tf.workflows.start("patient"), tf.workflows.start("patient")
    eventually(lambda: all(tf.workflows.get_run(r.id).signals == ("go",) for r in (run, other)))

    tell(cluster, run, event)

    failed = in_state(tf, run, RunState.FAILED)
    assert failed.error and "of its inbox cannot be read" in failed.error.message
    tf.workflows.signal(other.id, "go")
    in_state(tf, other, RunState.SUCCEEDED)
    others_go_on(cluster, tf, pid)


@pytest.mark.feature("A11", "S1.4")
def test_a_task_whose_row_cannot_be_read_fails_the_steps_that_use_it_and_no_more(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    pid = cluster.pid("coordinator")
    tf.tasks.create("never")
    rows.found(cluster.dsn, "update taskflow.tasks set options = '{\"backoff\": 7}' where name = 'never' returning 1")

    failed = in_state(tf, tf.workflows.start("working"), RunState.FAILED)

    assert failed.step("work").error and "row cannot be read" in failed.step("work").error.message
    rows.found(cluster.dsn, "delete from taskflow.tasks where name = 'never' returning 1")
    others_go_on(cluster, tf, pid)


@pytest.mark.feature("S1.3", "S1.4")
@pytest.mark.parametrize(("concurrency", "begun"), [(None, 3), (2, 2)])
def test_runs_that_wait_for_others_begin_when_the_latest_version_allows_it(
    tf: TaskFlow, concurrency: int | None, begun: int
) -> None:
    name = f"narrow-{concurrency}"
    document = {**PATIENT, "name": name}
    tf.workflows.put({**document, "concurrency": 1})
    runs = [tf.workflows.start(name) for _ in range(3)]
    in_state(tf, runs[0], RunState.RUNNING)
    assert {tf.workflows.get_run(run.id).state for run in runs[1:]} == {RunState.NEW}

    tf.workflows.put(document if concurrency is None else {**document, "concurrency": concurrency})

    def running() -> list[str]:
        return [run.id for run in runs if tf.workflows.get_run(run.id).state is RunState.RUNNING]

    eventually(lambda: len(running()) == begun, timeout=20)
    waiting = {run.id for run in runs} - set(running())
    assert {tf.workflows.get_run(run).state for run in waiting} <= {RunState.NEW}
    tf.workflows.signal(running()[1], "go")
    eventually(lambda: waiting <= set(running()), timeout=20)


@pytest.mark.feature("A11", "S1.4")
def test_a_run_with_thousands_of_events_does_not_keep_the_others_waiting(cluster: ServiceCluster, tf: TaskFlow) -> None:
    busy = tf.workflows.start("patient")
    tell(cluster, busy, {"event": "cancel_requested"}, 20_000)

    assert tf.workflows.wait(tf.workflows.start("quick").id, 20).output == "done"

    ((left,),) = rows.found(cluster.dsn, "select count(*) from taskflow.run_inbox where run_id = %s", UUID(busy.id))
    assert left > 1_000, "the other run came last"
    rows.found(cluster.dsn, "delete from taskflow.run_inbox where run_id = %s returning 1", UUID(busy.id))
