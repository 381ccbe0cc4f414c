"""Which jobs have missed their sla, on a real Postgres: by what is on disk, else by what memory knows; once, fenced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from taskflow._policy import Outcome
from taskflow_server.core.errors import NotOwner
from taskflow_server.store.database import Writer
from taskflow_server.store.dispatch import Changes, judge_slas, take_shards, write
from taskflow_server.store.jobs import store_jobs
from taskflow_server.store.queries import sql
from tests.support import rows

DUE = datetime.now(UTC) - timedelta(hours=1)
EARLY, LATE = (rows.now_us() - int(hours * 3.6e9) for hours in (2, 0.5))


@pytest.fixture
async def writer(database: str) -> AsyncIterator[Writer]:
    made = Writer(database)
    yield made
    await made.reset()


async def epoch_of(writer: Writer) -> int:
    """A lease of shard 0, taken over now."""
    taken = await take_shards(
        writer, {0: 0}, owner="c", incarnation=uuid4(), address="a:1", queue_name="q", queue_address="a:2"
    )
    return taken[0][0]


def due(database: str, job_id: bytes) -> None:
    statement = "insert into taskflow.job_slas (shard, due_at, job_id) values (0, %s, %s)"
    rows.run(database, statement, DUE, UUID(bytes=job_id))


def asked(job_id: bytes, *, late: bool | None, absent: bool = False) -> dict[str, list[Any]]:
    return {"shard": [0], "due_at": [DUE], "job_id": [UUID(bytes=job_id)], "late": [late], "absent": [absent]}


def standing(database: str, job_id: bytes) -> tuple[int, int]:
    """Rows that wait to be judged, and recorded misses."""
    found = rows.found(
        database,
        "select (select count(*) from taskflow.job_slas where job_id = %(id)s),"
        " (select count(*) from taskflow.job_sla_misses where job_id = %(id)s)",
        id=UUID(bytes=job_id),
    )
    return found[0][0], found[0][1]


def ended(started: int | None, finished: int, **values: Any) -> list[dict[str, Any]]:
    return [{"started_at": started, "finished_at": finished, **values}]


LEASED: list[dict[str, Any]] = [{"lease": True}]
AGAIN = {"attempt": 2, "started_at": LATE, "finished_at": LATE}
CASES: dict[str, tuple[list[dict[str, Any]], bool | None, bool, tuple[int, int]]] = {
    "started in time": (ended(EARLY, LATE), True, False, (0, 0)),
    "started in time, retried late": ([*ended(EARLY, EARLY, final=False), AGAIN], True, False, (0, 0)),
    "started late": (ended(LATE, LATE), None, False, (0, 1)),
    "cancelled in time, unstarted": (ended(None, EARLY, outcome=Outcome.CANCELLED), True, False, (0, 0)),
    "cancelled in time, retried late": ([*ended(None, EARLY, outcome=Outcome.CANCELLED), AGAIN], True, False, (0, 0)),
    "cancelled late, unstarted": (ended(None, LATE, outcome=Outcome.CANCELLED), None, False, (0, 1)),
    "waits, as memory knows": ([], True, False, (0, 1)),
    "started in time, as memory knows": ([], False, False, (0, 0)),
    "memory cannot tell": ([], None, False, (1, 0)),
    "in no memory, and waits": ([], True, True, (0, 1)),
    "in no memory, and leased": (LEASED, True, True, (1, 0)),
    "lost unstarted, waits again": (ended(None, EARLY, outcome=Outcome.LOST, final=False), True, False, (0, 1)),
}


@pytest.mark.feature("S1.1")
@pytest.mark.parametrize("case", CASES)
async def test_the_first_start_or_end_decides_and_else_what_memory_knows(
    database: str, writer: Writer, case: str
) -> None:
    facts, late, absent, wanted = CASES[case]
    job = rows.job()
    await store_jobs(writer, [job])
    due(database, job.id)
    epoch = await epoch_of(writer)
    attempts = [rows.attempt(job.id, **fact) for fact in facts if "lease" not in fact]
    leases = [rows.lease(job.id, started=True) for fact in facts if "lease" in fact]
    await write(writer, Changes(attempts=attempts, leases=leases), {0: epoch})

    found = await judge_slas(writer, asked(job.id, late=late, absent=absent), {0: epoch})

    assert standing(database, job.id) == wanted
    assert [row["job_id"].bytes for row in found] == [job.id] * wanted[1]


@pytest.mark.feature("S1.1")
async def test_a_miss_is_recorded_once_and_never_of_a_job_that_is_gone(database: str, writer: Writer) -> None:
    job, gone = rows.job(), rows.new_id()
    await store_jobs(writer, [job])
    epoch = await epoch_of(writer)
    recorded = []
    for _ in range(2):
        due(database, job.id)
        recorded.append(len(await judge_slas(writer, asked(job.id, late=True), {0: epoch})))
    assert recorded == [1, 0]
    assert await judge_slas(writer, asked(job.id, late=True), {0: epoch}) == []
    assert standing(database, job.id) == (0, 1)
    due(database, gone)
    assert await judge_slas(writer, asked(gone, late=True, absent=True), {0: epoch}) == []
    assert standing(database, gone) == (0, 0)


@pytest.mark.feature("S1.1", "A1")
async def test_an_owner_whose_shard_was_taken_records_no_miss(database: str, writer: Writer) -> None:
    job = rows.job()
    await store_jobs(writer, [job])
    due(database, job.id)
    epoch = await epoch_of(writer)
    await epoch_of(writer)

    with pytest.raises(NotOwner):
        await judge_slas(writer, asked(job.id, late=True), {0: epoch})

    assert standing(database, job.id) == (1, 0)


@pytest.mark.feature("S1.1")
def test_what_looks_for_slas_reads_few_rows(database: str) -> None:
    with psycopg.connect(database) as conn:
        conn.execute(
            "insert into taskflow.job_slas select n % 16, now() + interval '1 day', gen_random_uuid()"
            " from generate_series(1, 20000) n"
        )
        conn.execute("analyze taskflow.job_slas")
        places = {"shards": list(range(16)), "sinces": [DUE] * 16, "ids": [UUID(int=0)] * 16}
        wanted = {**places, "seconds": 1, "limit": 200}
        plan = conn.execute("explain (analyze, format text) " + sql("due_job_slas"), wanted).fetchall()
    assert not any("Seq Scan on job_slas" in line for (line,) in plan)
