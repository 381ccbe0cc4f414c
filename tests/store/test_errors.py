"""Errors of Postgres, class by class: a row's own fault is refused alone, everything else is an outage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from google.rpc import code_pb2
from prometheus_client import REGISTRY

from taskflow_server.core.errors import InternalFault, InvalidArgument, NotOwner, Unavailable
from taskflow_server.rpc.errors import status_of
from taskflow_server.store.database import Database, Writer
from taskflow_server.store.dispatch import Changes, take_shards, write
from taskflow_server.store.errors import CLASSES, CONNECTION, FAULTS, OTHER, QUERY, DatabaseError, Fault, fault_of
from taskflow_server.store.jobs import store_jobs, store_keyed
from taskflow_server.store.prune import prune
from tests.support import rows
from tests.support.refusing import refusing

ROW_CLASSES = ("22", "23")


@pytest.fixture
async def writer(database: str) -> AsyncIterator[Writer]:
    made = Writer(database)
    yield made
    await made.reset()


@pytest.fixture
async def epochs(writer: Writer) -> dict[int, int]:
    taken = await take_shards(
        writer, {0: 0}, owner="c", incarnation=uuid4(), address="a:1", queue_name="q", queue_address="a:2"
    )
    return {shard: epoch for shard, (epoch, _) in taken.items()}


def outages(label: str) -> float:
    return REGISTRY.get_sample_value("taskflow_database_errors_total", {"class": label}) or 0.0


def test_the_table_knows_every_class_of_the_driver_and_blames_rows_for_two_only() -> None:
    known = {
        kind.sqlstate[:2]
        for kind in vars(psycopg.errors).values()
        if isinstance(kind, type) and issubclass(kind, psycopg.Error) and kind.sqlstate
    }

    assert known - CLASSES.keys() == set()
    assert {name for name, fault in CLASSES.items() if fault is Fault.ROW} == set(ROW_CLASSES)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (psycopg.DataError("a value that cannot be sent"), Fault.ROW),
        (psycopg.OperationalError("the connection broke"), Fault.OUTAGE),
        (psycopg.ProgrammingError("a type that cannot be sent"), Fault.OURS),
        (psycopg.errors.SyntaxError("the server's word on a query"), Fault.OUTAGE),
        (TimeoutError(), Fault.OUTAGE),
    ],
)
def test_an_error_of_the_driver_has_no_class_and_is_a_row_s_only_for_a_bad_value(
    error: Exception, fault: Fault
) -> None:
    assert fault_of(error) is fault


@pytest.mark.feature("B6")
@pytest.mark.parametrize(
    ("parameters", "said"),
    [({}, "query parameter missing: shards"), ({"shards": object()}, "cannot adapt type 'object'")],
)
async def test_a_query_that_cannot_be_sent_is_a_fault_of_ours_and_is_not_tried_again(
    database: str, parameters: dict[str, Any], said: str
) -> None:
    before = outages(QUERY), outages(CONNECTION)
    db = Database(database)
    await db.open()
    try:
        for _ in range(2):
            with pytest.raises(InternalFault, match=f"of TaskFlow's own cannot be sent .{said}") as told:
                await db.rows("list_leases", **parameters)
            assert "does not answer" not in str(told.value)
            assert (status_of(told.value).code, told.value.reason) == (code_pb2.INTERNAL, "BAD_QUERY")
        assert await db.rows("list_leases", shards=[0]) == [], "the connection is as good as before"
    finally:
        await db.close()
    assert (outages(QUERY) - before[0], outages(CONNECTION) - before[1]) == (2, 0)


@pytest.mark.feature("B6")
async def test_a_loop_over_a_query_that_cannot_be_sent_meets_what_it_catches_and_goes_on(database: str) -> None:
    writer = Writer(database)
    for _ in range(2):
        with pytest.raises(FAULTS, match="cannot be sent"):
            async with writer.transaction() as conn:
                await conn.execute("select %(missing)s", {"other": 1})
    async with writer.transaction() as conn:
        assert await (await conn.execute("select 1")).fetchone() == (1,)
    await writer.reset()


async def test_an_outage_never_shows_the_password_of_a_url_that_cannot_be_read() -> None:
    writer = Writer("postgresql+psycopg://me:swordfish@db/taskflow")

    with pytest.raises(Unavailable, match="not a valid URL of Postgres") as refused:
        await store_jobs(writer, [rows.job()])

    assert "swordfish" not in str(refused.value)


@pytest.mark.feature("A8", "B6")
async def test_an_outcome_is_refused_for_two_classes_and_waits_for_all_others(
    database: str, writer: Writer, epochs: dict[int, int]
) -> None:
    changes = Changes(attempts=[rows.attempt(rows.new_id())])
    wanted = {name: DatabaseError if name in ROW_CLASSES else Unavailable for name in [*CLASSES, "ZZ"]}
    found: dict[str, type[Exception]] = {}
    with refusing(database, "attempts", "00999") as refusals:
        for name in wanted:
            refusals.by(f"{name}999")
            label = name if name in CLASSES else OTHER
            before = outages(label)
            with pytest.raises((DatabaseError, Unavailable)) as refused:
                await write(writer, changes, epochs)
            found[name] = Unavailable if isinstance(refused.value, Unavailable) else DatabaseError
            assert outages(label) - before == (name not in ROW_CLASSES), name
            assert "refused by a test" in str(refused.value)
            assert name in ROW_CLASSES or f"{name}999" in str(refused.value)

    assert found == wanted
    await write(writer, changes, epochs)


@pytest.mark.feature("S3.1", "B6")
@pytest.mark.parametrize("store", [store_jobs, store_keyed])
async def test_a_job_is_refused_for_two_classes_and_can_be_sent_again_for_all_others(
    database: str, writer: Writer, store: Callable[..., Any]
) -> None:
    with refusing(database, "jobs", "22999", when="new.queue = 'bad'") as refusals:
        for name in ("22", "23", "25", "42", "53", "57", "XX"):
            refusals.by(f"{name}999")
            good, bad = rows.job(), rows.job(queue="bad")
            if name in ROW_CLASSES:
                stored, fault = await store(writer, [good, bad])
                assert stored.id == good.id
                assert isinstance(fault, InvalidArgument) and fault.reason == "BAD_JOB"
            else:
                with pytest.raises(Unavailable, match=f"{name}999"):
                    await store(writer, [good, bad])

    assert [result.id for result in await store(writer, [good, bad])] == [good.id, bad.id]


@pytest.mark.feature("A8")
async def test_an_attempt_without_a_partition_is_the_server_s_fault(
    database: str, writer: Writer, epochs: dict[int, int]
) -> None:
    far = rows.new_id(offset_ms=90 * 86_400_000)

    with pytest.raises(Unavailable) as refused:
        await write(writer, Changes(attempts=[rows.attempt(far)]), epochs)

    assert refused.value.reason == "NO_PARTITION"


@pytest.mark.feature("A1")
async def test_the_fence_is_no_outage(writer: Writer, epochs: dict[int, int]) -> None:
    before = outages("TF")

    with pytest.raises(NotOwner):
        await write(writer, Changes(attempts=[rows.attempt(rows.new_id())]), {0: epochs[0] + 1})

    assert outages("TF") == before


async def test_a_read_meets_an_outage_as_a_write_does_and_works_afterwards(database: str) -> None:
    db = Database(database)
    await db.open()
    try:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("alter table taskflow.leases rename to hidden")
            try:
                with pytest.raises(Unavailable, match="42P01"):
                    await db.rows("list_leases", shards=[0])
            finally:
                conn.execute("alter table taskflow.hidden rename to leases")
        assert await db.rows("list_leases", shards=[0]) == []
    finally:
        await db.close()


@pytest.mark.feature("X.18")
async def test_a_prune_meets_an_outage_as_unavailable(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("alter table taskflow.closed_days rename to hidden")
        try:
            with pytest.raises(Unavailable, match="42P01"):
                await prune(database, keep=timedelta(days=30))
        finally:
            conn.execute("alter table taskflow.hidden rename to closed_days")
    await prune(database, keep=timedelta(days=30))


async def test_sessions_from_when_the_server_was_read_only_are_replaced(database: str) -> None:
    """As after a failover: what a caller wants is written at once, by a new session."""
    db = Database(database, pool_size=2)
    await db.open()
    try:
        async with db.connection() as first, db.connection() as second:
            for conn in (first, second):
                await conn.execute("set default_transaction_read_only = on")

        assert await db.run("create_queues", names=["read-only"], shards=[0]) == 1
        async with db.connection() as first, db.connection() as second:
            for conn in (first, second):
                shown = await (await conn.execute("show default_transaction_read_only")).fetchone()
                assert shown == {"default_transaction_read_only": "off"}
    finally:
        await db.close()


async def test_a_server_that_stays_read_only_is_an_outage(database: str) -> None:
    db = Database(database)
    with psycopg.connect(database, autocommit=True) as conn:
        name = conn.info.dbname
        conn.execute(f"alter database {name} set default_transaction_read_only = on")
        try:
            await db.open()
            with pytest.raises(Unavailable, match="25006"):
                await db.run("create_queues", names=["still-read-only"], shards=[0])
        finally:
            await db.close()
            conn.execute(f"alter database {name} reset default_transaction_read_only")
