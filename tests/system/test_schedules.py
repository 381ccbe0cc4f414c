"""Schedules: a real leader on a clock that the test moves; every nominal instant has its row, every firing one job."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from taskflow import BackfillInfo, FiringState, ScheduleInfo, TaskFlow
from taskflow.errors import InvalidArgument, NotFound, Unavailable
from taskflow_server.cluster.ports import free_ports
from tests.support import rows
from tests.support.cluster import Program, ServiceCluster
from tests.support.cron_oracle import changes, fires
from tests.support.tier import size
from tests.support.waiting import eventually


def oracle(cron: str, zone: str, after: datetime, until: datetime) -> list[datetime]:
    """The nominal instants later than `after`, up to `until`."""
    start, end = (at.replace(second=0, microsecond=0) for at in (after, until + timedelta(minutes=1)))
    found = fires(cron, zone, start, end, margin=timedelta(hours=3))
    return [at for at in found if after < at <= until]


LEDGER = "select instant, state, job_id from taskflow.firings where schedule_id = %s order by instant"


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": "manual"}})
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as app:
        yield app


def now_of(cluster: ServiceCluster) -> datetime:
    ((now,),) = rows.found(cluster.dsn, "select taskflow.now()")
    assert isinstance(now, datetime)
    return now


def stand_at(cluster: ServiceCluster, tf: TaskFlow, second: int, of: int) -> None:
    """Moves the clock on to that second of a minute or an hour, so that no instant of a test comes by chance."""
    now = now_of(cluster)
    tf.advance_clock((second - (now.minute * 60 + now.second)) % of, step=of)


def fired(cluster: ServiceCluster, schedule: ScheduleInfo) -> list[datetime]:
    return [at for at, state, _ in rows.found(cluster.dsn, LEDGER, schedule.id) if state == "fired"]


@pytest.mark.feature("S1.5", "M.7", "R17", "M.11")
def test_a_schedule_fires_at_its_instants_and_each_is_in_the_ledger_with_its_job(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    schedule = tf.schedules.create(
        "report", cron="*/5 * * * *", payload={"kind": "daily"}, metadata={"user": "u1"}, overlap="allow"
    )
    before = now_of(cluster)

    tf.advance_clock(timedelta(minutes=40), step=60)

    wanted = oracle("*/5 * * * *", "UTC", before, now_of(cluster))
    eventually(lambda: fired(cluster, schedule) == wanted)
    assert len(wanted) == 8
    ledger = list(tf.schedules.firings(schedule.id))
    assert [f.instant for f in reversed(ledger)] == wanted
    jobs = {job.id: job for job in tf.jobs.list(task="report")}
    assert {f.job_id for f in ledger} == set(jobs)
    assert {f.state for f in ledger} == {FiringState.FIRED} and all(f.reason for f in ledger)
    assert all(job.payload == {"kind": "daily"} and job.metadata["user"] == "u1" for job in jobs.values())
    there = tf.schedules.get(schedule.id)
    assert there.next_run_at == oracle("*/5 * * * *", "UTC", now_of(cluster), now_of(cluster) + timedelta(hours=1))[0]
    assert there.last_run_at is not None
    tf.schedules.delete(schedule.id)


@pytest.mark.longer
@pytest.mark.feature("S1.5", "R16")
def test_months_of_schedules_go_by_with_their_change_of_hour(cluster: ServiceCluster, tf: TaskFlow) -> None:
    """Against an oracle that imports neither croniter nor our module: four weeks with both zones' change, or a year."""
    zones = {"Europe/Berlin": "30 2 * * *", "America/New_York": "0 9 * * mon"}
    now = now_of(cluster)
    moments = sorted(at for zone in zones for year in range(now.year, now.year + 3) for at, _ in changes(zone, year))
    month = timedelta(days=30)
    change = next(a for a, b in pairwise(moments) if a - now > timedelta(days=3) and b - a < month)
    tf.advance_clock(change - timedelta(days=2, minutes=20) - now, step=366 * 86_400)
    made = {
        zone: tf.schedules.create("yearly", cron=cron, time_zone=zone, overlap="allow") for zone, cron in zones.items()
    }
    before = now_of(cluster)

    tf.advance_clock(timedelta(days=size(28, 370)), step=75_600)

    for zone, schedule in made.items():
        wanted = oracle(zones[zone], zone, before, now_of(cluster))
        eventually(lambda s=schedule, w=wanted: len(rows.found(cluster.dsn, LEDGER, s.id)) >= len(w), 30)  # type: ignore[misc]
        states = Counter(state for _, state, _ in rows.found(cluster.dsn, LEDGER, schedule.id))
        assert [at for at, _, _ in rows.found(cluster.dsn, LEDGER, schedule.id)] == wanted
        assert set(states) == {"fired"}, "21 hours at a time: there is but one in each"
        tf.schedules.delete(schedule.id)


