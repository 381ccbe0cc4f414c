"""A8: an outcome whose commit is in doubt is written again by its key, and what stands there first wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from taskflow._policy import Outcome, decide
from taskflow.v1.queue_pb2 import Assignment
from taskflow_server.coordinator.outcomes.ending import Ending, changes_of
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.lanes import LaneKey
from taskflow_server.store.database import Database, Writer
from taskflow_server.store.dispatch import AttemptRow, Changes, TaskLogRow, recorded, take_shards, write
from taskflow_server.store.jobs import store_jobs
from tests.support import rows
from tests.support.waiting import eventually_async

pytestmark = pytest.mark.feature("A8")


@pytest.fixture
async def make_writer(database: str) -> AsyncIterator[Callable[[], Writer]]:
    made: list[Writer] = []

    def make() -> Writer:
        made.append(Writer(database))
        return made[-1]

    yield make
    for writer in made:
        await writer.reset()


@pytest.fixture
async def epochs(make_writer: Callable[[], Writer]) -> dict[int, int]:
    taken = await take_shards(
        make_writer(), {0: 0}, owner="c", incarnation=uuid4(), address="a:1", queue_name="q", queue_address="a:2"
    )
    return {shard: epoch for shard, (epoch, _) in taken.items()}


def put(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], row: AttemptRow) -> Any:
    """An attempt's row, as another commit wrote it."""
    return conn.execute(
        "insert into taskflow.attempts (job_id, finished_at, exec_id, attempt, tries, outcome, final)"
        " values (%s, now(), %s, %s, 1, %s, %s)",
        (UUID(bytes=row.job_id), row.exec_id and UUID(bytes=row.exec_id), row.attempt, row.outcome, row.final),
    )


def small_rows(database: str, job_id: bytes) -> dict[str, bool]:
    """Which of the small tables have a row of the job, and whether its cancel is done."""
    found = rows.found(
        database,
        "select exists (select from taskflow.deferred where job_id = %(id)s),"
        " exists (select from taskflow.leases where job_id = %(id)s),"
        " exists (select from taskflow.cancels where job_id = %(id)s and done)",
        id=UUID(bytes=job_id),
    )
    return dict(zip(("deferred", "leased", "cancelled"), found[0], strict=True))


@pytest.mark.parametrize("slow", [False, True], ids=["by-copy", "by-keys"])
async def test_an_attempt_is_stored_as_it_was_told(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int], slow: bool
) -> None:
    full = rows.attempt(rows.new_id(), tries=2, outcome=Outcome.FAILED, final=False, encoding=3, result=b"\0\xff",
                        error=b'{"type":"E","message":"\xc3\xa4"}', worker="w-1")  # fmt: skip
    bare = rows.attempt(rows.new_id(), started_at=None, exec_id=None, worker=None, result=None, error=None, attempt=3)

    await write(make_writer(), Changes(attempts=[full, bare]), epochs, slow=slow)

    found = rows.found(
        database,
        "select job_id, exec_id, attempt, tries, outcome, final, encoding, worker, result, error,"
        " (extract(epoch from started_at) * 1000000)::bigint, (extract(epoch from finished_at) * 1000000)::bigint"
        " from taskflow.attempts where job_id = any(%s) order by attempt",
        [UUID(bytes=full.job_id), UUID(bytes=bare.job_id)],
    )
    assert full.exec_id is not None
    assert found == [
        (UUID(bytes=full.job_id), UUID(bytes=full.exec_id), 1, 2, 2, False, 3, "w-1", b"\0\xff",
         {"type": "E", "message": "ä"}, full.started_at, full.finished_at),
        (UUID(bytes=bare.job_id), None, 3, 1, 1, True, 1, None, None, None, None, bare.finished_at),
    ]  # fmt: skip


