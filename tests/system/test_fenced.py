"""`job.fenced` and `job.fence` in handlers of each kind, with connections of each kind (M.8)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from taskflow import FailedPrecondition, InvalidArgument, Job, JobFailed, Retry, StaleAttempt, TaskFlow
from tests.support import fenced_handlers as handlers
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually
from tests.support.workers import working

pytestmark = pytest.mark.feature("M.8")


@pytest.fixture(scope="module")
def dsn(cluster: ServiceCluster) -> str:
    rows.run(cluster.dsn, "create table effects (job_id uuid, attempt integer, fence bigint)")
    return cluster.dsn


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as client:
        yield client


def effects(dsn: str, job_id: str) -> list[tuple[Any, ...]]:
    return rows.found(dsn, "select attempt from effects where job_id = %s", job_id)


@pytest.mark.parametrize(
    "handler",
    [handlers.by_psycopg, handlers.by_async_psycopg, handlers.in_an_open_transaction, handlers.twice_in_autocommit],
    ids=lambda handler: handler.__name__,
)
def test_a_fenced_transaction_of_the_present_attempt_is_committed(tf: TaskFlow, dsn: str, handler: Any) -> None:
    with working(tf, handler.__name__, handler):
        job = tf.new_job(handler.__name__, dsn)
        job.wait(timeout=30)
    assert effects(dsn, job.id) == [(1,)]


@pytest.mark.parametrize(
    ("driver", "handler"),
    [
        ("asyncpg", handlers.by_asyncpg),
        ("asyncpg", handlers.by_a_pool_of_asyncpg),
        ("sqlalchemy", handlers.by_sqlalchemy),
        ("sqlalchemy", handlers.by_a_session_of_sqlalchemy),
        ("sqlalchemy", handlers.by_async_sqlalchemy),
        ("django", handlers.by_django),
        ("psycopg2", handlers.by_psycopg2),
    ],
)
def test_other_drivers_fence_too_where_they_are_installed(tf: TaskFlow, dsn: str, driver: str, handler: Any) -> None:
    """They are no dependencies of the tests: `pip install asyncpg 'sqlalchemy[asyncio]' django psycopg2-binary`."""
    pytest.importorskip(driver)
    with working(tf, handler.__name__, handler):
        job = tf.new_job(handler.__name__, dsn)
        job.wait(timeout=30)
    assert effects(dsn, job.id) == [(1,)]


@pytest.mark.parametrize("handler", [handlers.by_psycopg, handlers.by_async_psycopg], ids=["plain", "async"])
def test_a_handler_in_a_process_of_its_own_has_fenced_transactions_too(
    tf: TaskFlow, dsn: str, handler: Any
) -> None:
    queue = f"process-{handler.__name__}"
    with working(tf, queue, handler, processes=1):
        jobs = [tf.new_job(queue, dsn) for _ in range(3)]
        for job in jobs:
            job.wait(timeout=30)
    assert [effects(dsn, job.id) for job in jobs] == [[(1,)]] * 3


def test_an_error_in_the_block_rolls_back_and_is_raised(tf: TaskFlow, dsn: str) -> None:
    def breaks(job: Job) -> None:
        with psycopg.connect(dsn) as conn, job.fenced(conn):
            conn.execute(handlers.statement(job))
            raise ZeroDivisionError

    with working(tf, "breaks", breaks):
        job = tf.new_job("breaks")
        with pytest.raises(JobFailed, match="ZeroDivisionError"):
            job.wait(timeout=30)
    assert effects(dsn, job.id) == []


def test_a_handler_that_goes_on_after_its_timeout_gets_no_further_transaction(tf: TaskFlow, dsn: str) -> None:
    seen: list[BaseException] = []

    def late(job: Job) -> None:
        with psycopg.connect(dsn) as conn:
            with job.fenced(conn):
                pass
            while not seen:  # until its end, of which it takes no notice
                try:
                    with job.fenced(conn):
                        pass
                except StaleAttempt as error:
                    seen.append(error)

    with working(tf, "late", late):
        job = tf.new_job("late", timeout=0.5)
        with pytest.raises(JobFailed, match="still running"):
            job.wait(timeout=30)
    assert [getattr(error, "reason", None) for error in seen] == ["STALE_EXEC_ID"]


def test_the_fence_of_a_job_rises_with_each_attempt_and_over_owners(
    cluster: ServiceCluster, tf: TaskFlow, dsn: str
) -> None:
    fences: list[int] = []

    def again(job: Job) -> None:
        fences.append(job.fence)
        if job.attempt == 2:
            cluster.restart("coordinator")
        if job.attempt < 4:
            raise Retry(delay=0)

    with working(tf, "again", again):
        tf.new_job("again", retries=5).wait(timeout=60)
    assert len(fences) == 4 and fences == sorted(set(fences))
    assert rows.found(dsn, "select %s::bigint", fences[-1]) == [(fences[-1],)]


@pytest.mark.parametrize("processes", [0, 1], ids=["thread", "process"])
def test_a_transaction_waits_for_the_next_owner_of_its_queue(
    cluster: ServiceCluster, tf: TaskFlow, dsn: str, tmp_path: Path, processes: int
) -> None:
    queue = f"next-owner-{processes}"
    with working(tf, queue, handlers.when_told, processes=processes or None):
        job = tf.new_job(queue, [dsn, str(tmp_path)])
        eventually(lambda: (tmp_path / "started").exists(), 30)
        cluster.kill("coordinator")
        (tmp_path / "go").touch()
        cluster.start("coordinator")
        job.wait(timeout=60)
    assert effects(dsn, job.id) == [(1,)]


def test_what_cannot_be_fenced_is_an_error_that_says_why(tf: TaskFlow, postgres: str, dsn: str) -> None:
    def wrong(job: Job) -> list[str]:
        said = []
        for conn in (object(), psycopg.connect(postgres), _without_right(dsn)):
            with pytest.raises((InvalidArgument, FailedPrecondition)) as caught, job.fenced(conn):
                pass
            said.append(str(caught.value))
        return said

    async def other_way(job: Job) -> list[str]:
        with pytest.raises(InvalidArgument) as of_sync, psycopg.connect(dsn) as conn:
            async with job.fenced(conn):
                pass
        with pytest.raises(InvalidArgument) as of_async:
            async with await psycopg.AsyncConnection.connect(dsn) as conn:
                with job.fenced(conn):
                    pass
        return [str(of_sync.value), str(of_async.value)]

    with working(tf, "wrong", wrong):
        unknown, elsewhere, refused = tf.new_job("wrong").wait(timeout=30).result
    assert "object is not a known connection" in unknown
    assert "no schema `taskflow`" in elsewhere
    assert "grant it the role taskflow_app" in refused
    with working(tf, "other-way", other_way):
        of_sync, of_async = tf.new_job("other-way").wait(timeout=30).result
    assert "use `with job.fenced(conn)`" in of_sync
    assert "use `async with job.fenced(conn)`" in of_async


def _without_right(dsn: str) -> psycopg.Connection[Any]:
    """A connection whose role may use the schema, and call nothing in it."""
    conn = psycopg.connect(dsn, autocommit=True)
    conn.execute("drop role if exists nobody_s_app")
    conn.execute("create role nobody_s_app")
    conn.execute("grant usage on schema taskflow to nobody_s_app")
    conn.execute("set role nobody_s_app")
    return conn
