"""The runner over data/migrations: forward only, each file once, whole or not at all."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from taskflow_server.store.migrate import MigrationError, migrate, migrations, status
from tests.support import postgres as pg


@pytest.fixture
def empty(postgres: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The dsn of a database without anything."""
    name = f"empty_{abs(hash(request.node.name)) % 10**8}"
    pg.drop_database(postgres, name)
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"create database {name}")
    yield pg.with_database(postgres, name)
    pg.drop_database(postgres, name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two migrations; the first makes what the runner calls afterwards."""
    (tmp_path / "0001_base.sql").write_text(
        "create function taskflow.create_partitions(date, integer) returns integer language sql as 'select 0';"
        "create table taskflow.a (n integer);"
    )
    (tmp_path / "0002_more.sql").write_text("insert into taskflow.a values (1);")
    return tmp_path


@pytest.mark.feature("X.28")
async def test_the_real_migrations_apply_once_and_then_there_is_nothing_to_do(empty: str) -> None:
    assert {row.state for row in await status(empty)} == {"pending"}

    applied = await migrate(empty)
    again = await migrate(empty)

    assert applied == [file.name for file in migrations()]
    assert again == []
    assert {row.state for row in await status(empty)} == {"applied"}


async def test_a_migration_that_fails_leaves_nothing_behind_and_those_before_it_stand(empty: str, folder: Path) -> None:
    (folder / "0002_more.sql").write_text("create table taskflow.b (n integer); select 1 / 0;")

    with pytest.raises(MigrationError, match=r"0002_more: division by zero"):
        await migrate(empty, folder)

    assert [row.state for row in await status(empty, folder)] == ["applied", "pending"]
    with psycopg.connect(empty) as conn:
        assert conn.execute("select to_regclass('taskflow.b')").fetchone() == (None,)


async def test_a_file_changed_after_it_was_applied_is_refused(empty: str, folder: Path) -> None:
    await migrate(empty, folder)
    (folder / "0001_base.sql").write_text("select 1;")

    with pytest.raises(MigrationError, match=r"0001_base was changed after it was applied"):
        await migrate(empty, folder)

    assert [row.state for row in await status(empty, folder)] == ["changed after it was applied", "applied"]


async def test_a_database_newer_than_the_code_is_refused(empty: str, folder: Path) -> None:
    await migrate(empty, folder)
    (folder / "0002_more.sql").unlink()

    with pytest.raises(MigrationError, match=r"0002_more, which this version does not know"):
        await migrate(empty, folder)


async def test_a_migration_below_the_last_one_applied_is_refused(empty: str, folder: Path) -> None:
    (folder / "0002_more.sql").rename(folder / "0003_more.sql")
    await migrate(empty, folder)
    (folder / "0002_late.sql").write_text("select 1;")

    with pytest.raises(MigrationError, match=r"0002_late is pending, but 0003_more is applied"):
        await migrate(empty, folder)


@pytest.mark.parametrize(("name", "words"), [("12_short.sql", "NNNN_words"), ("0001_twice.sql", "taken twice")])
def test_a_wrong_file_name_is_refused(folder: Path, name: str, words: str) -> None:
    (folder / name).write_text("select 1;")

    with pytest.raises(MigrationError, match=words):
        migrations(folder)


@pytest.mark.feature("X.28")
async def test_migrators_that_start_together_apply_each_file_once(empty: str, folder: Path) -> None:
    results = await asyncio.gather(*(migrate(empty, folder) for _ in range(5)))

    assert sorted(results) == [[], [], [], [], ["0001_base", "0002_more"]]
    with psycopg.connect(empty) as conn:
        assert conn.execute("select count(*) from taskflow.a").fetchone() == (1,)


async def test_a_lock_that_somebody_holds_makes_a_migration_fail_and_not_wait_for_ever(
    empty: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty, folder)
    (folder / "0003_alter.sql").write_text("alter table taskflow.a add column m integer;")
    monkeypatch.setattr("taskflow_server.store.migrate.LOCK_TIMEOUT", "200ms")

    with psycopg.connect(empty) as holder:
        holder.execute("lock table taskflow.a in access share mode")
        with pytest.raises(MigrationError, match=r"0003_alter: canceling statement due to lock timeout"):
            await migrate(empty, folder)

    assert await migrate(empty, folder) == ["0003_alter"]
