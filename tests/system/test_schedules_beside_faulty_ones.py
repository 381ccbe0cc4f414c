"""A schedule that cannot be fired, or has much to catch up, holds up no other; one that a clock misled wakes again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from taskflow import TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

BATCH, STEP = 60, 10
MAKE = """
insert into taskflow.schedules (id, task, cron, time_zone, misfire, overlap, cursor, next_at, wake_at)
select gen_random_uuid(), 't-' || gen_random_uuid(), %s, 'UTC', %s, 'allow', now() - %s * interval '1 minute', now(),
    now() - interval '1 hour'
from generate_series(1, %s) returning id
"""
MISLED = """
update taskflow.schedules set cursor = w.at, next_at = w.at, wake_at = w.at
from (select now() + interval '30 minutes' as at) w where id = %s returning 1
"""
FIRED = """
select count(*) from taskflow.firings
where schedule_id = %(id)s and state = 'fired' and decided_at between %(now)s and %(now)s + interval '20 minutes'
"""
REFUSE = """
create function taskflow.refuse_one() returns trigger language plpgsql as $$ begin
    if new.schedule_id = '{id}' then raise exception 'not this one' using errcode = '22023'; end if;
    return new;
end $$;
create trigger refuse_one before insert on taskflow.firings for each row execute function taskflow.refuse_one();
"""
CLOCK = """
create or replace function taskflow.now() returns timestamptz language sql stable parallel safe as $$
    select now() + moved_by + interval '{ahead}' from taskflow.clock
