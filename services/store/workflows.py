"""Workflow documents, with their versions and their own schedules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from psycopg import AsyncConnection

from taskflow_server.core.errors import FailedPrecondition
from taskflow_server.store.database import Database
from taskflow_server.store.queries import sql
from taskflow_server.store.schedules import write_changed

Row = dict[str, Any]


async def put(
    db: Database,
    name: str,
    document: str,
    digest: str,
    own: Callable[[Row | None], Row] | None,
    if_version: int | None = None,
) -> int:
    """Stores a version, if it is new, and the workflow's own schedule, which `own` makes from the present one.

    Returns the version. FailedPrecondition when the latest is not `if_version`; 0 stands for a workflow that does not
    exist.
    """
    async with db.connection() as conn, conn.transaction():
        await conn.execute(sql("lock_workflow"), {"name": name})
        latest = await _unchanged(conn, name, if_version)
        made = await (
            await conn.execute(sql("put_workflow"), {"name": name, "document": document, "digest": digest})
        ).fetchall()
        version = int(made[0]["version"]) if made else latest
        if own is None:
            await conn.execute(sql("delete_own_schedule_of_workflow"), {"name": name})
            return version
        rows = await (await conn.execute(sql("lock_own_schedule_of_workflow"), {"name": name})).fetchall()
        if rows:
            await write_changed(conn, [own(rows[0])])
        else:
            await conn.execute(sql("insert_schedule"), own(None))
        return version


async def delete(db: Database, name: str, if_version: int | None = None) -> bool:
    """Deletes a workflow and its own schedule; False when it does not exist. FailedPrecondition when its latest version
    is not `if_version`."""
    async with db.connection() as conn, conn.transaction():
        await conn.execute(sql("lock_workflow"), {"name": name})
        if not await _unchanged(conn, name, if_version):
            return False
        await conn.execute(sql("delete_own_schedule_of_workflow"), {"name": name})
        return bool((await conn.execute(sql("delete_workflow"), {"name": name})).rowcount)


async def _unchanged(conn: AsyncConnection[Any], name: str, if_version: int | None) -> int:
    """The latest version, 0 if the workflow does not exist."""
    rows = await (await conn.execute(sql("latest_versions"), {"names": [name]})).fetchall()
    latest = int(rows[0]["version"]) if rows else 0
    if if_version is not None and latest != if_version:
        now = f"its latest version is {latest}" if latest else "there is none of this name"
        known = f"version {if_version}" if if_version else "a new workflow"
        raise FailedPrecondition(f"workflow {name!r} was changed meanwhile: {now}, not {known}", "WORKFLOW_CHANGED")
    return latest
