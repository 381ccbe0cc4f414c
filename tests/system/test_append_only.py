"""A short durable job costs two appended rows and no update (M.1): what Postgres itself counted says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from taskflow import TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.tier import size
from tests.support.waiting import eventually

JOBS = size(10_000, 100_000)
FACTS = """
    select regexp_replace(relname, '_p\\d+$', ''), sum(n_tup_ins)::int, sum(n_tup_upd)::int, sum(n_tup_del)::int,
        sum(n_dead_tup)::int
    from pg_stat_user_tables where schemaname = 'taskflow' and relname ~ '^(jobs|attempts)_p' group by 1 order by 1
"""
SMALL = """
    select relname, n_tup_ins::int, (n_tup_upd + n_tup_del)::int from pg_stat_user_tables
    where schemaname = 'taskflow' and relname !~ '^(jobs|attempts)_p'
"""


@pytest.mark.longer
@pytest.mark.feature("M.1")
def test_short_jobs_leave_two_rows_each_and_none_dead(cluster: ServiceCluster, database: str, tmp_path: Path) -> None:
    """Updates there are, of lanes and members: by the second, not by the job."""
    worker = cluster.run(
        "worker", "-m", "tests.support.recorder", str(tmp_path / "record"), "short", "500",
        env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip

    with TaskFlow(cluster.scheduler_address) as tf:
        tf.new_jobs([("short", n) for n in range(JOBS)])
    final = "select count(*) from taskflow.job_states where queue = 'short' and state = 'succeeded'"
    eventually(lambda: rows.found(database, final) == [(JOBS,)], JOBS / 500)
    assert worker.stop() == 0

    # Servers tell their counts when they have been idle for some seconds, or end.
    eventually(lambda: [row[:2] for row in rows.found(database, FACTS)] == [("attempts", JOBS), ("jobs", JOBS)], 30)
    assert [row[2:] for row in rows.found(database, FACTS)] == [(0, 0, 0), (0, 0, 0)], "updated, deleted, dead"
    small = {name: (inserted, changed) for name, inserted, changed in rows.found(database, SMALL)}
    assert (small["deferred"], small["leases"], small["job_keys"]) == ((0, 0), (0, 0), (0, 0))
    assert sum(inserted for inserted, _ in small.values()) < 50
    assert sum(changed for _, changed in small.values()) < 500
