"""A commit of runs whose answer is lost while Postgres still works on it: it is applied once, and no run fails (A8)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from uuid import UUID

import psycopg
import pytest

from taskflow import TaskFlow
from taskflow_server.store.database import Writer
from taskflow_server.store.runs import RunChanges, RunJobRow, RunRow, RunsChanged, write
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.proxy import PostgresProxy
from tests.support.waiting import eventually

DOCUMENT = {
    "name": "pair",
    "steps": [
        {"name": "first", "kind": "task", "queue": "steps", "meta": {"task": "add", "input": [1, "{{ input }}"]}},
        {
            "name": "second", "kind": "task", "queue": "steps", "depends_on": ["first"],
            "meta": {"task": "add", "input": [1, "{{ steps.first.result }}"]},
        },
    ],
    "output": "{{ steps.second.result }}",
}  # fmt: skip
WAITING = (
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    " and application_name = 'taskflow'"
)


@pytest.fixture(scope="module")
def proxy(database: str) -> Iterator[PostgresProxy]:
    """Between the coordinator and Postgres."""
    with PostgresProxy(database) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(proxy: PostgresProxy, make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"coordinator": {"TASKFLOW_DATABASE_URL": proxy.dsn}})
    running.start_all()
    running.run("app", "-m", "tests.support.workflow_app", running.scheduler_address)
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address, timeout=30) as client:
        yield client


def waiting(database: str) -> int:
    """How many of the services' connections wait for a lock."""
    return int(rows.found(database, WAITING)[0][0])


@pytest.mark.feature("A8", "A11", "S1.4")
def test_a_run_whose_commit_is_in_doubt_is_not_advanced_from_what_was_read_before_it(
    cluster: ServiceCluster, tf: TaskFlow, database: str, proxy: PostgresProxy
) -> None:
    tf.workflows.put(DOCUMENT)
    assert tf.workflows.wait(tf.workflows.start("pair", 1).id, 30).output == 3  # it works

    with psycopg.connect(database) as holder:
        holder.execute("lock table taskflow.run_steps in exclusive mode")
        proxy.lose_next_commit("taskflow.run_jobs")
        run = tf.workflows.start("pair", 10)
        eventually(lambda: proxy.cuts == 1 and waiting(database) == 2, 20)  # the commit in doubt, and the next one
        holder.rollback()

    assert tf.workflows.wait(run.id, 30).output == 12
    log = cluster.log("coordinator")
    assert "a run cannot go on" not in log
    assert "runs are read again" in log
    made = "select count(*) from taskflow.run_jobs where run_id = %s and job_id is not null"
    assert rows.found(database, made, UUID(run.id)) == [(2,)]
    stored = "select count(*) from taskflow.jobs where options -> 'metadata' ->> 'taskflow.run' = %s"
    assert rows.found(database, stored, run.id) == [(2,)]


@pytest.mark.feature("A8", "A11")
async def test_a_transaction_about_a_run_that_has_changed_since_writes_nothing_and_names_no_fault_of_the_run(
    database: str,
) -> None:
    run_id = UUID(bytes=rows.new_id())
    rows.found(
        database,
        "insert into taskflow.runs (id, workflow, version, shard, context, trigger, created_at)"
        " values (%s, 'w', 1, 3, '{}', 'manual', now()) returning 1",
        run_id,
    )
    ((epoch,),) = rows.found(database, "select epoch from taskflow.shards where shard = 3")
    writer = Writer(database)

    def turn(step: str) -> RunChanges:
        row = RunRow(run_id, "running", False, False, "{}", "{}", None, None, False, True, False)
        return RunChanges(runs=[row], run_jobs=[RunJobRow(run_id, step, 1, 0, None, None, "{}")], turns={run_id: 0})

    await write(writer, turn("a"), {3: epoch})
    with pytest.raises(RunsChanged):
        await write(writer, turn("b"), {3: epoch})
    with pytest.raises(RunsChanged):
        await write(writer, turn("a"), {3: epoch - 1})  # one that does not own the shard any more learns the same

    await writer.reset()
    assert rows.found(database, "select step from taskflow.run_jobs where run_id = %s", run_id) == [("a",)]
    assert rows.found(database, "select turn from taskflow.runs where id = %s", run_id) == [(1,)]
    rows.run(database, "delete from taskflow.runs where id = %s", run_id)  # half of a run: nothing moves it on
