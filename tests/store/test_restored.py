"""Transaction numbers with an offset (C3): lanes are read as without one, and nothing is paid where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import psycopg
import pytest

from taskflow_server.core.errors import Unavailable
from taskflow_server.core.lanes import START, Lane, LaneKey, Mark, Position
from taskflow_server.store import restored
from taskflow_server.store.lane_reader import LaneReader
from tests.support import postgres as pg
from tests.support import rows

KEY = LaneKey("q", "", 5)
MILLION = 1_000_000


@pytest.fixture
def conn(postgres: str, template: str, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection]:
    """On a database of the test's own, with a lane."""
    name = f"numbers_{abs(hash(request.node.name)) % 10**8}"
    pg.drop_database(postgres, name)
    with psycopg.connect(pg.create_database(postgres, name, template), autocommit=True) as opened:
        opened.execute("insert into taskflow.queues (name, shard) values ('q', 3)")
        opened.execute("insert into taskflow.lanes (queue, task, priority, shard) values ('q', '', 5, 3)")
        yield opened
    pg.drop_database(postgres, name)


def dsn(conn: psycopg.Connection) -> str:
    return psycopg.conninfo.make_conninfo(conn.info.dsn, password=conn.info.password)


def store(conn: psycopg.Connection) -> tuple[int, bytes]:
    """A job of the lane: its number, and its id."""
    job_id = rows.new_id()
    row = conn.execute(
        "insert into taskflow.jobs (id, queue) values (%s, 'q') returning tx::text::bigint", (UUID(bytes=job_id),)
    ).fetchone()
    assert row is not None
    return row[0], job_id


def number(conn: psycopg.Connection) -> int:
    row = conn.execute("select pg_current_xact_id()::text::bigint").fetchone()
    assert row is not None
    return int(row[0])


async def page(conn: psycopg.Connection, lane: Lane) -> list[Position]:
    reader = LaneReader(dsn(conn), 5.0)
    try:
        request = lane.request(100)
        (found,) = await reader.pages([(lane, request)])
        return lane.merge(request, found)
    finally:
        await reader.close()


def test_without_an_offset_the_planner_sees_postgres_s_own_functions(conn: psycopg.Connection) -> None:
    plan = conn.execute("explain (verbose, costs off) select taskflow.tx(), taskflow.has_ended('7')").fetchall()

    assert "taskflow" not in str(plan)
    assert "pg_current_xact_id()" in str(plan)


async def test_lanes_are_read_once_and_in_order_across_a_change_of_the_offset(conn: psycopg.Connection) -> None:
    lane = Lane.at(KEY, 3, START, 0)
    first = store(conn)
    assert await page(conn, lane) == [first]
    conn.execute("select taskflow.set_tx_offset(%s)", (MILLION,))

    with psycopg.connect(dsn(conn)) as late:  # a transaction that is under way while others are read
        behind = store(late)
        second = store(conn)
        assert await page(conn, lane) == [second]
        assert lane.late == {behind[0]}
        late.commit()
    third = store(conn)

    assert sorted(await page(conn, lane)) == sorted([behind, third])
    assert await page(conn, lane) == []
    assert MILLION < behind[0] < second[0] < third[0]


async def test_a_prepared_statement_follows_a_change_of_the_offset(conn: psycopg.Connection) -> None:
    conn.prepare_threshold = 0
    before = store(conn)[0]
    conn.execute("select taskflow.set_tx_offset(%s)", (MILLION,))

    assert store(conn)[0] > MILLION > before


async def test_late_transactions_of_a_former_cluster_count_as_ended(conn: psycopg.Connection) -> None:
    conn.execute("select taskflow.set_tx_offset(%s)", (MILLION,))

    ended = conn.execute("select taskflow.has_ended('3'), taskflow.has_ended('999000')").fetchone()
    future = conn.execute("select taskflow.has_ended(%s::text::xid8)", (str(2 * MILLION),)).fetchone()

    assert (ended, future) == ((True, True), (False,))


@pytest.mark.parametrize("where", ["in a mark", "in a mark's late transactions", "in a job"])
async def test_numbers_of_another_cluster_are_refused_by_a_page_and_mended_once(
    conn: psycopg.Connection, where: str
) -> None:
    store(conn)
    far = number(conn) + MILLION
    mark = Mark(Position(far, bytes(16)), frozenset())
    match where:
        case "in a mark":
            conn.execute("update taskflow.lanes set tx = %s::text::xid8", (str(far),))
        case "in a mark's late transactions":
            conn.execute("update taskflow.lanes set late = array[%s::text::xid8]", (str(far),))
        case _:
            conn.execute(
                "insert into taskflow.jobs (id, queue, tx) values (%s, 'q', %s::text::xid8)",
                (UUID(bytes=rows.new_id()), str(far)),
            )
    if where != "in a mark's late transactions":
        with pytest.raises(Unavailable, match="transaction numbers of another Postgres cluster"):
            await page(conn, Lane.at(KEY, 3, mark if where == "in a mark" else START, 0))
    assert (await restored.look(dsn(conn))).foreign

    mended = await restored.mend(dsn(conn))

    assert mended is not None
    assert store(conn)[0] > far
    assert mended.deferred == (where == "in a mark"), "the job below the mark"
    assert not (await restored.look(dsn(conn))).foreign
    assert await restored.mend(dsn(conn)) is None


async def test_a_database_whose_numbers_fit_is_left_as_it_is(conn: psycopg.Connection) -> None:
    tx, job_id = store(conn)
    conn.execute("update taskflow.lanes set tx = %s::text::xid8, id = %s", (str(tx), UUID(bytes=job_id)))
    before = conn.execute("select sum(epoch) from taskflow.shards").fetchone()

    assert not (await restored.look(dsn(conn))).foreign
    assert await restored.mend(dsn(conn)) is None
    assert conn.execute("select sum(epoch) from taskflow.shards").fetchone() == before
    assert conn.execute("select count(*) from taskflow.deferred").fetchone() == (0,)
