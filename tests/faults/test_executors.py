"""Executors that leave and vanish while every service is killed: each task is done once, and by one at a time."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import pytest

from taskflow import NewJob, TaskFlow
from tests.support import rows
from tests.support.cluster import SPINE, ServiceCluster
from tests.support.rpc import Refused, Rpc
from tests.support.tier import size
from tests.support.waiting import eventually

JOBS, EXECUTORS = size(100, 200), 6
LEAVES, VANISHES = 0.1, 0.03  # of what an executor was handed, and of what it started


class Executor(threading.Thread):
    """Runs until `over` is set. Adds errors to `faults`; `held` are the tasks that somebody works on, or did until
    they vanished."""

    held: set[str]
    vanished: set[str]
    faults: list[str]
    over: threading.Event
    lock: threading.Lock

    def __init__(self, rpc: Rpc, seed: int) -> None:
        super().__init__()
        self._rpc = rpc
        self._rng = random.Random(seed)
        self.done = 0

    def run(self) -> None:
        while not self.over.is_set():
            poll = {"taskDefinitions": ["storm"], "maxBatchSize": 3, "timeout": 300}
            answer = self._ask("long-poll", poll)
            for task in answer["resources"] if answer else ():
                self._work(task)

    def _ask(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        """The answer, asked for again while somebody is away; None for 409."""
        while True:
            try:
                return self._rpc(f"awf.task/{method}", params)
            except Refused as refused:
                if refused.status != 503:
                    if refused.status != 409:
                        self.faults.append(str(refused))
                    return None
            except (OSError, HTTPException):
                pass  # the gateway's own end, maybe in the middle of an answer
            if self.over.wait(0.05):
                return None

    def _work(self, task: dict[str, Any]) -> None:
        attempt = {"id": task["id"], "execId": task["execId"]}
        if self._rng.random() < LEAVES or self._ask("start", attempt) is None:
            return
        with self.lock:
            if task["id"] in self.held:
                self.faults.append(f"{task['id']} was started while another had it")
            self.held.add(task["id"])
        if self._rng.random() < VANISHES:
            self.vanished.add(task["id"])
            return
        ended = self._ask("success", attempt)
        if ended is None:
            self.faults.append(f"{task['id']} was taken from who had it")
        else:
            self.done += 1
        with self.lock:
            self.held.discard(task["id"])


@pytest.mark.longer
@pytest.mark.feature("S2.3", "S2.6", "R1", "R4", "M.4")
def test_each_task_is_done_once_whoever_leaves_and_whatever_is_killed(
    make_cluster: Callable[..., ServiceCluster],
) -> None:
    cluster = make_cluster(services=(*SPINE, "gateway"), env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    cluster.start_all()

    def count() -> int:
        return int(rows.found(cluster.dsn, "select count(*) from taskflow.attempts where outcome = 1")[0][0])

    Executor.held, Executor.vanished, Executor.faults = set(), set(), []
    Executor.over, Executor.lock = threading.Event(), threading.Lock()
    executors = [Executor(Rpc(cluster.address("gateway")), seed) for seed in range(EXECUTORS)]
    with TaskFlow(cluster.scheduler_address) as tf:
        tf.new_jobs([NewJob("default", {"n": n}, task="storm", retries=5) for n in range(JOBS)])
        for executor in executors:
            executor.start()
        try:
            for number, name in enumerate(("coordinator", "queue", "gateway", "scheduler", "coordinator"), 1):
                eventually(lambda: number * JOBS * 0.15 <= count(), 60)  # noqa: B023 - asked before the next
                cluster.kill(name, signal.SIGKILL)
                cluster.start(name)
                cluster.wait_healthy(name)

            def all_done() -> bool:
                """Once nobody works any more, the time of those that vanished passes."""
                if Executor.vanished and count() + len(Executor.vanished) == JOBS:
                    Executor.held.clear()
                    Executor.vanished.clear()
                    tf.advance_clock(121, step=121)
                return count() == JOBS

            eventually(all_done, 120)
        finally:
            Executor.over.set()
            for executor in executors:
                executor.join(60)

    assert Executor.faults == []
    assert sum(executor.done for executor in executors) == JOBS
    each = "select count(*) from taskflow.attempts where outcome = 1 group by job_id having count(*) > 1"
    assert rows.found(cluster.dsn, each) == []
    assert rows.found(cluster.dsn, "select * from taskflow.leases") == []
