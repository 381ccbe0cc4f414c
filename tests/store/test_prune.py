"""Retention (X.18): a day past it is dropped whole, one with survivors loses the rest, and nobody waits for it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow_server.core.errors import InvalidArgument, NotFound, Unavailable
from taskflow_server.core.lanes import START, Lane, LaneKey
from taskflow_server.core.retention import Action, DayReport
from taskflow_server.store import prune as module
from taskflow_server.store.database import Database, Writer
from taskflow_server.store.jobs import retry_by_hand, store_jobs
from taskflow_server.store.lane_reader import LaneReader
from taskflow_server.store.prune import PruneBusy, prune
from tests.support import days, forkserver, rows
from tests.support.verifying import contradictions, results
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("X.18", "A10")

KEEP = timedelta(days=30)
IMPATIENT = "-c lock_timeout=250ms"  # half of what prune itself waits: whoever has to wait for it fails
_days = itertools.count(60)  # so many days ago: each test has its own
_numbers = itertools.count(1)


@pytest.fixture
def day() -> date:
    return days.ago(next(_days))


@pytest.fixture
def queue() -> str:
    return f"old-{next(_numbers)}"


@pytest.fixture
def in_background() -> Iterator[Callable[..., Future[dict[date, DayReport]]]]:
    with ThreadPoolExecutor() as pool:
        yield lambda *arguments, **options: pool.submit(pruned, *arguments, **options)


def pruned(dsn: str, keep: timedelta = KEEP, **options: Any) -> dict[date, DayReport]:
    reports = asyncio.run(asyncio.wait_for(prune(dsn, keep=keep, **options), 40)).days
    return {report.day: report for report in reports}


def command(dsn: str, *words: str, failpoint: str = "") -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    program = [sys.executable, "-m", "taskflow._cli", "db", "prune", "--database-url", dsn, *words]
    return forkserver.run(program, env=environ | {"TASKFLOW_FAILPOINTS": failpoint})


def closed(dsn: str) -> list[date]:
    return [day for (day,) in rows.found(dsn, "select day from taskflow.closed_days order by 1")]


def unfinished(dsn: str, queue: str) -> int:
    """Jobs of the queue that a person would take for unfinished."""
    ((count,),) = rows.found(
        dsn, "select count(*) from taskflow.job_states where queue = %s and finished_at is null", queue
    )
    return int(count)


def dispatched(dsn: str, queue: str) -> list[bytes]:
    """The jobs that a coordinator would dispatch that has just taken over a lane without a mark."""

    async def read() -> list[bytes]:
        reader = LaneReader(dsn, 5.0)
        lane = Lane.at(LaneKey(queue, "", 5), 0, START, catch_to=1 << 62)
        try:
            page = (await reader.pages([(lane, lane.request(100))]))[0]
            return [row.id for row in page.ahead]
        finally:
            await reader.close()

    return asyncio.run(read())


def retry(dsn: str, job_id: UUID) -> bool:
    async def call() -> bool:
        db = Database(dsn)
        await db.open()
        try:
            return await retry_by_hand(db, job_id.bytes, "somebody")
        finally:
            await db.close()

    return asyncio.run(call())


def insert(dsn: str, ids: list[UUID], queue: str, **connect: Any) -> None:
    with psycopg.connect(dsn, autocommit=True, **connect) as conn:
        for job_id in ids:
            conn.execute("insert into taskflow.jobs (id, queue) values (%s, %s)", (job_id, queue))


def at(day: date, hour: int, n: int = 0) -> UUID:
    """An id of that day that `days.fill` does not make."""
    instant = datetime(day.year, day.month, day.day, hour, tzinfo=UTC)
    return UUID(bytes=rows.uuid7(int(instant.timestamp() * 1000) + n, n))


def late(dsn: str, hours: float) -> datetime:
    """So many hours inside the retention."""
    ((now,),) = rows.found(dsn, "select taskflow.now()")
    instant: datetime = now - KEEP + timedelta(hours=hours)
    return instant


def waiting_for(dsn: str, statement: str) -> bool:
    waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and query ilike %s)"
    return bool(rows.found(dsn, waits, f"%{statement}%")[0][0])


BATCH_UNDER_WAY = """
    select from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock' and granted
        and objid::bigint = hashtext('taskflow.finished_jobs')::bigint & 4294967295
        and database = (select oid from pg_database where datname = current_database())
