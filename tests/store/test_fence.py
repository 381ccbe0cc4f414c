"""A1: a coordinator that owns a shard no more writes nothing there, and a takeover never waits for long."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import psycopg
import pytest

from taskflow_server.core.errors import NotOwner, Unavailable
from taskflow_server.core.lanes import LOW_ID, LaneKey, Mark, Position
from taskflow_server.store.database import CommitUnknown, Writer, commit
from taskflow_server.store.dispatch import Changes, take_shards, write
from tests.support import rows
from tests.support.cluster import Program
from tests.support.waiting import eventually, eventually_async

pytestmark = pytest.mark.feature("A1")


@pytest.fixture
async def make_writer(database: str) -> AsyncIterator[Callable[[], Writer]]:
    made: list[Writer] = []

    def make() -> Writer:
        made.append(Writer(database))
        return made[-1]

    yield make
    for writer in made:
        await writer.reset()


async def take(writer: Writer, *shards: int, owner: str = "c") -> dict[int, int]:
    """Takes shards over; their new epochs."""
    taken = await take_shards(
        writer, dict.fromkeys(shards, 0), owner=owner, incarnation=uuid4(), address="a:1", queue_name="q",
        queue_address="a:2",
    )  # fmt: skip
    return {shard: epoch for shard, (epoch, _) in taken.items()}


def everything(job_id: bytes) -> Changes:
    """A transaction that touches every table that a coordinator writes."""
    key = LaneKey("fenced", "", 5)
    return Changes(
        attempts=[rows.attempt(job_id)],
        defer=[rows.deferred(job_id)],
        leases=[rows.lease(job_id)],
        cancelled=[job_id],
        marks=[(key, Mark(Position(7, LOW_ID), frozenset()))],
        other=[("create_queues", {"names": [f"of-{job_id.hex()}"], "shards": [0]})],
    )


def prints(database: str, job_id: bytes) -> dict[str, Any]:
    """The rows that `everything` leaves behind, by table."""
    answers = rows.found(
        database,
        "select (select count(*) from taskflow.attempts where job_id = %(id)s) as attempts,"
        " (select count(*) from taskflow.deferred where job_id = %(id)s) as deferred,"
        " (select count(*) from taskflow.leases where job_id = %(id)s) as leases,"
        " (select done from taskflow.cancels where job_id = %(id)s) as cancels,"
        " (select tx::text from taskflow.lanes where queue = 'fenced') as lanes,"
        " (select count(*) from taskflow.queues where name = %(queue)s) as queues",
        id=UUID(bytes=job_id),
        queue=f"of-{job_id.hex()}",
    )
    return dict(zip(("attempts", "deferred", "leases", "cancels", "lanes", "queues"), answers[0], strict=True))


@pytest.fixture
def job_id(database: str) -> bytes:
    """A job with a wish to cancel it, in a lane whose mark stands at the beginning."""
    made = rows.new_id()
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("insert into taskflow.queues values ('fenced', 0) on conflict do nothing")
        conn.execute("insert into taskflow.lanes values ('fenced', '', 5, 0) on conflict do nothing")
        conn.execute("update taskflow.lanes set tx = '0'")
        conn.execute("insert into taskflow.cancels (job_id, shard) values (%s, 0)", (UUID(bytes=made),))
    return made


@pytest.mark.parametrize("slow", [False, True], ids=["by-copy", "by-keys"])
async def test_an_owner_of_the_present_epoch_writes_all_of_its_transaction(
    database: str, make_writer: Callable[[], Writer], job_id: bytes, slow: bool
) -> None:
    epochs = await take(make_writer(), 0)

    await write(make_writer(), everything(job_id), epochs, slow=slow)

    assert prints(database, job_id) == {
        "attempts": 1, "deferred": 1, "leases": 1, "cancels": True, "lanes": "7", "queues": 1,
    }  # fmt: skip


@pytest.mark.parametrize("slow", [False, True], ids=["by-copy", "by-keys"])
async def test_an_owner_of_a_stale_epoch_writes_nothing_of_its_transaction(
    database: str, make_writer: Callable[[], Writer], job_id: bytes, slow: bool
) -> None:
    stale = await take(make_writer(), 0)
    await take(make_writer(), 0, owner="another")

    with pytest.raises(NotOwner):
        await write(make_writer(), everything(job_id), stale, slow=slow)

    assert prints(database, job_id) == {
        "attempts": 0, "deferred": 0, "leases": 0, "cancels": False, "lanes": "0", "queues": 0,
    }  # fmt: skip


async def test_an_epoch_that_never_was_is_refused_as_well(make_writer: Callable[[], Writer], job_id: bytes) -> None:
    epochs = await take(make_writer(), 0)

    for wrong in ({0: epochs[0] + 1}, {0: epochs[0] - 1}, {99: 1}):
        with pytest.raises(NotOwner):
            await write(make_writer(), Changes(attempts=[rows.attempt(job_id)]), wrong)


async def test_one_stale_shard_of_several_refuses_the_transaction_of_all(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    epochs = await take(make_writer(), 3, 1, 2)
    await take(make_writer(), 2, owner="another")
    jobs = {shard: rows.new_id() for shard in epochs}
    changes = Changes(attempts=[rows.attempt(i, exec_id=rows.new_exec(s, epochs[s])) for s, i in jobs.items()])

    with pytest.raises(NotOwner):
        await write(make_writer(), changes, epochs)
    del epochs[2]
    await write(make_writer(), Changes(attempts=[rows.attempt(jobs[1]), rows.attempt(jobs[3])]), epochs)

    assert rows.attempts_of(database, *jobs.values()).keys() == {jobs[1], jobs[3]}


async def test_a_takeover_waits_for_a_fence_under_way_and_the_next_write_of_the_old_epoch_fails(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    old = await take(make_writer(), 4)
    new_owner, job_ids = make_writer(), [rows.new_id(), rows.new_id()]
    await new_owner.connection()
    async with await psycopg.AsyncConnection.connect(database) as under_way:
        await under_way.execute(
            "insert into taskflow.attempts (job_id, finished_at, attempt, tries, outcome, final)"
            " values (%s, now(), 1, 1, 1, true)",
            (UUID(bytes=job_ids[0]),),
        )
        await under_way.execute("select taskflow.fence(array[4]::smallint[], array[%s]::bigint[])", (old[4],))

        taking = asyncio.create_task(take(new_owner, 4, owner="another"))
        await eventually_async(lambda: is_waiting(database))
        assert not taking.done()
        await under_way.commit()

    new = await taking
    assert new[4] == old[4] + 1
    with pytest.raises(NotOwner):
        await write(make_writer(), Changes(attempts=[rows.attempt(job_ids[1])]), old)
    assert rows.attempts_of(database, *job_ids).keys() == {job_ids[0]}


def is_waiting(database: str) -> bool:
    """Whether a takeover waits for somebody's lock."""
    return bool(
        rows.found(
            database,
            "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            " and query like '%from taskflow.shards%'",
        )
    )