@pytest.mark.feature("R17", "M.7")
def test_what_was_missed_fires_once_and_the_rest_says_why_not(cluster: ServiceCluster, tf: TaskFlow) -> None:
    schedule = tf.schedules.create("hourly", cron="0 * * * *")

    tf.advance_clock(timedelta(hours=10), step=36_000)

    eventually(lambda: len(list(tf.schedules.firings(schedule.id))) == 10)
    latest, *others = tf.schedules.firings(schedule.id)
    assert (latest.state, latest.reason) == (FiringState.FIRED, "the latest of 10 missed")
    assert {f.state for f in others} == {FiringState.SKIPPED_MISFIRE}
    assert all("late" in f.reason and not f.job_id for f in others)
    tf.schedules.delete(schedule.id)


@pytest.mark.feature("R17", "M.7")
def test_a_firing_is_skipped_while_the_job_before_it_is_unfinished(cluster: ServiceCluster, tf: TaskFlow) -> None:
    schedule = tf.schedules.create("slow", cron="* * * * *")  # nobody runs it: the first job stays unfinished

    tf.advance_clock(180, step=30)

    eventually(lambda: len(list(tf.schedules.firings(schedule.id))) == 3)
    third, second, first = tf.schedules.firings(schedule.id)
    assert (first.state, second.state, third.state) == (
        FiringState.FIRED, FiringState.SKIPPED_OVERLAP, FiringState.SKIPPED_OVERLAP,
    )  # fmt: skip
    tf.jobs.cancel(first.job_id)
    tf.advance_clock(60, step=30)
    eventually(lambda: len(fired(cluster, schedule)) == 2)
    tf.schedules.delete(schedule.id)


@pytest.mark.feature("S1.5", "R17")
def test_each_misfire_policy_holds_for_what_was_missed(cluster: ServiceCluster, tf: TaskFlow) -> None:
    """Skip, fire once, catch up beside each other, and catch up that allows no overlap."""
    stand_at(cluster, tf, 1800, of=3600)
    made = {
        (misfire, overlap): tf.schedules.create("missed", cron="0 * * * *", misfire=misfire, overlap=overlap)
        for misfire, overlap in (
            ("skip", "allow"), ("fire_once", "allow"), ("catch_up", "allow"), ("catch_up", "queue"),
        )
    }  # fmt: skip
    before = now_of(cluster)
    tf.advance_clock(timedelta(hours=4), step=14_400)
    wanted = oracle("0 * * * *", "UTC", before, now_of(cluster))
    assert len(wanted) == 4

    def states(misfire: str, overlap: str) -> list[str]:
        ledger = rows.found(cluster.dsn, LEDGER, made[misfire, overlap].id)
        assert [at for at, _, _ in ledger] == wanted[: len(ledger)], "one row for each instant"
        return [state for _, state, _ in ledger]

    eventually(lambda: states("skip", "allow") == ["skipped_misfire"] * 4)
    eventually(lambda: states("fire_once", "allow") == [*["skipped_misfire"] * 3, "fired"])
    eventually(lambda: states("catch_up", "allow") == ["fired"] * 4)
    eventually(lambda: states("catch_up", "queue") == ["fired", *["queued"] * 3])
    (_, _, first), *_ = rows.found(cluster.dsn, LEDGER, made["catch_up", "queue"].id)
    tf.jobs.cancel(str(first))
    tf.advance_clock(60, step=30)
    eventually(lambda: states("catch_up", "queue") == ["fired", "fired", "queued", "queued"])
    for schedule in made.values():
        tf.schedules.delete(schedule.id)