$$;
"""


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    settings = {
        "TASKFLOW_FIRE_BATCH": str(BATCH), "TASKFLOW_FIRE_STEP": str(STEP), "TASKFLOW_SCHEDULE_RETRY": "0.3",
        "TASKFLOW_TOPOLOGY_INTERVAL": "0.2", "TASKFLOW_LEADER_TIMEOUT": "1",
    }  # fmt: skip
    running = make_cluster(services=("scheduler",), env={"scheduler": settings})
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address, timeout=30) as app:
        yield app


def make_some(cluster: ServiceCluster, number: int, cron: str, misfire: str, behind: int = 0) -> list[UUID]:
    """Schedules that are due at once, whatever their cron is: with so many minutes to catch up."""
    return [made for (made,) in rows.found(cluster.dsn, MAKE, cron, misfire, behind, number)]


def make(cluster: ServiceCluster, cron: str, misfire: str = "fire_once") -> UUID:
    return make_some(cluster, 1, cron, misfire)[0]


def run(cluster: ServiceCluster, statement: str) -> None:
    with psycopg.connect(cluster.dsn, autocommit=True) as conn:
        conn.execute(statement)


def fires(cluster: ServiceCluster, schedule: UUID, times: int = 2, timeout: float = 20) -> None:
    """From now on it fires again."""
    ((now,),) = rows.found(cluster.dsn, "select clock_timestamp()")
    eventually(lambda: rows.found(cluster.dsn, FIRED, id=schedule, now=now)[0][0] >= times, timeout)


@pytest.mark.feature("A11", "S1.5")
def test_a_schedule_that_cannot_be_fired_says_why_and_holds_up_no_other(cluster: ServiceCluster, tf: TaskFlow) -> None:
    pid = cluster.pid("scheduler")
    good = make(cluster, "* * * * * *")
    bad = {make(cluster, "* * * * * *"): why for why in ("start", "misfire", "task", "write")}
    bad[make(cluster, "61 * * * *")] = "cron"
    by_name = {why: schedule for schedule, why in bad.items()}
    spoil = "update taskflow.schedules set {} where id = %s returning task"
    rows.found(cluster.dsn, spoil.format("start_at = 'infinity'"), by_name["start"])  # which Python cannot hold
    rows.found(cluster.dsn, spoil.format("misfire = 'perhaps'"), by_name["misfire"])
    ((task,),) = rows.found(cluster.dsn, spoil.format("encoding = 1"), by_name["task"])
    tf.tasks.create(task)
    rows.found(cluster.dsn, "update taskflow.tasks set options = '{\"backoff\": 7}' where name = %s returning 1", task)
    run(cluster, REFUSE.format(id=by_name["write"]))

    said = "select error from taskflow.schedules where id = any(%s) and error like 'cannot be fired: %%'"
    eventually(lambda: len(rows.found(cluster.dsn, said, list(bad))) == len(bad), 30)
    fires(cluster, good)

    assert "'61'" in tf.schedules.get(str(by_name["cron"])).error
    assert "not this one" in tf.schedules.get(str(by_name["write"])).error
    assert tf.schedules.get(str(good)).error == ""
    assert tf.schedules.get(str(by_name["misfire"])).error.startswith("cannot be fired: ValueError: 'perhaps'")
    assert cluster.pid("scheduler") == pid and cluster.alive("scheduler")
    mended = tf.schedules.update(str(by_name["cron"]), cron="* * * * * *")
    assert mended.error == ""
    fires(cluster, by_name["cron"])
    run(cluster, "drop trigger refuse_one on taskflow.firings")
    fires(cluster, by_name["write"])
    assert tf.schedules.get(str(by_name["write"])).error == ""
    rows.found(cluster.dsn, "delete from taskflow.schedules returning 1")


@pytest.mark.feature("S1.5", "S1.6", "M.7")
def test_catching_up_is_done_in_small_commits_in_turns_and_calls_are_answered_meanwhile(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    punctual = make(cluster, "* * * * * *")
    fires(cluster, punctual)

    late = make_some(cluster, 10, "* * * * *", "catch_up", 121)
    caught = "select count(*) from taskflow.firings where schedule_id = any(%s) and state = 'fired'"
    calls = 0
    while rows.found(cluster.dsn, caught, late)[0][0] < 1200:
        assert tf.schedules.get(str(punctual)).active
        calls += 1

    order = "select f.schedule_id, j.tx::text::bigint from taskflow.firings f join taskflow.jobs j on j.id = f.job_id"
    made = defaultdict[int, list[UUID]](list)
    for schedule, tx in rows.found(cluster.dsn, order):
        made[tx].append(schedule)
    steps = dict.fromkeys(late, 0)
    for tx in sorted(made):
        assert len(made[tx]) <= BATCH + STEP
        for schedule in set(made[tx]) & set(late):
            assert made[tx].count(schedule) <= STEP
            steps[schedule] += 1
        assert max(steps.values()) - min(steps.values()) <= 2, "one had more turns than another"
    busy = [tx for tx in made if set(made[tx]) & set(late)]
    assert len(busy) >= 1200 // (BATCH + STEP) and calls > 3
    between = [tx for tx in made if punctual in made[tx] and min(busy) <= tx <= max(busy)]
    assert between, "the punctual one waited until all others had caught up"
    ledger = "select count(*) from taskflow.firings where schedule_id = any(%s) group by schedule_id"
    assert all(n >= 120 for (n,) in rows.found(cluster.dsn, ledger, late))
    rows.found(cluster.dsn, "delete from taskflow.schedules returning 1")


@pytest.mark.feature("S1.5", "M.7", "M.11")
def test_after_the_clock_was_ahead_and_was_put_right_schedules_fire_again_and_nothing_fires_twice(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    skipping = make(cluster, "* * * * * *", misfire="skip")
    queueing = UUID(tf.schedules.create("queued", cron="* * * * * *", overlap="queue").id)
    fires(cluster, skipping)

    run(cluster, CLOCK.format(ahead="1 hour"))
    ahead = "select count(*) from taskflow.firings where schedule_id = %s and instant > now() + interval '50 minutes'"
    eventually(lambda: rows.found(cluster.dsn, ahead, skipping)[0][0] > 60, 20)
    run(cluster, CLOCK.format(ahead="0"))
    fires(cluster, skipping)

    assert tf.schedules.get(str(skipping)).next_run_at < datetime.now(UTC) + timedelta(seconds=10)  # type: ignore[operator]
    waits = "select wake_at < now() + interval '10 seconds' from taskflow.schedules where id = %s"
    eventually(lambda: rows.found(cluster.dsn, waits, queueing) == [(True,)], 20)
    log = cluster.log("scheduler")
    assert log.count("the database's clock was stepped") == 2 and "they are decided again" in log
    twice = (
        "select count(*), count(distinct j.options -> 'metadata' ->> 'taskflow.instant') from taskflow.jobs j"
        " where j.options -> 'metadata' ->> 'taskflow.schedule' = %s"
    )
    ((jobs, instants),) = rows.found(cluster.dsn, twice, str(skipping))
    told = "select count(*) from taskflow.firings where schedule_id = %s and state = 'fired'"
    assert jobs == instants == rows.found(cluster.dsn, told, skipping)[0][0]
    false = "select 1 from taskflow.firings where schedule_id = %s and instant > now() and state like 'skipped%%'"
    assert rows.found(cluster.dsn, false, skipping) == []
    rows.found(cluster.dsn, "delete from taskflow.schedules returning 1")


@pytest.mark.feature("R19", "S1.5")
@pytest.mark.parametrize("cure", ["resume", "another cron", "another leader"])
def test_a_schedule_whose_cursor_lies_ahead_of_the_clock_is_cured(
    cluster: ServiceCluster, tf: TaskFlow, cure: str
) -> None:
    schedule = tf.schedules.create("ahead", cron="* * * * * *", overlap="allow").id
    fires(cluster, UUID(schedule), 1)
    rows.found(cluster.dsn, MISLED, UUID(schedule))

    if cure == "resume":
        tf.schedules.pause(schedule)
        tf.schedules.resume(schedule)
    elif cure == "another cron":
        tf.schedules.update(schedule, cron="*/2 * * * * *")
    else:
        cluster.restart("scheduler")

    fires(cluster, UUID(schedule), 1)
    rows.found(cluster.dsn, "delete from taskflow.schedules returning 1")
