"""Many schedules that are due in one second: each makes its job, and how long all of them take.

TASKFLOW_TEST_SCHEDULES=10000 for the size of docs/concepts/schedules.md; `-s` shows the figures.
"""

from __future__ import annotations

import os
from datetime import datetime

import pytest

from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.tier import size
from tests.support.waiting import eventually

SCHEDULES = int(os.environ.get("TASKFLOW_TEST_SCHEDULES", size(500, 10_000)))
AHEAD = 5 + SCHEDULES // 2000  # seconds in which they are made

# Of 100 tasks, by a cron that names this one second; with default policies and a payload.
MAKE = """
with due as (select date_trunc('second', now()) + %(ahead)s * interval '1 second' as at), made as (
    insert into taskflow.schedules (id, task, cron, time_zone, payload, misfire, overlap, cursor, next_at, wake_at)
    select (left(taskflow.uuid_at(now())::text, 14) || '7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
        'nightly-' || n %% 100, to_char(at at time zone 'UTC', 'SS MI HH24 DD MM') || ' *', 'UTC',
        '{"report": "daily"}', 'fire_once', 'skip', now(), at, at
    from due, generate_series(1, %(schedules)s) n
)
select at from due
"""
STANDING = """
select count(*), count(distinct job_id), max(clock_timestamp()) - %s, max(decided_at) - %s
from taskflow.firings f join taskflow.jobs j on j.id = f.job_id where f.instant = %s and f.state = 'fired'
"""


@pytest.mark.longer
@pytest.mark.feature("S1.5", "M.7")
def test_schedules_that_are_due_in_one_second_all_fire(cluster: ServiceCluster) -> None:
    ((at,),) = rows.found(cluster.dsn, MAKE, schedules=SCHEDULES, ahead=AHEAD)
    assert isinstance(at, datetime)

    eventually(lambda: standing(cluster, at)[0] == SCHEDULES, 60 + AHEAD)

    fired, jobs, took, decided = standing(cluster, at)
    assert (fired, jobs) == (SCHEDULES, SCHEDULES)
    print(f"\n{SCHEDULES:,} schedules: the last transaction began {decided} after the instant, seen whole after {took}")


def standing(cluster: ServiceCluster, at: datetime) -> tuple[int, int, object, object]:
    ((fired, jobs, took, decided),) = rows.found(cluster.dsn, STANDING, at, at, at)
    return fired, jobs, took, decided