@pytest.mark.feature("S1.5", "R17")
def test_each_overlap_policy_holds_while_a_job_is_unfinished(cluster: ServiceCluster, tf: TaskFlow) -> None:
    """Nobody runs the jobs. A job that was made by hand does not count."""
    stand_at(cluster, tf, 5, of=60)
    by_hand = tf.new_job("default", task="overlaps")
    made = {
        overlap: tf.schedules.create("overlaps", cron="* * * * *", overlap=overlap)
        for overlap in ("skip", "allow", "queue", "replace")
    }

    tf.advance_clock(180, step=30)

    def states(overlap: str) -> list[str]:
        return [state for _, state, _ in rows.found(cluster.dsn, LEDGER, made[overlap].id)]

    eventually(lambda: states("skip") == ["fired", "skipped_overlap", "skipped_overlap"])
    eventually(lambda: states("allow") == ["fired"] * 3)
    eventually(lambda: states("queue") == ["fired", "queued", "queued"])
    eventually(lambda: states("replace") == ["fired"] * 3)
    jobs = [job for _, _, job in rows.found(cluster.dsn, LEDGER, made["replace"].id)]
    eventually(lambda: [str(tf.jobs.get(str(job)).state) for job in jobs] == ["cancelled", "cancelled", "ready"])
    assert str(by_hand.get().state) == "ready"
    for schedule in made.values():
        tf.schedules.delete(schedule.id)


@pytest.mark.feature("S1.5", "R19", "M.7")
def test_a_paused_schedule_makes_no_job_and_catches_nothing_up(cluster: ServiceCluster, tf: TaskFlow) -> None:
    schedule = tf.schedules.create("paused", cron="*/10 * * * *", overlap="allow")
    assert tf.schedules.pause(schedule.id).next_run_at is None

    tf.advance_clock(3600, step=600)
    resumed = tf.schedules.resume(schedule.id)
    at = now_of(cluster)
    tf.advance_clock(1200, step=60)

    eventually(lambda: len(fired(cluster, schedule)) == 2)
    assert resumed.next_run_at == oracle("*/10 * * * *", "UTC", at, at + timedelta(minutes=11))[0]
    assert fired(cluster, schedule)[0] > at
    off = [f for f in tf.schedules.firings(schedule.id) if f.state is FiringState.SKIPPED_OFF]
    assert [f.count for f in off] == [6]
    tf.schedules.delete(schedule.id)


@pytest.mark.feature("S1.5")
def test_one_at_an_instant_fires_once(cluster: ServiceCluster, tf: TaskFlow) -> None:
    at = now_of(cluster).replace(microsecond=0) + timedelta(hours=1)
    schedule = tf.schedules.create("once", at=at)

    tf.advance_clock(7200, step=600)

    eventually(lambda: fired(cluster, schedule) == [at])
    assert tf.schedules.get(schedule.id).next_run_at is None


@pytest.mark.feature("S0.8", "S1.5")
def test_schedules_are_deleted_by_the_app_s_own_attributes(tf: TaskFlow) -> None:
    wanted = [{"user": "u1", "campaign": campaign} for campaign in ("c9", "c8")]
    mine = [tf.schedules.create("campaign", cron="@daily", metadata=metadata) for metadata in wanted]
    other = tf.schedules.create("campaign", cron="@daily", metadata={"user": "u2", "campaign": "c9"})

    assert list(tf.schedules.delete(metadata={"user": "u1", "campaign": "c9"})) == [mine[0].id]

    assert [s.id for s in tf.schedules.list(task="campaign")] == [mine[1].id, other.id]
    assert [s.id for s in tf.schedules.list(metadata={"user": "u2"})] == [other.id]
    with pytest.raises(NotFound):
        tf.schedules.get(mine[0].id)
    with pytest.raises(InvalidArgument, match="either an id or metadata"):
        tf.schedules.delete(metadata={})


