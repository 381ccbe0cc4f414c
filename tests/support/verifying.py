"""All checks of `taskflow verify` on the database of a test."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from taskflow_server.store.session import configure, of_a_session
from taskflow_server.store.verify import History, history
from taskflow_server.verify.checks import BY_ID, CHECKS
from taskflow_server.verify.running import Options, Result, verify
from tests.support.postgres import run
from tests.support.seeds import PICK, Seed


def results(dsn: str, *checks: str, pause: Callable[[], Awaitable[None]] | None = None, **options: Any) -> list[Result]:
    """The results of the checks with these ids, or of all."""

    async def read() -> list[Result]:
        chosen = [BY_ID[id] for id in checks] or CHECKS
        more = {} if pause is None else {"pause": pause}
        async with history(dsn) as rows:
            return await verify(rows, Options(checks=chosen, **options), **more)

    return run(read)


def contradictions(found: Sequence[Result]) -> dict[str, list[str]]:
    """The findings of each check that has any, as a failed test should show them."""
    return {
        result.check.id: [f"{finding.subject} {finding.proof}" for finding in result.findings]
        for result in found
        if result.found
    }


def assert_promises_kept(dsn: str) -> None:
    """No check finds anything in this database, whatever its cluster has gone through or is doing."""
    found = contradictions(results(dsn))
    assert found == {}, found


def seeded(dsn: str, seed: Seed) -> tuple[str, dict[str, list[str]]]:
    """The subject of a fault that is seeded for this once, and what all checks then find."""

    async def read() -> tuple[str, list[Result]]:
        async with await AsyncConnection.connect(dsn, row_factory=dict_row) as conn:
            await configure(conn, of_a_session())
            async with conn.transaction(force_rollback=True):
                for statement in (*PICK, *seed.statements):
                    cursor = await conn.execute(statement.encode())
                row = await cursor.fetchone()
                assert row is not None, "the seed has changed nothing"
                return str(next(iter(row.values()))), await verify(History(conn), Options())

    subject, found = run(read)
    return subject, contradictions(found)