async def test_a_takeover_ends_an_owner_that_hangs_between_its_fence_and_its_commit(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    """The two travel together, but a packet can be lost between them."""
    old = await take(make_writer(), 5)
    async with await psycopg.AsyncConnection.connect(database) as hanging:
        await hanging.execute("select taskflow.fence(array[5]::smallint[], array[%s]::bigint[])", (old[5],))

        async with asyncio.timeout(3):
            new = await take(make_writer(), 5, owner="another")

        assert new[5] == old[5] + 1
        with pytest.raises(psycopg.OperationalError):
            await hanging.commit()


@pytest.fixture
def limited(database: str) -> Iterator[str]:
    """The dsn of a role that may write our tables, and end nobody's backends but its own."""
    role = f"limited_{os.getpid()}"
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute(f"create role {role} login password 'limited'")
        conn.execute(f"grant usage on schema taskflow to {role}")
        conn.execute(f"grant all on all tables in schema taskflow to {role}")
        parts = urlsplit(database)
        yield urlunsplit(parts._replace(netloc=f"{role}:limited@{parts.netloc.rpartition('@')[2]}"))
        conn.execute(f"drop owned by {role}")
        conn.execute(f"drop role {role}")


@pytest.mark.parametrize("ends", ["in time", "too late"])
async def test_a_takeover_waits_for_an_owner_that_it_may_not_end_and_names_it_when_that_is_too_long(
    database: str, limited: str, make_writer: Callable[[], Writer], ends: str
) -> None:
    old, before = await take(make_writer(), 7), refusals(database)
    writer = Writer(limited, timeout=2 if ends == "too late" else 10)
    async with await psycopg.AsyncConnection.connect(database) as hanging:
        await hanging.execute("select taskflow.fence(array[7]::smallint[], array[%s]::bigint[])", (old[7],))
        if ends == "too late":
            with pytest.raises(Unavailable, match=f"backend {hanging.info.backend_pid} of role") as refused:
                await take(writer, 7, owner="another")
            assert refused.value.reason == "SHARDS_LOCKED"
        else:
            taking = asyncio.create_task(take(writer, 7, owner="another"))
            await eventually_async(lambda: refusals(database) > before)
            assert not taking.done()
            await hanging.commit()
            assert (await taking)[7] == old[7] + 1
        await hanging.commit()

    await take(writer, 7, owner="another")
    await writer.reset()


def refusals(database: str) -> int:
    """Transactions that were rolled back: each try to end a backend without the right to is one."""
    return int(
        rows.found(database, "select xact_rollback from pg_stat_database where datname = current_database()")[0][0]
    )


STOPPED = """
import asyncio, sys
from taskflow_server.core.errors import NotOwner
from taskflow_server.store.database import Writer
from taskflow_server.store.dispatch import Changes, write
from tests.support import rows

async def main():
    epoch, job = int(sys.argv[2]), bytes.fromhex(sys.argv[3])
    print("writing", flush=True)
    try:
        await write(Writer(sys.argv[1]), Changes(attempts=[rows.attempt(job)]), {6: epoch})
    except NotOwner:
        print("not the owner", flush=True)

asyncio.run(main())
"""


async def test_an_owner_stopped_between_its_copy_and_its_fence_holds_up_nobody(
    database: str, make_writer: Callable[[], Writer], tmp_path: Path
) -> None:
    old, job_id = await take(make_writer(), 6), rows.new_id()
    env = {**os.environ, "TASKFLOW_FAILPOINTS": "coordinator.before_commit=stop"}
    program = Program([sys.executable, "-c", STOPPED, database, str(old[6]), job_id.hex()], tmp_path / "log", env)
    try:
        eventually(lambda: stopped(program.process.pid))

        async with asyncio.timeout(0.5):
            new = await take(make_writer(), 6, owner="another")
        program.signal(signal.SIGCONT)
        assert program.wait() == 0
    finally:
        program.kill()

    assert new[6] == old[6] + 1
    assert "not the owner" in program.output
    assert rows.attempts_of(database, job_id) == {}


def stopped(pid: int) -> bool:
    return "\nState:\tT" in Path(f"/proc/{pid}/status").read_text()


async def test_a_commit_of_an_aborted_transaction_is_noticed(make_writer: Callable[[], Writer]) -> None:
    with pytest.raises(CommitUnknown, match="ROLLBACK"):
        async with make_writer().transaction() as conn:
            await conn.execute("begin")
            with pytest.raises(psycopg.errors.DivisionByZero):
                await conn.execute("select 1 / 0")
            await commit(conn, [])


async def test_fences_and_takeovers_of_many_shards_at_once_never_lock_each_other_up(
    database: str, make_writer: Callable[[], Writer]
) -> None:
    shards = list(range(16))
    held: dict[str, dict[int, int]] = {name: await take(make_writer(), *shards, owner=name) for name in ("a", "b")}
    fences = {"a": 0, "b": 0}
    over = asyncio.Event()

    async def writes(name: str) -> None:
        writer = make_writer()
        while not over.is_set():
            try:
                await write(writer, Changes(attempts=[rows.attempt(rows.new_id())]), held[name])
            except NotOwner:
                pass
            fences[name] += 1

    async def takes(name: str) -> None:
        writer = make_writer()
        for _ in range(30):
            held[name] = await take(writer, *shards, owner=name)
            before = fences[name]
            await eventually_async(lambda: fences[name] > before)  # noqa: B023

    writing = [asyncio.create_task(writes(name)) for name in held]
    await asyncio.gather(*(takes(name) for name in held))
    over.set()
    await asyncio.gather(*writing)

    last = dict(rows.found(database, "select shard, epoch from taskflow.shards"))
    assert last == {n: max(held["a"][n], held["b"][n]) for n in shards}, "each takeover raised every epoch by one"
    assert len({tuple(sorted(epochs.items())) for epochs in held.values()}) == 2
