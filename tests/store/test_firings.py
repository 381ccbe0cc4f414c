"""A firing is one transaction under its leader's term: a leader that was replaced writes nothing (S1.6, M.7)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from taskflow_server.core.errors import NotOwner
from taskflow_server.store import schedules as store
from taskflow_server.store.database import Database, Writer
from tests.support import rows

AT = datetime(2031, 1, 1, tzinfo=UTC)
SCHEDULE = """
insert into taskflow.schedules (id, task, cron, time_zone, misfire, overlap, cursor, next_at, wake_at)
values (%s, 't', '* * * * *', 'UTC', 'fire_once', 'skip', now(), now(), now() - interval '1 minute') returning id
"""


def schedule(database: str) -> UUID:
    schedule_id = UUID(bytes=rows.new_id())
    rows.found(database, SCHEDULE, schedule_id)
    return schedule_id


def firing(schedule_id: UUID, at: datetime, job: bytes) -> store.Decided:
    later = at + timedelta(minutes=1)
    return store.Decided(
        jobs=[rows.job(id=job, task="t")],
        firings=[store.FiringRow(schedule_id, at, at, 1, "fired", "in time", UUID(bytes=job))],
        cursors=[store.CursorRow(schedule_id, at, later, None, at)],
    )


@pytest.mark.feature("S1.6", "M.7")
async def test_a_leader_that_was_replaced_writes_neither_job_nor_ledger_nor_cursor(database: str) -> None:
    db, writer, schedule_id, job = Database(database), Writer(database), schedule(database), rows.new_id()
    await db.open()
    lead = {"role": store.ROLE, "owner": "a", "incarnation": uuid4()}
    first = (await db.rows("take_lead", seen=0, **lead))[0]["term"]

    with pytest.raises(NotOwner):
        async with writer.transaction() as conn:
            assert [row["id"] for row in await store.begin(conn, 10)] == [schedule_id]
            (second,) = await db.rows("take_lead", seen=first, **lead)  # meanwhile, by another
            await store.write(conn, firing(schedule_id, AT, job), first)

    assert rows.found(database, "select 1 from taskflow.jobs where id = %s", UUID(bytes=job)) == []
    assert rows.found(database, "select 1 from taskflow.firings") == []
    async with writer.transaction() as conn:
        await store.begin(conn, 10)
        await store.write(conn, firing(schedule_id, AT, job), second["term"])
    assert rows.found(database, "select job_id from taskflow.firings") == [(UUID(bytes=job),)]
    await writer.reset()
    await db.close()


@pytest.mark.feature("S1.6")
async def test_of_two_that_try_to_lead_one_does(database: str) -> None:
    db = Database(database)
    await db.open()
    ((seen,),) = rows.found(database, "select term from taskflow.leaders")
    tries = [await db.rows("take_lead", role=store.ROLE, seen=seen, owner=o, incarnation=uuid4()) for o in "ab"]

    assert [len(taken) for taken in tries] == [1, 0]
    await db.close()
