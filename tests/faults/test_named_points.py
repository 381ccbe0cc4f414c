"""Processes that die, stop or wait at a named point (docs/protocol.md, «Faults that have a named point»)."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from taskflow import Constant, TaskFlow
from tests.support import postgres as pg
from tests.support.cluster import Program, ServiceCluster
from tests.support.recorder import Record
from tests.support.waiting import eventually

_numbers = itertools.count(1)


@pytest.fixture
def scene(postgres: str, template: str, make_cluster: Callable[..., ServiceCluster], tmp_path: Path) -> Iterator[Scene]:
    """Services and a database of its own for each test."""
    name = f"named_points_{os.getpid()}_{next(_numbers)}"
    dsn = pg.create_database(postgres, name, template)
    made = Scene(make_cluster(dsn), tmp_path, dsn)
    yield made
    made.cluster.close()
    pg.drop_database(postgres, name)


class Scene:
    """A cluster of its own for one test, with recording workers."""

    def __init__(self, cluster: ServiceCluster, folder: Path, dsn: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.dsn = dsn
        self.workers: list[Program] = []

    def start(self, **failpoints: str) -> TaskFlow:
        """Starts the services, each with its failpoints; `queue="answer=delay:2@1"`."""
        for name in ("queue", "coordinator", "scheduler"):
            point = failpoints.get(name)
            self.cluster.start(name, {"TASKFLOW_FAILPOINTS": f"{name}.{point}"} if point else None)
        for name in ("queue", "coordinator", "scheduler"):
            self.cluster.wait_healthy(name)
        return TaskFlow(self.cluster.scheduler_address)

    def worker(self, queue: str, concurrency: int = 20) -> Program:
        name = f"worker-{len(self.workers) + 1}"
        program = self.cluster.run(
            name,
            "-m", "tests.support.recorder", str(self.folder / f"{name}.record"), queue, str(concurrency),
            env={"TASKFLOW_ADDRESS": self.cluster.scheduler_address},
        )  # fmt: skip
        self.workers.append(program)
        return program

    def record(self) -> Record:
        return Record.read(*self.folder.glob("*.record"))

    def outcomes(self, queue: str) -> dict[str, int]:
        with psycopg.connect(self.dsn) as conn:
            rows = conn.execute(
                "select outcome, count(*) from taskflow.attempt_history where queue = %s group by 1", (queue,)
            ).fetchall()
        return dict(rows)

    def all_once(self, queue: str, count: int) -> None:
        eventually(lambda: self.outcomes(queue) == {"succeeded": count}, 40)
        assert sorted(self.record().starts.values()) == [1] * count

    def restart(self, name: str, point: str = "") -> None:
        self.cluster.start(name, {"TASKFLOW_FAILPOINTS": f"{name}.{point}"} if point else None)
        self.cluster.wait_healthy(name)


@pytest.mark.feature("A3")
def test_offers_that_never_come_cost_latency_and_no_job(scene: Scene) -> None:
    tf = scene.start(scheduler="offer=skip")
    scene.worker("unoffered")

    tf.new_jobs([{"queue": "unoffered"} for _ in range(300)])

    scene.all_once("unoffered", 300)


@pytest.mark.feature("A3")
def test_an_offer_delayed_past_the_end_of_its_job_does_not_run_it_again(scene: Scene) -> None:
    tf = scene.start(coordinator="offer=delay:4@2")
    scene.worker("delayed")
    tf.new_job("delayed").wait(timeout=10)  # the lane is known, and its first offer is through

    handles = [tf.new_job("delayed") for _ in range(20)]
    for handle in handles:
        handle.wait(timeout=10)  # by the pager: the offer still hangs
    late = tf.new_job("delayed")  # travels behind the delayed offer

    late.wait(timeout=15)
    scene.all_once("delayed", 22)


@pytest.mark.feature("A3", "B3")
def test_a_page_read_before_a_finish_and_merged_after_it_runs_nothing_again(scene: Scene) -> None:
    tf = scene.start(coordinator="after_page=delay:0.3")
    scene.worker("slow-pages")
    tf.new_job("slow-pages").wait(timeout=10)

    for _ in range(30):
        tf.new_jobs([{"queue": "slow-pages"} for _ in range(10)])

    scene.all_once("slow-pages", 301)


@pytest.mark.feature("A5", "A7", "M.4")
def test_a_polls_answer_delayed_past_a_takeover_starts_nothing_twice(scene: Scene) -> None:
    tf = scene.start(queue="answer=delay:4@1")
    scene.worker("dawdling", 5)
    scene.worker("dawdling", 5)
    tf.new_jobs([{"queue": "dawdling", "payload": {"sleep": 0.05}, "retries": 2} for _ in range(40)])
    eventually(lambda: len(scene.record().ends) >= 10)

    scene.cluster.kill("coordinator")  # while one answer with its tasks still hangs in the queue service
    scene.restart("coordinator")

    scene.all_once("dawdling", 40)


@pytest.mark.feature("A4", "M.4")
def test_a_due_job_in_memory_survives_its_owner(scene: Scene) -> None:
    tf = scene.start()
    tf.new_jobs([{"queue": "due", "delay": 0.5} for _ in range(50)])

    def read_by_the_owner() -> bool:
        queue = tf.queues.get("due")
        return queue.ready == 50 and queue.memory_bytes > 0

    eventually(read_by_the_owner)
    scene.cluster.kill("coordinator")
    scene.restart("coordinator")
    scene.worker("due")

    scene.all_once("due", 50)


@pytest.mark.feature("A8", "A15")
def test_a_worker_stopped_for_longer_than_its_lease_changes_nothing_when_it_wakes(scene: Scene) -> None:
    tf = scene.start()
    stopped = scene.worker("stopped", 10)
    jobs = [tf.new_job("stopped", {"sleep": 3}, retries=1) for _ in range(10)]
    eventually(lambda: len(scene.record().starts) == 10)

    stopped.signal(signal.SIGSTOP)
    eventually(lambda: scene.outcomes("stopped") == {"lost": 10}, 30)
    scene.worker("stopped", 10)
    eventually(lambda: scene.outcomes("stopped") == {"lost": 10, "succeeded": 10}, 30)
    stopped.signal(signal.SIGCONT)

    eventually(lambda: "its jobs stop here" in stopped.output, 30)
    eventually(lambda: len(list(tf.workers.list())) == 2, 30)  # back, under a new id
    for _ in range(20):
        tf.new_job("stopped").wait(timeout=10)
    assert scene.outcomes("stopped") == {"lost": 10, "succeeded": 30}
    assert {job.get().attempt for job in jobs} == {2}


@pytest.mark.feature("A1", "M.4", "B2")
def test_a_stopped_coordinator_writes_nothing_after_its_shards_were_taken(scene: Scene) -> None:
    tf = scene.start()
    scene.worker("two-owners")
    tf.new_jobs([{"queue": "two-owners", "payload": {"sleep": 0.02}, "retries": 2} for _ in range(800)])
    eventually(lambda: len(scene.record().ends) > 100)

    scene.cluster.kill("coordinator", signal.SIGSTOP)
    with psycopg.connect(scene.dsn, autocommit=True) as conn:
        conn.execute("update taskflow.shards set epoch = epoch + 1")  # what a takeover does
        before = scene.outcomes("two-owners").get("succeeded", 0)
        scene.cluster.kill("coordinator", signal.SIGCONT)
        eventually(lambda: "another owner" in scene.cluster.log("coordinator"))
        epochs = conn.execute("select min(epoch), max(epoch) from taskflow.shards").fetchone()

    assert epochs is not None and epochs[0] >= 2
    scene.all_once("two-owners", 800)
    assert before < 800


@pytest.mark.feature("A12")
@pytest.mark.parametrize("point", ["", "after_page=delay:1"], ids=["at once", "read after its death is proved"])
def test_what_was_handed_out_before_a_crash_leaves_a_trace_before_it_is_handed_out_again(
    scene: Scene, point: str
) -> None:
    tf = scene.start()
    doomed = scene.worker("suspects", 2)
    tf.new_jobs([{"queue": "suspects", "payload": {"sleep": 3}} for _ in range(10)])
    eventually(lambda: len(scene.record().starts) == 2)

    scene.cluster.kill("coordinator")  # the machine goes: the owner first, which would see that its worker is dead
    doomed.signal(signal.SIGKILL)
    scene.restart("coordinator", point)

    def traces() -> list[tuple[bool, int]]:
        with psycopg.connect(scene.dsn) as conn:
            return conn.execute("select started, handouts from taskflow.leases where queue = 'suspects'").fetchall()

    eventually(lambda: traces() == [(False, 0)] * 10, 30)
    scene.worker("suspects")
    eventually(lambda: scene.outcomes("suspects") == {"succeeded": 10}, 30)
    assert traces() == []


@pytest.mark.feature("A3", "A4")
def test_a_due_row_read_before_the_end_of_its_attempt_and_merged_after_it_runs_nothing_again(scene: Scene) -> None:
    tf = scene.start(coordinator="after_due=delay:0.3")
    scene.worker("again")
    soon = Constant(0.05)

    for _ in range(4):
        tf.new_jobs([{"queue": "again", "payload": {"fail": 3}, "retries": 3, "backoff": soon} for _ in range(25)])

    eventually(lambda: scene.outcomes("again") == {"failed": 300, "succeeded": 100}, 60)
    looks = [scene.record().starts for _ in range(3) if tf.new_job("again").wait(timeout=20)]
    assert sorted(set(looks[-1].values())) == [1, 4]
    with psycopg.connect(scene.dsn) as conn:
        assert conn.execute("select count(*) from taskflow.deferred").fetchone() == (0,)
        assert conn.execute("select count(*) from taskflow.leases").fetchone() == (0,)