@pytest.mark.feature("S1.5", "S4.1")
@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"cron": "61 * * * *"}, "schedule.cron"),
        ({"cron": "* * * * *", "time_zone": "Europe/Berlln"}, "schedule.time_zone"),
        ({}, "schedule.cron"),
        ({"at": datetime(2001, 1, 1, tzinfo=UTC)}, "schedule.at"),
        ({"cron": "@daily", "overlap": "sometimes"}, "overlap"),
    ],
    ids=["cron", "zone", "nothing", "past", "overlap"],
)
def test_a_bad_schedule_is_refused_by_field(tf: TaskFlow, options: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        tf.schedules.create("bad", **options)  # type: ignore[arg-type]

    assert refused.value.field == field


@pytest.mark.feature("S1.5")
def test_a_preview_says_when_it_would_fire(tf: TaskFlow) -> None:
    after = datetime(2027, 3, 27, tzinfo=UTC)

    times = tf.schedules.preview(cron="30 2 * * *", time_zone="Europe/Berlin", after=after, count=3)

    assert list(times) == oracle("30 2 * * *", "Europe/Berlin", after, after + timedelta(days=3))
    schedule = tf.schedules.create("later", cron="0 0 1 1 *")
    changed = tf.schedules.update(schedule.id, cron="0 12 1 1 *", metadata={"a": "b"})
    assert (changed.cron, changed.metadata, changed.task) == ("0 12 1 1 *", {"a": "b"}, "later")
    assert [at.hour for at in tf.schedules.preview(schedule.id, count=2)] == [12, 12]


def reached(app: TaskFlow) -> bool:
    try:
        return list(app.schedules.list(page_size=1)) != []
    except Unavailable:
        return False


@pytest.mark.feature("M.7", "R18", "S1.5")
def test_a_backfill_makes_each_job_once_whoever_asks_and_how_often(cluster: ServiceCluster, tf: TaskFlow) -> None:
    schedule = tf.schedules.create("late", cron="0 * * * *", payload={"n": 1}, metadata={"customer": "c1"})
    before = now_of(cluster)
    tf.advance_clock(timedelta(hours=6), step=21_600)  # six were missed, or five and one is in time: one fires
    eventually(lambda: fired(cluster, schedule))
    start = before - timedelta(hours=4)

    program, address = another(cluster, "scheduler-3")
    with TaskFlow(address) as elsewhere, ThreadPoolExecutor(6) as pool:
        eventually(lambda: reached(elsewhere))
        apps = [tf, elsewhere] * 3
        answers = list(pool.map(lambda app: app.schedules.backfill(schedule.id, start=start), apps))
    program.stop()

    wanted = oracle("0 * * * *", "UTC", start, now_of(cluster))
    assert fired(cluster, schedule) == wanted
    made = [firing for answer in answers for firing in answer.firings]
    assert (len(made), {firing.trigger for firing in made}) == (len(wanted) - 1, {"backfill"})
    ledger = list(tf.schedules.firings(schedule.id))
    assert Counter(firing.trigger for firing in ledger) == {"backfill": len(wanted) - 1, "schedule": 1}
    jobs = {job.id: job for job in tf.jobs.list(task="late")}
    assert set(jobs) == {firing.job_id for firing in ledger}
    assert Counter(job.metadata.get("taskflow.trigger") for job in jobs.values())["backfill"] == len(made)
    assert {job.metadata["taskflow.instant"] for job in jobs.values()} == {at.isoformat() for at in wanted}
    assert tf.schedules.backfill(schedule.id, start=start) == BackfillInfo((), len(wanted))
    tf.schedules.delete(schedule.id)


@pytest.mark.feature("M.7", "R18", "R19")
def test_a_backfill_holds_up_no_firing_and_reaches_what_passed_while_it_was_off(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    schedule = tf.schedules.create("off", cron="*/10 * * * *")  # nobody runs its jobs: one more would overlap
    tf.schedules.pause(schedule.id)
    off = now_of(cluster)
    tf.advance_clock(timedelta(hours=2), step=7200)
    on = now_of(cluster)

    backfilled = tf.schedules.backfill(schedule.id, start=off + timedelta(hours=1))

    assert [f.instant for f in backfilled.firings] == oracle("*/10 * * * *", "UTC", off + timedelta(hours=1), on)
    tf.schedules.resume(schedule.id)
    (many,) = [f for f in tf.schedules.firings(schedule.id) if f.state is FiringState.SKIPPED_OFF]
    assert many.count == len(oracle("*/10 * * * *", "UTC", off, off + timedelta(hours=1)))
    tf.advance_clock(600, step=60)
    eventually(lambda: len(fired(cluster, schedule)) == len(backfilled.firings) + 1)
    tf.schedules.delete(schedule.id)


@pytest.mark.feature("M.7", "R18")
def test_a_backfill_of_a_workflow_s_schedule_starts_its_runs(cluster: ServiceCluster, tf: TaskFlow) -> None:
    wait = {"name": "w", "kind": "wait", "meta": {"signal": "never"}}
    tf.workflows.put({"name": "late-flow", "steps": [wait]})
    schedule = tf.schedules.create("", workflow="late-flow", cron="0 * * * *", payload={"n": 1})
    start = now_of(cluster) - timedelta(hours=3)

    made = tf.schedules.backfill(schedule.id, start=start).firings

    assert [f.instant for f in made] == oracle("0 * * * *", "UTC", start, now_of(cluster))
    runs = {run.id: run for run in tf.workflows.runs("late-flow")}
    assert set(runs) == {f.run_id for f in made}
    assert {(run.trigger, run.schedule_id) for run in runs.values()} == {("backfill", schedule.id)}
    tf.schedules.delete(schedule.id)


@pytest.mark.parametrize(
    ("span", "field"),
    [({"hours": 2000}, "end_time"), ({"hours": -1}, "end_time"), ({"hours": 0}, "start_time")],
    ids=["many", "future", "empty"],
)
def test_a_bad_span_is_refused_by_field(
    cluster: ServiceCluster, tf: TaskFlow, span: dict[str, float], field: str
) -> None:
    schedule = tf.schedules.create("spans", cron="0 * * * *")
    now = now_of(cluster)
    end = now + timedelta(hours=1) if field == "end_time" and span["hours"] < 0 else now

    with pytest.raises(InvalidArgument) as refused:
        tf.schedules.backfill(schedule.id, start=now - timedelta(**span), end=end)

    assert refused.value.field == field
    with pytest.raises(NotFound):
        tf.schedules.backfill("01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c", start=now - timedelta(hours=1))


@pytest.mark.feature("S1.6", "M.7")
def test_when_the_leader_dies_in_a_firing_another_one_makes_it_and_nothing_is_doubled(
    cluster: ServiceCluster, tf: TaskFlow
) -> None:
    """The leader is killed before its commit, then after it; the second scheduler fires on."""
    second, _ = another(cluster, "scheduler-2")
    schedule = tf.schedules.create("led", cron="* * * * * *", overlap="allow")
    eventually(lambda: len(fired(cluster, schedule)) >= 2)
    for point in ("scheduler.before_firing=kill", "scheduler.after_firing=kill"):
        cluster.stop("scheduler")
        eventually(lambda: leader(cluster) == "scheduler-2")
        second.signal(signal.SIGSTOP)
        cluster.start("scheduler", env={"TASKFLOW_FAILPOINTS": point, "TASKFLOW_LEADER_TIMEOUT": "1"})
        eventually(lambda: not cluster.alive("scheduler"), 30)
        second.signal(signal.SIGCONT)
        seen = len(fired(cluster, schedule))
        eventually(lambda n=seen: len(fired(cluster, schedule)) > n + 1, 30)  # type: ignore[misc]
        cluster.start("scheduler")
        cluster.wait_healthy("scheduler")
    tf.schedules.pause(schedule.id)

    ledger = rows.found(cluster.dsn, LEDGER, schedule.id)
    instants = [at for at, _, _ in ledger]
    assert instants == sorted(set(instants))
    gaps = {(b - a).total_seconds() for a, b in pairwise(instants)}
    assert gaps == {1.0}, "no nominal instant is missing from the ledger"
    made = rows.found(cluster.dsn, "select id from taskflow.jobs where task = 'led'")
    assert sorted(i for (i,) in made) == sorted(job for _, _, job in ledger if job is not None)
    second.stop()


def another(cluster: ServiceCluster, name: str) -> tuple[Program, str]:
    """Another scheduler, and its address."""
    (port,) = free_ports(1)
    env = {
        "TASKFLOW_DATABASE_URL": cluster.dsn, "TASKFLOW_PORT": str(port), "TASKFLOW_NAME": name,
        "TASKFLOW_METRICS_PORT": "0", "TASKFLOW_CLOCK": "manual", "TASKFLOW_LEADER_TIMEOUT": "1",
    }  # fmt: skip
    return cluster.run(name, "-m", "taskflow_server.cli", "scheduler", env=env), f"127.0.0.1:{port}"


def leader(cluster: ServiceCluster) -> str | None:
    ((owner,),) = rows.found(cluster.dsn, "select owner from taskflow.leaders where role = 'schedules'")
    return owner
