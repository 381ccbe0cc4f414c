"""Lanes without news cost nothing: no write, and after a while no memory; the next job brings them back (B3, B9)."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator

import pytest

from taskflow import Job, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

IDLE = 200
SETTINGS = {
    "TASKFLOW_SWEEP_INTERVAL": "0.2",
    "TASKFLOW_MARK_INTERVAL": "0.1",
    "TASKFLOW_LANE_IDLE": "1.5",
}
VERSIONS = "select queue, xmin::text, ctid::text from taskflow.lanes where queue like 'idle-%' order by queue"
BUSY = "select xmin::text from taskflow.lanes where queue = 'busy'"
BEYOND = """
    select count(*) from taskflow.lanes m
    join taskflow.jobs j using (queue, task, priority) where (j.tx, j.id) > (m.tx, m.id)
"""
LOST_OFFER = """
    insert into taskflow.jobs (id, queue, task) values (taskflow.uuid_at(now()), 'idle-7', 'note') returning id::text
"""


@pytest.fixture(scope="module")
def quiet(make_cluster: Callable[..., ServiceCluster]) -> Iterator[tuple[ServiceCluster, TaskFlow, list[str]]]:
    """Many queues that have each had a job; a worker that notes the queues whose jobs it runs."""
    cluster = make_cluster(env={"coordinator": SETTINGS}, metrics=True)
    cluster.start_all()
    ran: list[str] = []
    with TaskFlow(cluster.scheduler_address) as tf:

        @tf.task
        def note(job: Job) -> str:
            ran.append(job.queue)
            return job.queue

        with working(tf, concurrency=20):
            tf.new_jobs([{"queue": f"idle-{n}", "task": "note"} for n in range(IDLE)])
            eventually(lambda: len(ran) == IDLE, 30)
            eventually(lambda: rows.found(cluster.dsn, BEYOND) == [(0,)], 30)
            yield cluster, tf, ran


def lanes_in_memory(cluster: ServiceCluster) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.metrics_port('coordinator')}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (value,) = [line.split()[1] for line in lines if line.startswith("taskflow_lanes ")]
    return float(value)


@pytest.mark.feature("B3")
def test_no_mark_is_written_for_lanes_without_news_while_others_are_busy(
    quiet: tuple[ServiceCluster, TaskFlow, list[str]],
) -> None:
    cluster, tf, _ = quiet
    before = rows.found(cluster.dsn, VERSIONS)
    written: set[str] = set()

    while len(written) < 8:
        tf.new_job("busy", task="note").wait(timeout=20)
        written.update(row[0] for row in rows.found(cluster.dsn, BUSY))

    assert len(before) == IDLE
    assert rows.found(cluster.dsn, VERSIONS) == before


@pytest.mark.feature("B3", "M.3")
def test_idle_lanes_leave_memory_and_come_back_by_an_offer_and_without_one(
    quiet: tuple[ServiceCluster, TaskFlow, list[str]],
) -> None:
    cluster, tf, ran = quiet
    eventually(lambda: lanes_in_memory(cluster) <= 1, 30)
    ran.clear()

    assert tf.new_job("idle-3", task="note").wait(timeout=20).result == "idle-3"
    ((lost,),) = rows.found(cluster.dsn, LOST_OFFER)
    assert tf.jobs.wait(lost, timeout=20).result == "idle-7"

    eventually(lambda: lanes_in_memory(cluster) <= 1, 30)
    assert sorted(ran) == ["idle-3", "idle-7"], "nothing that had run before runs again"
    assert {q.name: q.workers for q in tf.queues.list()}["idle-9"] == 1, "its worker is known all the same"


@pytest.mark.feature("B3", "A5")
def test_a_takeover_runs_what_stands_beyond_idle_marks_and_nothing_else(
    quiet: tuple[ServiceCluster, TaskFlow, list[str]],
) -> None:
    cluster, tf, ran = quiet
    ran.clear()

    cluster.kill("coordinator")
    made = [tf.new_job(f"idle-{n}", task="note") for n in range(0, IDLE, 20)]
    cluster.start("coordinator")

    assert {job.wait(timeout=30).result for job in made} == {f"idle-{n}" for n in range(0, IDLE, 20)}
    eventually(lambda: lanes_in_memory(cluster) <= 1, 30)
    assert sorted(ran) == sorted(f"idle-{n}" for n in range(0, IDLE, 20))
