"""The owner of runs dies, or loses its shards, at the worst moments: each step has one job, and each job runs once."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from taskflow import TaskFlow
from taskflow_server.cluster.process import wait_until
from tests.support import postgres as pg
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

STEPS = [f"s{n}" for n in range(6)]
DOCUMENT = {
    "name": "chain",
    "steps": [
        {
            "name": name,
            "kind": "task",
            "queue": "steps",
            "depends_on": STEPS[n - 1 : n],
            "meta": {"task": "add", "input": [n, "{{ input }}"]},
        }
        for n, name in enumerate(STEPS)
    ],
    "output": "{{ steps.s5.result }}",
}
_numbers = itertools.count(1)


@pytest.fixture
def cluster(postgres: str, template: str, make_cluster: Callable[..., ServiceCluster]) -> Iterator[ServiceCluster]:
    name = f"runs_{os.getpid()}_{next(_numbers)}"
    made = make_cluster(pg.create_database(postgres, name, template))
    yield made
    made.close()
    pg.drop_database(postgres, name)


def start(cluster: ServiceCluster, failpoint: str) -> TaskFlow:
    cluster.start("queue")
    cluster.start("coordinator", {"TASKFLOW_FAILPOINTS": failpoint})
    cluster.start("scheduler")
    for name in ("queue", "coordinator", "scheduler"):
        cluster.wait_healthy(name)
    cluster.run("app", "-m", "tests.support.workflow_app", cluster.scheduler_address)
    return TaskFlow(cluster.scheduler_address)


def all_once(cluster: ServiceCluster, tf: TaskFlow, runs: list[str]) -> None:
    for number, run in enumerate(runs):
        assert tf.workflows.wait(run, 60).output == 5 + number
    jobs = "select count(*), count(distinct (run_id, step)), count(distinct job_id) from taskflow.run_jobs"
    wanted = len(STEPS) * len(runs)
    assert rows.found(cluster.dsn, jobs) == [(wanted, wanted, wanted)]
    assert rows.found(cluster.dsn, "select count(*) from taskflow.jobs where queue = 'steps'") == [(wanted,)]
    assert rows.found(cluster.dsn, "select count(*) from taskflow.attempts where outcome = 1") == [(wanted,)]
    assert rows.found(cluster.dsn, "select count(*) from taskflow.run_inbox") == [(0,)]


@pytest.mark.feature("S1.4", "M.4", "A11")
@pytest.mark.parametrize("passes", [1, 3, 5])
@pytest.mark.parametrize("point", ["before_run", "after_run"])
def test_a_coordinator_killed_around_the_commit_of_a_run_loses_and_doubles_nothing(
    cluster: ServiceCluster, point: str, passes: int
) -> None:
    tf = start(cluster, f"coordinator.{point}=kill@{passes}")
    runs = [tf.workflows.put(DOCUMENT) and tf.workflows.start("chain", n).id for n in range(3)]

    cluster.wait_dead("coordinator")
    cluster.start("coordinator")
    cluster.wait_healthy("coordinator")

    all_once(cluster, tf, runs)


@pytest.mark.feature("S1.4", "A11")
def test_an_owner_that_was_stopped_while_its_shards_went_to_another_writes_nothing_of_a_run(
    cluster: ServiceCluster,
) -> None:
    tf = start(cluster, "coordinator.before_run=stop@2")
    tf.workflows.put(DOCUMENT)
    run = tf.workflows.start("chain", 0).id
    stat = Path(f"/proc/{cluster.pid('coordinator')}/stat")
    assert wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 30)
    before = rows.found(cluster.dsn, "select count(*) from taskflow.run_jobs")

    with psycopg.connect(cluster.dsn) as conn:
        conn.execute("update taskflow.shards set epoch = epoch + 1")
    cluster.kill("coordinator", signal.SIGCONT)

    eventually(lambda: "these shards have another owner now" in cluster.log("coordinator"), timeout=30)
    assert before == [(1,)]
    all_once(cluster, tf, [run])