async def test_a_row_that_stands_there_by_the_same_exec_id_is_accepted_and_the_rest_is_written(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int]
) -> None:
    there = rows.attempt(rows.new_id(), outcome=Outcome.FAILED, final=False)
    new = rows.attempt(rows.new_id())
    with psycopg.connect(database, autocommit=True) as conn:
        put(conn, there)

    with pytest.raises(psycopg.errors.UniqueViolation):
        await write(make_writer(), Changes(attempts=[there, new]), epochs)
    assert rows.attempts_of(database, new.job_id) == {}
    await write(make_writer(), Changes(attempts=[there, new], defer=[rows.deferred(there.job_id)]), epochs, slow=True)

    assert rows.attempts_of(database, there.job_id, new.job_id) == {
        there.job_id: there.exec_id, new.job_id: new.exec_id,
    }  # fmt: skip
    assert small_rows(database, there.job_id)["deferred"]


async def test_a_row_by_another_exec_id_wins_and_nothing_else_of_its_job_is_touched(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int]
) -> None:
    """Ours says that the job is final; what stands there has it tried again: its row in `deferred` must live."""
    beaten, good = rows.attempt(rows.new_id()), rows.attempt(rows.new_id())
    with psycopg.connect(database, autocommit=True) as conn:
        put(conn, beaten._replace(exec_id=rows.new_exec(), outcome=Outcome.LOST, final=False))
        for one in (beaten, good):
            job = (UUID(bytes=one.job_id),)
            conn.execute("insert into taskflow.deferred values (%s, now(), 0, 5, 2, 1, 2, 'q', '')", job)
            conn.execute("insert into taskflow.leases values (%s, %s, now(), 0, 5, 2, 1, 0, true, 'q', '')", job * 2)
            conn.execute("insert into taskflow.cancels (job_id, shard) values (%s, 0)", job)

    ended = [beaten.job_id, good.job_id]
    changes = Changes(attempts=[beaten, good], undefer=ended, unlease=ended, cancelled=ended)
    await write(make_writer(), changes, epochs, slow=True)

    assert small_rows(database, beaten.job_id) == {"deferred": True, "leased": True, "cancelled": False}
    assert small_rows(database, good.job_id) == {"deferred": False, "leased": False, "cancelled": True}


async def test_an_outcome_that_was_decided_again_after_a_commit_in_doubt_leaves_what_that_commit_wrote(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int]
) -> None:
    """The same attempt: the retry that was committed has its row in `deferred`; a cancel came before the second try."""
    first = rows.attempt(rows.new_id(), outcome=Outcome.FAILED, final=False)
    good = rows.attempt(rows.new_id())
    writer = make_writer()
    await write(writer, Changes(attempts=[first], defer=[rows.deferred(first.job_id)]), epochs)

    again = first._replace(outcome=Outcome.CANCELLED, final=True)
    ended = [first.job_id, good.job_id]
    changes = Changes(attempts=[again, good], undefer=ended, cancelled=ended)

    assert await write(writer, changes, epochs, slow=True) == {first.job_id}
    assert small_rows(database, first.job_id)["deferred"]
    assert rows.attempts_of(database, good.job_id) == {good.job_id: good.exec_id}


async def test_a_job_that_another_commit_finished_is_not_tried_again(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int]
) -> None:
    beaten = rows.attempt(rows.new_id(), outcome=Outcome.FAILED, final=False)
    with psycopg.connect(database, autocommit=True) as conn:
        put(conn, beaten._replace(exec_id=None, outcome=Outcome.CANCELLED, final=True))

    await write(make_writer(), Changes(attempts=[beaten], defer=[rows.deferred(beaten.job_id)]), epochs, slow=True)

    assert rows.attempts_of(database, beaten.job_id) == {beaten.job_id: None}
    assert not small_rows(database, beaten.job_id)["deferred"]


