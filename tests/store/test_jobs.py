"""Storing jobs: each once, the bad ones alone refused, keys apart, and lanes that are read in full."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest

from taskflow_server.core.errors import AlreadyExists, InvalidArgument, Unavailable
from taskflow_server.core.names import qualify
from taskflow_server.store.database import Writer
from taskflow_server.store.jobs import NewJob, Result, Stored, store_jobs, store_keyed
from taskflow_server.store.times import to_datetime
from tests.support import rows
from tests.support.waiting import eventually_async


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
def writer(make_writer: Callable[[], Writer]) -> Writer:
    return make_writer()


def ids_of(jobs: Sequence[NewJob]) -> list[bytes]:
    return [job.id for job in jobs]


def stored(database: str, jobs: Sequence[NewJob]) -> set[bytes]:
    ids = [UUID(bytes=job.id) for job in jobs]
    return {row[0].bytes for row in rows.found(database, "select id from taskflow.jobs where id = any(%s)", ids)}


def made(results: Sequence[Result]) -> list[bool]:
    """Which of them are new."""
    return [isinstance(result, Stored) and result.tx > 0 for result in results]


# -- ids (A9) ----------------------------------------------------------------------------------------------------------


@pytest.mark.feature("A9", "S3.1")
async def test_a_job_is_stored_as_it_was_brought(database: str, writer: Writer) -> None:
    due = rows.now_us() + 3_600_000_000
    options = json.dumps({"timeout": 1.5, "tags": ["ä"]}).encode()
    jobs = [
        rows.job("plain"),
        rows.job("full", priority=9, encoding=3, retries=7, deferred=True, task="t", payload=b"\0\xff", run_at=due,
                 options=options, shard=3),
        rows.job("empty", payload=None),
    ]  # fmt: skip

    results = await store_jobs(writer, jobs)

    tx = {r.tx for r in results if isinstance(r, Stored)}
    assert len(tx) == 1 and made(results) == [True] * 3
    found = rows.found(
        database,
        "select id, priority, encoding, retries, deferred, queue, task, payload, key, run_at, options, tx::text::bigint"
        " from taskflow.jobs where id = any(%s) order by queue desc",
        [UUID(bytes=job.id) for job in jobs],
    )
    assert found == [
        (UUID(bytes=jobs[0].id), 5, 1, 0, False, "plain", "", b'{"n":1}', None, None, None, *tx),
        (UUID(bytes=jobs[1].id), 9, 3, 7, True, "full", "t", b"\0\xff", None, to_datetime(due),
         {"timeout": 1.5, "tags": ["ä"]}, *tx),
        (UUID(bytes=jobs[2].id), 5, 1, 0, False, "empty", "", None, None, None, None, *tx),
    ]  # fmt: skip


@pytest.mark.feature("A9")
async def test_the_same_job_brought_again_is_the_same_job(database: str, writer: Writer) -> None:
    jobs = [rows.job(payload=b"1"), rows.job(payload=None), rows.job(payload=b"", encoding=3)]

    first = await store_jobs(writer, jobs)
    again = await store_jobs(writer, jobs)

    assert (made(first), made(again)) == ([True] * 3, [False] * 3)
    assert [r.id for r in again if isinstance(r, Stored)] == ids_of(jobs)
    assert rows.found(database, "select count(*) from taskflow.jobs where id = %s", UUID(bytes=jobs[0].id)) == [(1,)]


@pytest.mark.feature("A9")
@pytest.mark.parametrize(
    "other",
    [
        {"payload": b"2"},
        {"payload": None},
        {"encoding": 2},
        {"queue": "another"},
        {"queue": qualify("q", field="", namespace="another")},
        {"task": "t"},
        {"priority": 6},
        {"retries": 1},
    ],
    ids=str,
)
async def test_an_id_of_another_job_is_refused_and_changes_nothing(
    database: str, writer: Writer, other: dict[str, Any]
) -> None:
    job = rows.job(payload=b"1")
    await store_jobs(writer, [job])

    answer = (await store_jobs(writer, [job._replace(**other)]))[0]

    assert isinstance(answer, AlreadyExists) and answer.reason == "ID_IN_USE"
    kept = rows.found(
        database, "select queue, task, payload, encoding from taskflow.jobs where id = %s", UUID(bytes=job.id)
    )
    assert kept == [("q", "", b"1", 1)]


@pytest.mark.feature("A9")
async def test_a_batch_of_new_old_and_clashing_ids_has_a_result_for_each(database: str, writer: Writer) -> None:
    old, taken = rows.job(), rows.job()
    await store_jobs(writer, [old, taken])
    new, twice = rows.job(), rows.job()

    results = await store_jobs(
        writer, [new, old, taken._replace(payload=b"0"), twice, twice, twice._replace(payload=b"0")]
    )

    assert made(results) == [True, False, False, True, False, False]
    assert [type(r) for r in results] == [Stored, Stored, AlreadyExists, Stored, Stored, AlreadyExists]
    assert stored(database, [new, twice]) == {new.id, twice.id}


@pytest.mark.feature("A9")
async def test_callers_that_bring_the_same_ids_at_once_make_each_job_once(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    jobs = [rows.job() for _ in range(200)]

    batches = [jobs, jobs[::-1], jobs[50:150]]
    results = await asyncio.gather(*(store_jobs(make_writer(), batch) for batch in batches))

    assert all(isinstance(r, Stored) for batch in results for r in batch)
    assert sum(sum(made(batch)) for batch in results) == 200
    assert len(stored(database, jobs)) == 200


# -- deferred jobs (S3.5) ----------------------------------------------------------------------------------------------


@pytest.mark.feature("S3.5", "X.1", "B8")
@pytest.mark.parametrize("way", ["copied", "inserted", "keyed"])
async def test_a_job_due_later_waits_from_its_own_transaction_on_and_stands_in_no_lane(
    database: str, writer: Writer, way: str
) -> None:
    due = rows.now_us() + 60_000_000
    later = rows.job("later", deferred=True, run_at=due, shard=11, priority=7, task="t")
    if way == "keyed":
        results = await store_keyed(writer, [later._replace(key="later")])
    else:
        known = rows.job()
        if way == "inserted":
            await store_jobs(writer, [known])
        results = await store_jobs(writer, [later, known])

    assert made(results)[0]
    found = rows.found(
        database,
        "select d.due_at, d.shard, d.priority, d.attempt, d.tries, d.reason, d.queue, d.task, d.xmin = j.xmin,"
        " j.deferred from taskflow.deferred d join taskflow.jobs j on j.id = d.job_id where j.id = %s",
        UUID(bytes=later.id),
    )
    assert found == [(to_datetime(due), 11, 7, 1, 0, 1, "later", "t", True, True)]


@pytest.mark.feature("S3.5")
async def test_a_deferred_job_that_is_brought_again_after_it_ran_does_not_wait_again(
    database: str, writer: Writer
) -> None:
    job = rows.job(deferred=True, run_at=rows.now_us() + 1_000_000)
    await store_jobs(writer, [job])
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("delete from taskflow.deferred where job_id = %s", (UUID(bytes=job.id),))

    again = await store_jobs(writer, [job, rows.job()])

    assert made(again) == [False, True]
    assert rows.found(database, "select 1 from taskflow.deferred where job_id = %s", UUID(bytes=job.id)) == []


# -- bad rows (B6) -----------------------------------------------------------------------------------------------------

BAD = {
    "NUL in an option": {"options": b'{"metadata":{"a":"\\u0000"}}'},
    "no JSON in options": {"options": b"{"},
    "half a surrogate in an option": {"options": b'{"metadata":{"a":"\\ud800"}}'},
    "a priority out of range": {"priority": 10},
    "negative retries": {"retries": -1},
    "NUL in a name": {"queue": "a\0b"},
}


@pytest.mark.feature("B6")
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
async def test_one_bad_row_of_a_thousand_is_refused_alone(database: str, writer: Writer, bad: dict[str, Any]) -> None:
    jobs = [rows.job("many") for _ in range(1000)]
    jobs[637] = jobs[637]._replace(**bad)

    results = await store_jobs(writer, jobs)

    refused = [n for n, result in enumerate(results) if not isinstance(result, Stored)]
    assert refused == [637]
    assert isinstance(results[637], InvalidArgument) and results[637].reason == "BAD_JOB"
    assert len(stored(database, jobs)) == 999


@pytest.mark.feature("B6", "B5")
async def test_a_bad_row_among_keyed_jobs_is_refused_alone_and_its_key_stays_free(
    database: str, writer: Writer
) -> None:
    jobs = [rows.job("many", key=f"bad-{n}") for n in range(20)]
    jobs[3] = jobs[3]._replace(options=b"{")

    results = await store_keyed(writer, jobs)

    assert [n for n, result in enumerate(results) if not isinstance(result, Stored)] == [3]
    assert made(await store_keyed(writer, [jobs[3]._replace(options=None)])) == [True]


@pytest.mark.feature("B6")
@pytest.mark.parametrize("store", [store_jobs, store_keyed])
async def test_a_missing_partition_is_the_server_s_fault(
    database: str, writer: Writer, store: Callable[..., Any]
) -> None:
    good = rows.job(key="day-0")
    far = rows.job(id=rows.new_id(offset_ms=90 * 86_400_000), key="day-90")

    with pytest.raises(Unavailable) as refused:
        await store(writer, [good, far])

    assert refused.value.reason == "NO_PARTITION"
    assert stored(database, [good]) == set(), "nothing is stored: the same call may be repeated"


# -- keys (B5) ---------------------------------------------------------------------------------------------------------


@pytest.mark.feature("B5", "X.3")
async def test_a_repeated_key_answers_with_the_first_job(database: str, writer: Writer) -> None:
    first, second = rows.job(key="k-1", payload=b"1"), rows.job(key="k-1", payload=b"2")

    results = [(await store_keyed(writer, [job]))[0] for job in (first, second, first)]

    assert made(results) == [True, False, False]
    assert [r.id for r in results if isinstance(r, Stored)] == [first.id] * 3
    assert stored(database, [first, second]) == {first.id}


@pytest.mark.feature("B5", "X.3")
async def test_a_key_that_stands_twice_in_one_batch_makes_one_job(database: str, writer: Writer) -> None:
    jobs = [rows.job(key="k-2") for _ in range(3)]

    results = await store_keyed(writer, jobs)

    assert made(results) == [True, False, False]
    assert {r.id for r in results if isinstance(r, Stored)} == {jobs[0].id}
    assert stored(database, jobs) == {jobs[0].id}


@pytest.mark.feature("B5", "X.3", "X.25")
async def test_a_key_belongs_to_its_namespace(database: str, writer: Writer) -> None:
    jobs = [rows.job("q", key="k-3"), rows.job("other/q", key="k-3")]

    assert made(await store_keyed(writer, jobs)) == [True, True]


@pytest.mark.feature("A9", "B5")
async def test_a_key_cannot_take_the_id_of_another_job(database: str, writer: Writer) -> None:
    taken, good = rows.job(payload=b"1"), rows.job(key="k-5")
    await store_jobs(writer, [taken])

    results = await store_keyed(writer, [taken._replace(key="k-4", payload=b"2"), good])

    assert isinstance(results[0], AlreadyExists) and results[0].reason == "ID_IN_USE"
    assert made(results) == [False, True]
    assert made(await store_keyed(writer, [rows.job(key="k-4")])) == [True], "the key stayed free"


@pytest.mark.feature("B5", "X.3")
async def test_two_batches_with_the_same_keys_at_once_make_each_job_once(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    keys = [f"both-{n}" for n in range(300)]
    ours, theirs = ([rows.job(key=key) for key in order] for order in (keys, keys[::-1]))

    results = await asyncio.gather(store_keyed(make_writer(), ours), store_keyed(make_writer(), theirs))

    owners = [
        {job.key: r.id for job, r in zip(jobs, answers, strict=True) if isinstance(r, Stored)}
        for jobs, answers in zip((ours, theirs), results, strict=True)
    ]
    assert owners[0] == owners[1] and len(owners[0]) == 300
    assert sum(map(sum, map(made, results))) == 300
    assert stored(database, [*ours, *theirs]) == set(owners[0].values())


@pytest.mark.feature("B5")
async def test_an_open_transaction_on_a_key_does_not_stall_the_other_keys(database: str, writer: Writer) -> None:
    jobs = [rows.job(key=f"open-{n}") for n in range(10)]
    async with await psycopg.AsyncConnection.connect(database) as holder:
        await holder.execute(
            "insert into taskflow.job_keys (namespace, key, job_id) values ('default', 'open-0', %s)",
            (UUID(bytes=rows.new_id()),),
        )
        begun = time.monotonic()
        results = await store_keyed(writer, jobs)
        took = time.monotonic() - begun
        await holder.rollback()

    assert made(results) == [False] + [True] * 9
    assert isinstance(results[0], Unavailable) and results[0].reason == "KEY_BUSY"
    assert 0.5 <= took < 4.0
    assert made(await store_keyed(writer, jobs)) == [True] + [False] * 9


# -- whole calls -------------------------------------------------------------------------------------------------------


@pytest.mark.feature("A9", "X.4")
@pytest.mark.parametrize("keyed", [False, True])
async def test_a_call_with_a_clashing_id_is_refused_as_a_whole_and_its_batch_goes_on_without_it(
    database: str, writer: Writer, keyed: bool
) -> None:
    store = store_keyed if keyed else store_jobs
    taken = rows.job(payload=b"1")
    await store_jobs(writer, [taken])
    jobs = [rows.job(call=call, key=f"whole-{call}-{n}" if keyed and n else None) for call in (0, 1, 2) for n in (0, 1)]
    jobs[3] = jobs[3]._replace(id=taken.id)

    results = await store(writer, jobs)

    assert made(results) == [True, True, False, False, True, True]
    assert all(isinstance(r, AlreadyExists) and str(UUID(bytes=taken.id)) in r.message for r in results[2:4])
    assert stored(database, jobs) == {job.id for job in jobs} - {jobs[2].id}


# -- lanes (A2, B8) ----------------------------------------------------------------------------------------------------


@pytest.mark.feature("A2")
async def test_a_job_s_tx_is_the_number_of_the_transaction_that_stored_it(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    batches = [[rows.job("txs") for _ in range(5)] for _ in range(6)]
    duplicate = rows.job("txs")
    await store_jobs(make_writer(), [duplicate])
    batches[0].append(duplicate)

    results = await asyncio.gather(*(store_jobs(make_writer(), batch) for batch in batches))

    told = {r.id: r.tx for batch in results for r in batch if isinstance(r, Stored) and r.tx}
    there = rows.found(
        database, "select id, tx::text::bigint, mod(tx::text::bigint, 4294967296)::text = xmin::text from taskflow.jobs"
                  " where queue = 'txs' and id <> %s", UUID(bytes=duplicate.id)
    )  # fmt: skip
    assert {row[0].bytes: row[1] for row in there} == told
    assert all(row[2] for row in there), "the row's own transaction"
    assert len(set(told.values())) == 6


@pytest.mark.feature("B8")
async def test_the_index_of_a_lane_holds_no_deferred_job(database: str) -> None:
    definition = rows.found(database, "select pg_get_indexdef('taskflow.jobs_lane'::regclass)")[0][0]

    assert definition.endswith("(queue, task, priority, tx, id) WHERE (NOT deferred)")


async def waits(database: str) -> bool:
    return bool(rows.found(database, "select 1 from pg_locks where not granted"))


@pytest.mark.feature("A9")
async def test_a_repeat_waits_for_a_first_try_whose_commit_is_in_doubt(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    """A9: the caller's first call hangs; the second must not make another job, whichever way the first one ends."""
    for ends in ("commit", "rollback"):
        job = rows.job(payload=None)
        async with await psycopg.AsyncConnection.connect(database) as first:
            await first.execute("insert into taskflow.jobs (id, queue) values (%s, 'q')", (UUID(bytes=job.id),))
            repeat = asyncio.create_task(store_jobs(make_writer(), [job]))
            await eventually_async(lambda: waits(database))
            await getattr(first, ends)()
        assert made(await repeat) == [ends == "rollback"]
        assert stored(database, [job]) == {job.id}
