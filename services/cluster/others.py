"""Whether a cluster runs on a database already. Two would get in each other's way: the jobs of one wait for the
workers of the other, and each has a coordinator that stands by for nothing."""

import asyncio
import hashlib
import socket
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from psycopg.rows import dict_row

from taskflow_server.cluster.process import Interrupted
from taskflow_server.store.migrate import session
from taskflow_server.store.queries import sql

_PATIENCE = 2.5  # seconds in which a member that lives certainly beats, unless its interval was set to more
_LOOK = 0.25
Row = dict[str, Any]


class RunsAlreadyError(Exception):
    """Another cluster runs there; the text says which."""


def suffix(data_dir: Path) -> str:
    """The suffix of the service names of a data folder: no other folder of any machine has the same."""
    place = f"{socket.gethostname()}:{data_dir.resolve()}"
    return hashlib.sha256(place.encode()).hexdigest()[:6]


def refuse_others(dsn: str, own: Collection[str], stopping: Callable[[], bool] = lambda: False) -> None:
    """Raises RunsAlreadyError when services live on this database that do not have one of these names; Interrupted."""
    found = asyncio.run(_living(dsn, own, stopping))
    if found:
        where = ", ".join(f"{row['name']} at {' or '.join(row['addresses']) or 'no address'}" for row in found)
        raise RunsAlreadyError(
            f"a cluster runs on this database already: {where}; use that one, stop it, or give another --database-url"
        )


async def _living(dsn: str, own: Collection[str], stopping: Callable[[], bool]) -> list[Row]:
    """The members whose beat moves while we look. Waits only where there are other members."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _PATIENCE
    async with session(dsn) as conn, conn.cursor(row_factory=dict_row) as cursor:

        async def members() -> dict[str, Row]:
            rows = await (await cursor.execute(sql("list_members"))).fetchall()
            return {row["name"]: row for row in rows if row["name"] not in own}

        before = await members()
        while before:
            now = await members()
            if any(_beat(row) != _beat(before.get(name)) for name, row in now.items()):
                return list(now.values())
            if loop.time() >= deadline:
                break
            if stopping():
                raise Interrupted
            await asyncio.sleep(_LOOK)
    return []


def _beat(row: Row | None) -> object:
    return (row["incarnation"], row["beat"]) if row else None