@pytest.mark.parametrize("ends", ["commit", "rollback"])
async def test_a_commit_in_doubt_is_waited_for_and_written_if_it_did_not_happen(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int], ends: str
) -> None:
    row = rows.attempt(rows.new_id())
    async with await psycopg.AsyncConnection.connect(database) as doubtful:
        await put(doubtful, row)
        assert rows.attempts_of(database, row.job_id) == {}, "a plain SELECT says that it is absent"

        writing = asyncio.create_task(write(make_writer(), Changes(attempts=[row]), epochs, slow=True))
        await eventually_async(lambda: rows.found(database, "select 1 from pg_locks where not granted"))
        assert not writing.done()
        await getattr(doubtful, ends)()
    await writing

    assert rows.attempts_of(database, row.job_id) == {row.job_id: row.exec_id}


async def test_what_is_recorded_is_told_by_job_and_attempt(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int]
) -> None:
    one, other = rows.attempt(rows.new_id(), outcome=Outcome.SNOOZED, final=False), rows.new_id()
    await write(make_writer(), Changes(attempts=[one]), epochs)
    db = Database(database)
    await db.open()

    told = await recorded(db, [(one.job_id, 1), (one.job_id, 2), (other, 1)])

    await db.close()
    assert told == {(one.job_id, 1): (one.exec_id, Outcome.SNOOZED)}


@pytest.mark.feature("S4.4")
@pytest.mark.parametrize("slow", [False, True], ids=["at-once", "after-a-commit-in-doubt"])
async def test_an_attempt_at_a_run_of_a_named_task_is_in_its_log_once(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int], slow: bool
) -> None:
    """Told by memory, or, where that does not know what a job is, by the job's row."""
    task = uuid4()
    known, unknown, other, odd = (rows.new_id() for _ in range(4))
    options = b'{"task_id": "%s"}' % str(task).encode()
    writer = make_writer()
    by_sql = rows.job(id=odd, options=b'{"task_id": "------------------------------------"}')
    await store_jobs(writer, [rows.job(id=unknown, options=options), rows.job(id=other), by_sql])
    ended = [rows.attempt(job_id) for job_id in (known, unknown, other, odd)]
    changes = Changes(
        attempts=ended,
        task_logs=[
            TaskLogRow(of_task, a.job_id, a.attempt, a.started_at, a.finished_at, a.outcome, a.final)
            for of_task, a in zip((task, None, None, None), ended, strict=True)
        ],
    )

    await write(writer, changes, epochs)
    if slow:
        await write(writer, changes, epochs, slow=True)

    told = "select job_id, attempt, outcome, final from taskflow.task_logs where task_id = %s"
    logged = rows.found(database, told, task)
    assert sorted(logged) == sorted((UUID(bytes=job_id), 1, Outcome.SUCCEEDED, True) for job_id in (known, unknown))


@pytest.mark.feature("A17")
async def test_a_lease_row_whose_commit_is_in_doubt_is_not_left_behind(
    database: str, make_writer: Callable[[], Writer], epochs: dict[int, int]
) -> None:
    """It would hide the next attempt of its job from a takeover."""
    row = rows.attempt(rows.new_id())
    entry = Entry(row.job_id, LaneKey("q", "", 5), 0, 1, 0, Assignment(), lease_tried=True)
    change = decide(Outcome.SUCCEEDED, tries=0, retries=0, rng=float)
    changes = changes_of([Ending(entry, change, row, epochs[0])], rows.now_us())

    async with await psycopg.AsyncConnection.connect(database) as in_doubt:
        await in_doubt.execute(
            "insert into taskflow.leases (job_id, exec_id, shard, priority, attempt, tries, started, queue, task)"
            " values (%s, %s, 0, 5, 1, 0, true, 'q', '')",
            (UUID(bytes=row.job_id), UUID(bytes=rows.new_exec())),
        )
        writing = asyncio.create_task(write(make_writer(), changes, epochs))
        waiting = "select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        await eventually_async(lambda: rows.found(database, waiting))
        await in_doubt.commit()
        await writing
    assert rows.found(database, "select from taskflow.leases where job_id = %s", UUID(bytes=row.job_id)) == []
