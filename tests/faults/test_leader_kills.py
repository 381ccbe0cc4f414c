"""Leaders of the schedules that are killed one after the other: no nominal instant is missing, none has two jobs.

TASKFLOW_TEST_LEADER_KILLS=200 for the size of docs/concepts/schedules.md, in about a quarter of an hour.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import pytest

from taskflow_server.cluster.ports import free_ports
from tests.support import rows
from tests.support.cluster import Program, ServiceCluster
from tests.support.tier import size
from tests.support.waiting import eventually

KILLS = int(os.environ.get("TASKFLOW_TEST_LEADER_KILLS", size(4, 40)))
SCHEDULES = 7  # of every second
POINTS = ("", "", "scheduler.before_firing=kill@{}", "scheduler.after_firing=kill@{}")

MAKE = """
insert into taskflow.schedules (id, task, cron, time_zone, misfire, overlap, cursor, next_at, wake_at)
select gen_random_uuid(), 'led-' || n, '* * * * * *', 'UTC', 'fire_once', 'allow', at - interval '1 second', at, at
from generate_series(1, %s) n, (select date_trunc('second', now()) as at) begun returning id
"""
LEDGER = """
select f.instant, f.count, f.state, j.options -> 'metadata' ->> 'taskflow.instant'
from taskflow.firings f left join taskflow.jobs j on j.id = f.job_id where f.schedule_id = %s order by f.instant
"""


class Schedulers:
    """Two, of which one leads. Each may be told to die in the middle of a firing."""

    def __init__(self, cluster: ServiceCluster, rng: random.Random) -> None:
        self._cluster = cluster
        self._rng = rng
        self._ports = dict(zip(("first", "second"), free_ports(2), strict=True))
        self._number = itertools.count(1)
        self.programs: dict[str, Program] = {}
        self.deaths = 0
        self.start_dead()

    def start_dead(self, *, but: str = "") -> None:
        """Those that do not run: one may have died by itself, unseen."""
        for name in self._ports:
            if name != but and (name not in self.programs or not self.programs[name].alive):
                self.deaths += name in self.programs
                self._start(name)

    def _start(self, name: str) -> None:
        point = self._rng.choice(POINTS).format(self._rng.randint(1, 4))
        env = {
            "TASKFLOW_DATABASE_URL": self._cluster.dsn, "TASKFLOW_NAME": name, "TASKFLOW_METRICS_PORT": "0",
            "TASKFLOW_PORT": str(self._ports[name]), "TASKFLOW_LEADER_TIMEOUT": "1", "TASKFLOW_FAILPOINTS": point,
        }  # fmt: skip
        self.programs[name] = self._cluster.run(
            f"{name}-{next(self._number)}", "-m", "taskflow_server.cli", "scheduler", env=env
        )

    def leader(self) -> str | None:
        """Its name, while it lives."""
        ((owner,),) = rows.found(self._cluster.dsn, "select owner from taskflow.leaders where role = 'schedules'")
        return owner if owner and self.programs[owner].alive else None

    def kill_leader(self, fired: Callable[[], int]) -> str:
        """After one more firing, unless it dies by itself; which it was."""
        name = self.next_leader()
        before = fired()
        eventually(lambda: not self.programs[name].alive or fired() > before, 60)
        self.programs[name].kill()
        return name

    def next_leader(self, *, but: str = "") -> str:
        """The first that leads; those that died before are started again, all but one."""

        def found() -> str | None:
            self.start_dead(but=but)
            return self.leader()

        return eventually(found, 60) or ""


@pytest.mark.feature("S1.6", "M.7")
def test_no_instant_is_missing_or_doubled_however_often_the_leader_dies(
    make_cluster: Callable[..., ServiceCluster],
) -> None:
    rng = random.Random(7)
    cluster = make_cluster(services=("scheduler",))  # its own is not started
    schedulers = Schedulers(cluster, rng)
    ids: list[UUID] = [schedule_id for (schedule_id,) in rows.found(cluster.dsn, MAKE, SCHEDULES)]

    def fired() -> int:
        return int(rows.found(cluster.dsn, "select count(*) from taskflow.firings")[0][0])

    for _ in range(KILLS):
        name = schedulers.kill_leader(fired)
        if rng.random() < 0.5:  # the other takes over; else the same name may lead again, in a new incarnation
            schedulers.next_leader(but=name)
        schedulers.start_dead()
    last = fired()
    eventually(lambda: schedulers.next_leader() and fired() > last + 2 * SCHEDULES, 60)
    for program in schedulers.programs.values():
        program.kill()

    for schedule_id in ids:
        ledger = rows.found(cluster.dsn, LEDGER, schedule_id)
        begin, end = ledger[0][0], ledger[-1][0]
        seconds = [begin + timedelta(seconds=n) for n in range(round((end - begin).total_seconds()) + 1)]
        assert [(at, count, state) for at, count, state, _ in ledger] == [(at, 1, "fired") for at in seconds]
        assert [made_for for *_, made_for in ledger] == [at.isoformat() for at in seconds]
    made = "select count(*), count(distinct (options -> 'metadata')) from taskflow.jobs"
    assert rows.found(cluster.dsn, made) == [(fired(), fired())], "a job for each row of the ledger, and no other"
    print(f"\n{schedulers.deaths} leaders killed, {fired():,} firings of {SCHEDULES} schedules in {end - begin}")
