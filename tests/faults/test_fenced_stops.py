"""M.8: workers that are stopped past their lease, in the middle of handlers' transactions, write nothing stale."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from taskflow import TaskFlow
from tests.support import rows
from tests.support.cluster import Program, ServiceCluster
from tests.support.fenced_app import SCHEMA
from tests.support.tier import size
from tests.support.waiting import eventually, until_by_chance

pytestmark = pytest.mark.feature("A17", "M.8")

JOBS = size(60, 800)  # of a round, about half of them in the worker that is stopped
LOST = size(50, 10_000)  # attempts of stopped workers
ENV = {
    "coordinator": {
        "TASKFLOW_LEASE": "1.5",
        "TASKFLOW_HEARTBEAT_INTERVAL": "0.3",
        "TASKFLOW_FENCED_WAIT": "0.5",
    }
}


class Stopping:
    """A cluster with two workers, one of which is stopped at a time."""

    def __init__(self, cluster: ServiceCluster, tf: TaskFlow, folder: Path, *mode: str) -> None:
        self._cluster, self._tf, self._folder = cluster, tf, folder
        rows.run(cluster.dsn, SCHEMA)
        self._random = random.Random(8)
        self._rounds = 0
        self.workers = {name: self._worker(name, *mode) for name in ("one", "other")}
        eventually(lambda: len(list(tf.workers.list())) == 2, 30)

    def _worker(self, name: str, *mode: str) -> Program:
        where = (self._cluster.scheduler_address, self._cluster.dsn, str(self._folder))
        return self._cluster.run(name, "-m", "tests.support.fenced_app", *where, name, str(JOBS), *mode)

    def noted(self, what: str) -> int:
        file = self._folder / what
        return len(file.read_text().splitlines()) if file.exists() else 0

    def count(self, table: str) -> int:
        return int(rows.found(self._cluster.dsn, f"select count(*) from {table}")[0][0])  # noqa: S608

    @property
    def lost(self) -> int:
        return self.count("taskflow.attempts where taskflow.outcome_name(outcome) = 'lost'")

    def round(self) -> None:
        """All handlers begin to write, and one of the workers is stopped meanwhile, until each job has ended."""
        self._rounds += 1
        gate = f"gate-{self._rounds}"
        before, ended = self.noted("started"), self._ended()
        self._tf.new_jobs([{"queue": "fenced", "payload": {"gate": gate}, "retries": 9} for _ in range(JOBS)])
        eventually(lambda: self.noted("started") >= before + JOBS, 60)
        (self._folder / gate).touch()
        until_by_chance(self._random.uniform(0, 0.15))
        stopped = self.workers[self._random.choice(["one", "other"])]
        stopped.signal(signal.SIGSTOP)
        eventually(lambda: self._ended() == ended + JOBS, 60)
        stopped.signal(signal.SIGCONT)
        eventually(lambda: len(list(self._tf.workers.list())) == 2, 30)

    def _ended(self) -> int:
        return self.count("taskflow.attempts where final")

    def end(self) -> None:
        """Their handlers have ended, too."""
        for worker in self.workers.values():
            assert worker.stop() == 0


@pytest.fixture
def stopping(make_cluster: Callable[..., ServiceCluster], tmp_path: Path) -> Iterator[Callable[..., Stopping]]:
    clients: list[TaskFlow] = []

    def make(*mode: str) -> Stopping:
        cluster = make_cluster(env=ENV)
        cluster.start_all()
        clients.append(TaskFlow(cluster.scheduler_address))
        return Stopping(cluster, clients[-1], tmp_path, *mode)

    yield make
    for client in clients:
        client.close()


@pytest.mark.longer
def test_workers_stopped_past_their_lease_write_nothing_stale(stopping: Callable[..., Stopping]) -> None:
    scene = stopping()
    while scene.lost < LOST:
        scene.round()
    scene.end()
    assert scene.count("app.stale") == 0
    assert scene.noted("stale") > 0, "none of them came to its transaction too late"
    pairs = "app.effects a join app.effects b using (job_id)"
    assert scene.count(f"{pairs} where a.attempt < b.attempt and a.fence >= b.fence") == 0


def test_without_a_fence_workers_stopped_past_their_lease_write_what_is_stale(
    stopping: Callable[..., Stopping],
) -> None:
    scene = stopping("plain")
    while scene.lost < LOST / 10:
        scene.round()
    scene.end()
    assert scene.count("app.stale") > 0
