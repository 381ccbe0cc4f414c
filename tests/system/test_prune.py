"""Retention with real services: a day goes while they work, by the command and by the scheduler itself."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from taskflow import TaskFlow
from tests.support import days, forkserver, rows
from tests.support.cluster import ServiceCluster
from tests.support.recorder import Record
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("X.18")

CALLERS = 4


def pause(dsn: str, job_id: UUID, queue: str) -> None:
    """Makes a job of `days.fill` one that is due in a year and was never tried."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("delete from taskflow.attempts where job_id = %s", (job_id,))
        conn.execute("delete from taskflow.cancels where job_id = %s", (job_id,))
        conn.execute("update taskflow.jobs set deferred = true where id = %s", (job_id,))
        conn.execute(
            "insert into taskflow.deferred values (%s, now() + interval '1 year', 0, 5, 1, 0, 1, %s, '')",
            (job_id, queue),
        )


@contextmanager
def calling(tf: TaskFlow, queue: str) -> Iterator[list[str]]:
    """Callers that submit jobs, look at them, list and await them, until the block ends; any failed call fails it."""
    made: list[str] = []
    over = threading.Event()

    def call(n: int) -> None:
        while not over.is_set():
            job = tf.new_job(queue, {"n": n}, key=f"{queue}-{n}-{len(made)}")
            made.append(job.id)
            job.get()
            list(itertools.islice(tf.jobs.list(queue=queue), 5))
            if len(made) % 10 == 0:
                job.wait(timeout=20)

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call, n) for n in range(CALLERS)]
        try:
            yield made
        finally:
            over.set()
            for caller in callers:
                caller.result()


@pytest.mark.feature("A10", "B7")
def test_days_go_under_load_without_a_failed_call_or_a_lost_job(
    make_cluster: Callable[..., ServiceCluster], tmp_path: Path
) -> None:
    cluster = make_cluster(env={"scheduler": {"TASKFLOW_RETENTION": "0"}})
    cluster.start_all()
    database = cluster.dsn
    past, mixed = days.ago(40), days.ago(39)
    gone = days.fill(database, past, 5000)
    paused, *rest = days.fill(database, mixed, 3000, queue="paused")
    pause(database, paused, "paused")
    workers = [
        cluster.run(
            f"worker-{queue}", "-m", "tests.support.recorder", str(tmp_path / f"{queue}.record"), queue,
            env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
        )
        for queue in ("busy", "paused")
    ]  # fmt: skip

    with TaskFlow(cluster.scheduler_address) as tf, calling(tf, "busy") as made:
        eventually(lambda: len(made) > 50)
        words = ["db", "prune", "--database-url", database, "--older-than", "30d"]
        pruned = forkserver.run([sys.executable, "-m", "taskflow._cli", *words], timeout=120)
        since = len(made)
        eventually(lambda: len(made) > since + 50)

    assert pruned.returncode == 0, pruned.stdout + pruned.stderr
    assert days.partitions(database, past) == []
    assert set(days.of(database, *gone, *rest).values()) == {0}
    final = "select count(*) from taskflow.job_states where queue = 'busy' and state = 'succeeded'"
    eventually(lambda: rows.found(database, final) == [(len(made),)], 30)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("update taskflow.deferred set due_at = now() where job_id = %s", (paused,))
    state = "select state from taskflow.job_states where id = %s"
    eventually(lambda: rows.found(database, state, paused) == [("succeeded",)], 40)
    assert [worker.stop() for worker in workers] == [0, 0]
    seen = Record.read(tmp_path / "busy.record", tmp_path / "paused.record")
    assert seen.starts == dict.fromkeys([*made, str(paused)], 1)


def test_the_scheduler_drops_what_is_past_its_retention_by_itself(
    make_cluster: Callable[..., ServiceCluster],
) -> None:
    cluster = make_cluster(env={"scheduler": {"TASKFLOW_PRUNE_INTERVAL": "0.2", "TASKFLOW_RETENTION": "0"}})
    first, second = days.ago(12), days.ago(11)
    kept = days.fill(cluster.dsn, first, 10)
    beat = "select beat from taskflow.members where kind = 'scheduler' and beat > 3"

    cluster.start_all()
    eventually(lambda: rows.found(cluster.dsn, beat))
    assert days.of(cluster.dsn, *kept) == days.whole(10), "0 keeps them for ever"
    cluster.stop("scheduler")
    cluster.start("scheduler", {"TASKFLOW_RETENTION": "10"})

    eventually(lambda: days.partitions(cluster.dsn, first) == [])
    eventually(lambda: set(days.of(cluster.dsn, *kept).values()) == {0})
    eventually(lambda: "pruned" in cluster.log("scheduler"))
    with psycopg.connect(cluster.dsn) as reader:
        reader.execute("select count(*) from taskflow.jobs")
        days.fill(cluster.dsn, second, 10)
        eventually(lambda: "cannot be detached" in cluster.log("scheduler"))
    eventually(lambda: days.partitions(cluster.dsn, second) == [])
    assert cluster.alive("scheduler")
