"""A lane that is far behind costs no memory, and its jobs still come out in order."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psycopg
import pytest

from taskflow import TaskFlow
from taskflow._worker.prefetch import MOST
from tests.support.cluster import ServiceCluster
from tests.support.tier import size
from tests.support.waiting import eventually

SLOTS = 50
WAITING = size(100_000, 1_000_000)
GROWTH = 40 << 20  # bytes: windows of jobs in two processes, and what their allocators keep


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.longer
@pytest.mark.feature("M.3", "R13")
def test_a_long_backlog_leaves_memory_flat_and_keeps_its_order(cluster: ServiceCluster, database: str) -> None:
    tf = TaskFlow(cluster.scheduler_address)
    tf.new_job("backlog", {"n": -1})
    before = {name: resident(cluster.pid(name)) for name in ("coordinator", "queue")}

    for start in range(0, WAITING, 50_000):
        tf.new_jobs([{"queue": "backlog", "payload": {"n": n}} for n in range(start, start + 50_000)])

    eventually(lambda: tf.queues.get("backlog").ready_estimated)
    deadline = time.monotonic() + 3
    most = dict(before)
    while time.monotonic() < deadline:
        for name in most:
            most[name] = max(most[name], resident(cluster.pid(name)))
        tf.queues.get("backlog")
    assert {name for name in most if most[name] - before[name] > GROWTH} == set(), (before, most)

    worker = cluster.run(
        "backlog-worker",
        "-m", "tests.support.recorder", str(cluster.directory / "backlog.record"), "backlog", str(SLOTS),
        env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip
    eventually(lambda: _finished(database) > size(5_000, 20_000), 60)
    worker.stop()
    with psycopg.connect(database) as conn:
        jumped = conn.execute(
            "select count(*) from (select j.tx, a.job_id from taskflow.jobs j left join taskflow.attempts a on"
            " a.job_id = j.id order by j.tx, j.id limit %s) first where first.job_id is null",
            (_finished(database) - SLOTS - MOST,),  # one worker may have as many
        ).fetchone()
    assert jumped == (0,), "what came first was handed out first"


def _finished(dsn: str) -> int:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select count(*) from taskflow.attempts").fetchone()
    return row[0] if row else 0
