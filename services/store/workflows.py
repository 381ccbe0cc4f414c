"""Documents of workflows, with their versions and their own schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.store.database import Database
from services.store.queries import sql
from services.store.schedules import write_changed

Row = dict[str, Any]


async def put(db: Database, name: str, document: str, digest: str, own: Callable[[Row | None], Row] | None) -> None:
    """Stores a version, if it is a new one, and the workflow's own schedule as `own` makes it of the present one."""
    async with db.connection() as conn, conn.transaction():
        await conn.execute(sql("lock_workflow"), {"name": name})
        await conn.execute(sql("put_workflow"), {"name": name, "document": document, "digest": digest})
        if own is None:
            await conn.execute(sql("delete_own_schedule_of_workflow"), {"name": name})
            return
        rows = await (await conn.execute(sql("lock_own_schedule_of_workflow"), {"name": name})).fetchall()
        if rows:
            await write_changed(conn, [own(rows[0])])
        else:
            await conn.execute(sql("insert_schedule"), own(None))


async def delete(db: Database, name: str) -> bool:
    """With its own schedule. False when there is none."""
    async with db.connection() as conn, conn.transaction():
        await conn.execute(sql("lock_workflow"), {"name": name})
        await conn.execute(sql("delete_own_schedule_of_workflow"), {"name": name})
        return bool((await conn.execute(sql("delete_workflow"), {"name": name})).rowcount)