"""


# -- what goes, and what stays ---------------------------------------------------------------


def test_a_day_past_its_retention_goes_with_all_that_belongs_to_it(database: str, day: date, queue: str) -> None:
    gone = days.fill(database, day, 20, queue=queue)
    younger = days.ago(29)
    kept = days.fill(database, younger, 5, queue=queue)

    reports = pruned(database)

    assert (reports[day].action, reports[day].deleted, reports[day].put_off) == (Action.DROP, 20, "")
    assert days.partitions(database, day) == []
    assert set(days.of(database, *gone).values()) == {0}
    assert (reports[younger].action, reports[younger].survey) == (Action.KEEP, None), "nobody looked at it"
    assert reports[younger].why == f"kept until {days.ago(-2)} 00:00 UTC"
    assert days.of(database, *kept) == days.whole(5)
    assert closed(database) == []


def test_rows_beside_many_jobs_go_in_batches(
    database: str, day: date, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(module, "BATCH", 10)
    gone = days.fill(database, day, 50, queue=queue)

    pruned(database)

    assert set(days.of(database, *gone).values()) == {0}


def test_a_dry_run_tells_and_changes_nothing(database: str, day: date, queue: str) -> None:
    ids = days.fill(database, day, 3, queue=queue)

    report = pruned(database, dry_run=True)[day]

    assert (report.action, report.deleted) == (Action.DROP, 0)
    assert report.survey is not None
    assert (report.survey.jobs, report.survey.expired, report.survey.unfinished) == (3, 3, 0)
    assert report.survey.newest_finish == datetime(day.year, day.month, day.day, 13, tzinfo=UTC)
    assert days.of(database, *ids) == days.whole(3)


SURVIVORS = {
    "scheduled far ahead": """
        insert into taskflow.deferred values (%s, now() + interval '1 year', 0, 5, 1, 0, 1, 'q', '')""",
    "failed, and tried again": """
        with f as (update taskflow.attempts set final = false, outcome = 2 where job_id = %s returning job_id)
        insert into taskflow.deferred select job_id, now(), 0, 5, 2, 1, 2, 'q', '' from f""",
    "retried by hand": "insert into taskflow.deferred values (%s, now(), 0, 5, 2, 0, 5, 'q', '')",
    "running": """
        insert into taskflow.leases (job_id, exec_id, shard, priority, attempt, tries, started, queue, task)
        values (%s, gen_random_uuid(), 0, 5, 2, 1, true, 'q', '')""",
    "never tried": "delete from taskflow.attempts where job_id = %s",
    "its last attempt not final": """
        insert into taskflow.attempts (job_id, finished_at, attempt, tries, outcome, final)
        values (%s, now() - interval '60 days', 2, 1, 2, false)""",
    "finished lately, in its second attempt": """
        insert into taskflow.attempts (job_id, finished_at, attempt, tries, outcome, final)
        values (%s, now() - interval '3 days', 2, 1, 1, true)""",
}


def test_a_day_with_survivors_is_emptied_of_the_rest(database: str, day: date, queue: str) -> None:
    """2,500 jobs: three batches, the survivors at their borders."""
    ids = days.fill(database, day, 2500, queue=queue)
    survivors = [ids[n] for n in (0, 1, 999, 1000, 1001, 2000, 2499)]
    with psycopg.connect(database, autocommit=True) as conn:
        for job_id, statement in zip(survivors, SURVIVORS.values(), strict=True):
            conn.execute(statement, (job_id,))
    before = {job_id: days.of(database, job_id) for job_id in survivors}

    first, second = pruned(database)[day], pruned(database)[day]

    assert (first.action, first.deleted, first.put_off) == (Action.EMPTY, 2493, "")
    assert "6 unfinished, 1 finished since" in first.why
    assert {job_id: days.of(database, job_id) for job_id in survivors} == before
    rest = set(ids) - set(survivors)
    assert set(days.of(database, *rest).values()) == {0}
    assert (second.action, second.deleted) == (Action.KEEP, 0)


def test_more_survivors_than_a_batch_has_do_not_hide_the_rest(
    database: str, day: date, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    ids = days.fill(database, day, 9, queue=queue)
    with psycopg.connect(database, autocommit=True) as conn:
        for job_id in ids[:7]:
            conn.execute(SURVIVORS["scheduled far ahead"], (job_id,))

    report = pruned(database)[day]

    assert (report.action, report.deleted) == (Action.EMPTY, 2)
    assert days.of(database, *ids) == days.whole(7)


@pytest.mark.parametrize("kind", SURVIVORS)
def test_a_day_with_one_such_job_is_not_dropped(database: str, day: date, queue: str, kind: str) -> None:
    ids = days.fill(database, day, 2, queue=queue)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(SURVIVORS[kind], (ids[1],))

    report = pruned(database)[day]

    assert (report.action, report.deleted) == (Action.EMPTY, 1)
    assert days.of(database, ids[1])["jobs"] == 1


def test_a_survivor_that_has_finished_lets_its_day_go(database: str, day: date, queue: str) -> None:
    first, paused = days.fill(database, day, 2, queue=queue)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(SURVIVORS["scheduled far ahead"], (paused,))
    assert pruned(database)[day].action is Action.EMPTY

    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("delete from taskflow.deferred where job_id = %s", (paused,))

    assert pruned(database)[day].action is Action.DROP
    assert set(days.of(database, first, paused).values()) == {0}


def test_a_day_that_can_soon_be_dropped_whole_is_left_until_then(database: str, day: date, queue: str) -> None:
    soon, older = days.fill(database, day, 1, queue=queue, finished=late(database, hours=5)), days.ago(next(_days))
    days.fill(database, older, 1, queue=queue)

    report = pruned(database)[day]

    assert (report.action, report.deleted) == (Action.KEEP, 0)
    assert "1 finished since" in report.why
    assert days.of(database, *soon) == days.whole(1)


def test_the_days_that_get_jobs_are_kept_however_short_the_retention(database: str, queue: str) -> None:
    """A partition that went would be missed by the next insert."""
    yesterday, before = days.ago(1), days.ago(2)
    ids = days.fill(database, yesterday, 1, queue=queue, finished=datetime.now(UTC) - timedelta(hours=20))
    days.fill(database, before, 1, queue=queue)

    reports = pruned(database, keep=timedelta(hours=1))

    assert reports[before].action is Action.DROP
    assert reports[yesterday].action is Action.KEEP
    assert days.of(database, *ids) == days.whole(1)
    assert len(days.partitions(database, days.ago(0))) == 2


def test_a_retention_under_an_hour_is_refused(database: str) -> None:
    with pytest.raises(InvalidArgument, match="older_than: 0:59:00 is below the minimum of 1:00:00"):
        pruned(database, keep=timedelta(minutes=59))


def test_a_partition_that_somebody_else_detached_is_theirs(database: str, day: date, queue: str) -> None:
    days.fill(database, day, 2, queue=queue)
    with psycopg.connect(database, autocommit=True) as conn:
        for parent in ("jobs", "attempts"):
            conn.execute(f"alter table taskflow.{parent} detach partition taskflow.{parent}_p{day:%Y%m%d}")

    reports = pruned(database)

    assert day not in reports
    assert len(days.partitions(database, day)) == 2


# -- beside others ---------------------------------------------------------------------------


@pytest.mark.feature("B7")
def test_a_long_reader_stops_no_insert_and_its_day_goes_when_it_ends(
    database: str, day: date, queue: str, in_background: Callable[..., Future[dict[date, DayReport]]]
) -> None:
    """The detach of the first day stays pending, and the second day cannot be detached either."""
    younger, today = day, days.ago(0)
    day = days.ago(next(_days))
    gone = days.fill(database, day, 5, queue=queue) + days.fill(database, younger, 5, queue=queue)
    with psycopg.connect(database) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("select count(*) from taskflow.jobs").fetchone()

        run = in_background(database)
        with psycopg.connect(database, autocommit=True, options=IMPATIENT) as app:
            calls = itertools.count(1)

            def call() -> bool:
                new = (at(today, 1, next(calls)), f"{queue}-new")
                app.execute("insert into taskflow.jobs (id, queue) values (%s, %s)", new)
                app.execute("select count(*) from taskflow.job_states where queue = %s", (queue,))
                return run.done()

            eventually(call, 20)
        reports = run.result()
        app_saw = rows.found(database, "select count(*) from taskflow.jobs where queue = %s", queue)
        seen = reader.execute("select count(*) from taskflow.jobs where queue = %s", (queue,)).fetchone()
        while_pending = pruned(database)
        rows.found(database, "select taskflow.create_partitions('2041-01-01', 1)")

    assert next(calls) > 5
    assert "cannot be detached" in reports[day].put_off and "cannot be detached" in reports[younger].put_off
    assert app_saw == [(5,)], "of a day whose detach is pending nobody new sees a row"
    assert seen == (10,), "but the reader sees what it saw"
    assert while_pending[day].put_off and while_pending[younger].put_off
    after = pruned(database)
    assert (after[day].put_off, after[younger].put_off) == ("", "")
    assert set(days.of(database, *gone).values()) == {0}
    assert days.partitions(database, day) == days.partitions(database, younger) == []


@pytest.mark.feature("B7")
def test_what_somebody_else_left_pending_is_finalized_first(database: str, day: date, queue: str) -> None:
    theirs, ours = day, days.ago(next(_days))
    days.fill(database, theirs, 1, queue=queue)
    gone = days.fill(database, ours, 1, queue=queue)
    with psycopg.connect(database) as reader, psycopg.connect(database, autocommit=True, options=IMPATIENT) as dba:
        reader.execute("select count(*) from taskflow.jobs")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            dba.execute(f"alter table taskflow.jobs detach partition taskflow.jobs_p{theirs:%Y%m%d} concurrently")

    reports = pruned(database)

    assert theirs not in reports
    assert len(days.partitions(database, theirs)) == 2
    assert reports[ours].put_off == ""
    assert set(days.of(database, *gone).values()) == {0}


def test_one_prune_at_a_time(database: str, day: date, queue: str) -> None:
    days.fill(database, day, 1, queue=queue)
    with psycopg.connect(database) as other:
        other.execute("select pg_advisory_lock(hashtext('taskflow.prune'))")

        with pytest.raises(PruneBusy):
            pruned(database)
        assert pruned(database, dry_run=True)[day].action is Action.DROP
        refused = command(database)

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "taskflow db prune: another prune is running" in refused.stderr
    assert pruned(database)[day].action is Action.DROP


def test_a_job_that_comes_at_the_last_moment_stays(
    database: str, day: date, queue: str, in_background: Callable[..., Future[dict[date, DayReport]]]
) -> None:
    """An SQL transaction may be long, and its id old."""
    ids = days.fill(database, day, 1, queue=queue)
    with psycopg.connect(database) as app:
        app.execute("insert into taskflow.jobs (id, queue) values (%s, %s)", (at(day, 1), queue))
        run = in_background(database)
        eventually(lambda: waiting_for(database, "create or replace trigger") or run.done())
        app.commit()

    assert run.result()[day].put_off
    assert days.of(database, *ids) == days.whole(1)
    assert days.of(database, at(day, 1))["jobs"] == 1
    assert closed(database) == []
    insert(database, [at(day, 2)], queue)


@pytest.mark.feature("A14")
def test_a_retry_at_the_last_moment_keeps_its_job(
    database: str, day: date, queue: str, in_background: Callable[..., Future[dict[date, DayReport]]]
) -> None:
    ids = days.fill(database, day, 2, queue=queue)
    with psycopg.connect(database) as app:
        app.execute("select pg_advisory_xact_lock_shared(hashtext('taskflow.finished_jobs'))")
        app.execute(SURVIVORS["retried by hand"], (ids[0],))
        run = in_background(database)
        eventually(lambda: waiting_for(database, "taskflow.finished_jobs") or run.done())
        app.commit()

    assert run.result()[day].put_off
    assert days.of(database, *ids) == days.whole(2)
    assert (pruned(database)[day].action, days.of(database, ids[0])) == (Action.EMPTY, days.whole(1))


@pytest.mark.feature("A14")
def test_a_retry_under_way_keeps_its_job_from_a_batch(
    database: str, day: date, queue: str, in_background: Callable[..., Future[dict[date, DayReport]]]
) -> None:
    retried, _, paused = days.fill(database, day, 3, queue=queue)
    with psycopg.connect(database) as app, psycopg.connect(database, autocommit=True) as conn:
        conn.execute(SURVIVORS["scheduled far ahead"], (paused,))
        app.execute("select pg_advisory_xact_lock_shared(hashtext('taskflow.finished_jobs'))")
        app.execute(SURVIVORS["retried by hand"], (retried,))
        run = in_background(database)
        eventually(lambda: waiting_for(database, "taskflow.finished_jobs") or run.done())
        app.commit()

    assert run.result()[day].action is Action.EMPTY
    assert days.of(database, retried) == days.whole(1)


@pytest.mark.feature("A14")
def test_a_retry_waits_for_a_batch_and_makes_no_job_wait_that_is_gone(database: str, day: date, queue: str) -> None:
    gone, paused = days.fill(database, day, 2, queue=queue)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(SURVIVORS["scheduled far ahead"], (paused,))
    with ThreadPoolExecutor() as pool:
        run = pool.submit(command, database, failpoint="prune.batch=delay:1.5")
        eventually(lambda: rows.found(database, BATCH_UNDER_WAY) or run.done())

        assert rows.found(database, BATCH_UNDER_WAY)
        assert retry(database, gone) is False
        assert run.result().returncode == 0

    assert set(days.of(database, gone).values()) == {0}
    assert rows.found(database, "select from taskflow.deferred where job_id = %s", gone) == []


# -- killed ----------------------------------------------------------------------------------

PRUNED = ("history-whole", "keys-lead", "key-once")  # checks that find what a prune leaves behind


def found_in(database: str, queue: str, ids: Sequence[UUID]) -> list[str]:
    """The findings about these jobs. Some earlier tests leave rows behind that no prune leaves."""
    found = contradictions(results(database, *PRUNED, limit=1_000_000))
    names = [f"{queue}-", *(str(id) for id in ids)]
    return [each for part in found.values() for each in part if any(name in each for name in names)]


POINTS = ("closed", "keys_deleted", "jobs_detached", "jobs_dropped", "attempts_detached", "attempts_dropped")


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_two_steps_it_shows_no_half_job_and_is_completed_later(
    database: str, day: date, queue: str, point: str
) -> None:
    ids = days.fill(database, day, 5, queue=queue)

    killed = command(database, failpoint=f"prune.{point}=kill")

    assert killed.returncode == -9, killed.stderr
    assert closed(database) == [day]
    assert unfinished(database, queue) == 0
    assert dispatched(database, queue) == []
    left = days.of(database, *ids)
    assert left["jobs"] in (0, 5)
    assert left["attempts"] >= left["jobs"], "no job without its attempts"
    assert left["cancels"] >= left["jobs"], "no page reads a job that was cancelled before it was read"
    assert left["job_keys"] <= left["jobs"], "no key leads to a job that is gone"
    assert found_in(database, queue, ids) == []
    with pytest.raises(NotFound, match="is past its retention and is being deleted"):
        retry(database, ids[0])
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(database, [at(day, 1)], queue)
    completed = pruned(database)[day]
    assert (completed.action, completed.put_off) == (Action.DROP, "")
    assert set(days.of(database, *ids).values()) == {0}
    assert days.partitions(database, day) == []
    assert closed(database) == []


def test_killed_in_a_batch_it_has_deleted_whole_jobs_only(database: str, day: date, queue: str) -> None:
    ids = days.fill(database, day, 2500, queue=queue)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(SURVIVORS["scheduled far ahead"], (ids[1500],))

    killed = command(database, failpoint="prune.batch=kill@2")

    assert killed.returncode == -9, killed.stderr
    assert days.of(database, *ids) == days.whole(1500)
    assert found_in(database, queue, ids) == []
    assert unfinished(database, queue) == 1
    assert pruned(database)[day].deleted == 1499
    assert days.of(database, *ids) == days.whole(1)


def test_a_closed_day_opens_again_for_a_longer_retention(database: str, day: date, queue: str) -> None:
    """And is closed again by a later run."""
    ids = days.fill(database, day, 2, queue=queue)
    command(database, failpoint="prune.closed=kill")

    kept = pruned(database, keep=timedelta(days=3650))[day]

    assert (kept.action, closed(database)) == (Action.KEEP, [])
    insert(database, [at(day, 1)], queue)
    assert retry(database, ids[0])
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("delete from taskflow.deferred where job_id = %s", (ids[0],))
        conn.execute("delete from taskflow.jobs where id = %s", (at(day, 1),))
    command(database, failpoint="prune.closed=kill")
    with pytest.raises(psycopg.errors.CheckViolation):
        insert(database, [at(day, 2)], queue)
    assert pruned(database)[day].action is Action.DROP


async def test_a_job_for_a_closed_day_is_refused_as_one_without_a_partition(
    database: str, day: date, queue: str
) -> None:
    await asyncio.to_thread(days.fill, database, day, 1, queue=queue)
    await asyncio.to_thread(command, database, failpoint="prune.closed=kill")
    writer = Writer(database)

    with pytest.raises(Unavailable, match="lacks the partition"):
        await store_jobs(writer, [rows.job(queue, id=at(day, 1).bytes)])

    await writer.reset()


# -- the command -----------------------------------------------------------------------------


def test_the_command_tells_about_each_day(database: str, day: date, queue: str) -> None:
    older = days.ago(next(_days))
    ids = days.fill(database, day, 3, queue=queue)
    days.fill(database, older, 2, queue=queue)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(SURVIVORS["scheduled far ahead"], (ids[0],))

    before = command(database, "--dry-run", "--older-than", "30d")
    document = json.loads(command(database, "--json").stdout)
    after = command(database)

    def line(answer: subprocess.CompletedProcess[str], of: date) -> list[str]:
        return next((text.split() for text in answer.stdout.splitlines() if text.startswith(str(of))), [])

    noon = [f"{day}", "13:00:00Z"]
    assert before.returncode == after.returncode == 0
    assert before.stdout.split()[:4] == ["DAY", "JOBS", "EXPIRED", "UNFINISHED"]
    assert line(before, day) == [str(day), "3", "2", "1", *noon, "would", "empty", "1", "unfinished"]
    assert line(before, older) == [str(older), "2", "2", "0", str(older), "13:00:00Z", "would", "drop"]
    assert line(before, days.ago(0))[-5:] == ["keep", "may", "still", "get", "jobs"]
    told = {item["day"]: item for item in document["days"]}
    assert document["dry_run"] is False
    assert (told[str(older)]["action"], told[str(older)]["deleted"]) == ("drop", 2)
    assert (told[str(day)]["action"], told[str(day)]["deleted"], told[str(day)]["unfinished"]) == ("empty", 2, 1)
    assert line(after, day) == [str(day), "1", "0", "1", "-", "keep", "1", "unfinished"]
    assert line(after, older) == []


def test_the_command_says_what_was_put_off(database: str, day: date, queue: str) -> None:
    days.fill(database, day, 1, queue=queue)
    with psycopg.connect(database) as reader:
        reader.execute("select count(*) from taskflow.jobs")

        answer = command(database)

    assert answer.returncode == 1
    assert f"put off  jobs of {day} cannot be detached: canceling statement due to lock timeout" in answer.stdout
    assert pruned(database)[day].put_off == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--older-than", "soon"], "--older-than soon: give seconds, or a length like"),
        (["--older-than", "10m"], "older_than: 0:10:00 is below the minimum of 1:00:00"),
        (["--older-than", "9999999d"], "--older-than 9999999d: must not be negative, nor without end"),
    ],
)
def test_a_wrong_retention_is_said_in_one_line(database: str, words: list[str], says: str) -> None:
    answer = command(database, *words)

    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)
    assert says in answer.stderr


# -- firings and counts ----------------------------------------------------------------------

LEDGER = """
with made as (
    insert into taskflow.schedules (id, task, cron, time_zone, misfire, overlap, cursor, active)
    values (gen_random_uuid(), 't', '@daily', 'UTC', 'skip', 'skip', now(), false) returning id
)
insert into taskflow.firings (schedule_id, instant, first, state, reason, job_id, open, decided_at)
select made.id, to_timestamp(w.n), now(), w.state, w.name, w.job_id, w.open, now() - w.age * interval '1 day'
from made, unnest(%s::integer[], %s::text[], %s::text[], %s::uuid[], %s::boolean[], %s::integer[])
    as w (n, name, state, job_id, open, age)
"""


def test_firings_and_counts_go_by_their_age_unless_overlap_or_a_queued_one_needs_them(
    database: str, day: date, queue: str
) -> None:
    (done,) = days.fill(database, days.ago(29), 1, queue=queue)
    waits = at(days.ago(0), 0)
    insert(database, [waits], queue)
    firings: list[tuple[str, str, UUID | None, bool, int]] = [
        ("closed", "fired", done, False, 40),
        ("its job is done", "fired", done, True, 40),
        ("its job is gone", "fired", UUID(int=1), True, 40),
        ("skipped", "skipped_misfire", None, False, 40),
        ("its job waits", "fired", waits, True, 40),
        ("waits itself", "queued", None, False, 40),
        ("young", "fired", done, False, 29),
    ]
    columns = [list(column) for column in zip(*firings, strict=True)]
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(LEDGER, (list(range(len(firings))), *columns))
        conn.execute(
            "insert into taskflow.counts select %s, now() - n * interval '1 day', 1, 7 from generate_series(28, 33) n",
            (queue,),
        )
    of_queue = "select count(*) from taskflow.counts where queue = %s"

    would = asyncio.run(prune(database, keep=KEEP, dry_run=True))
    assert (would.firings, rows.found(database, of_queue, queue)) == (4, [(6,)])
    report = asyncio.run(prune(database, keep=KEEP))

    assert (report.firings, report.counts) == (would.firings, would.counts)
    left = rows.found(database, "select reason from taskflow.firings order by instant")
    assert left == [("its job waits",), ("waits itself",), ("young",)]
    assert rows.found(database, of_queue, queue) == [(2,)]


def test_runs_go_by_their_age_with_what_belongs_to_them_unless_they_have_something_to_hear(database: str) -> None:
    runs = {"old": 40, "retried": 40, "young": 29, "unfinished": None}
    with psycopg.connect(database, autocommit=True) as conn:
        for number, (label, age) in enumerate(runs.items(), 1):
            ended = None if age is None else timedelta(days=age)
            conn.execute(
                "insert into taskflow.runs"
                " (id, workflow, version, shard, context, label, trigger, created_at, finished_at)"
                " values (%s, 'w', 1, 0, '{}', %s, 'manual', now() - interval '50 days', now() - %s::interval)",
                (UUID(int=number), label, ended),
            )
            step = "insert into taskflow.run_steps (run_id, step, iteration, status) values (%s, 's', 1, 'failed')"
            conn.execute(step, (UUID(int=number),))
        conn.execute("insert into taskflow.run_inbox (run_id, shard, event) values (%s, 0, '{}')", (UUID(int=2),))

    would = asyncio.run(prune(database, keep=KEEP, dry_run=True))
    report = asyncio.run(prune(database, keep=KEEP))

    assert (would.runs, report.runs) == (1, 1)
    left = "select label from taskflow.runs join taskflow.run_steps on run_id = id order by id"
    assert rows.found(database, left) == [("retried",), ("young",), ("unfinished",)]
