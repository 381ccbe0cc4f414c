"""Named tasks: a task and its own schedule are written as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from taskflow_server.core.errors import AlreadyExists
from taskflow_server.store.database import Database, Row
from taskflow_server.store.queries import sql
from taskflow_server.store.schedules import write_changed


@dataclass(slots=True)
class TaskChanges:
    """What one change of a task writes. Schedules are as `change_schedule` takes them, ledger rows under `passed`."""

    task: Row
    new: Row | None = None  # an own schedule that it did not have
    changed: Sequence[Row] = field(default_factory=list)
    gone: Sequence[UUID] = ()


async def create(db: Database, task: Row, schedule: Row | None) -> bool:
    """False when there is a task of that name already: then nothing is written."""
    async with db.connection() as conn, conn.transaction():
        made = (await conn.execute(sql("insert_task"), task)).rowcount == 1
        if made and schedule is not None:
            await conn.execute(sql("insert_schedule"), schedule)
    return made


async def change(
    db: Database, name: str, task_id: UUID | None, decide: Callable[[Row, list[Row]], TaskChanges]
) -> UUID | None:
    """Changes a task as `decide` says of it and of all schedules that run it, locked. Its id; None: there is none.

    AlreadyExists when its new name is taken.
    """
    async with db.connection() as conn, conn.transaction():
        rows = await _found(conn, "lock_task", name=name, id=task_id)
        if not rows:
            return None
        (task,) = rows
        changes = decide(task, await _found(conn, "lock_schedules_of", task=task["name"]))
        with _name_of(changes.task):
            await conn.execute(sql("update_task"), changes.task)
        if changes.task["name"] != task["name"]:
            await conn.execute(sql("rename_in_schedules"), {"name": changes.task["name"], "old": task["name"]})
        for schedule_id in changes.gone:
            await conn.execute(sql("delete_schedule"), {"id": schedule_id})
        await write_changed(conn, changes.changed)
        if changes.new is not None:
            await conn.execute(sql("insert_schedule"), changes.new)
        found: UUID = task["id"]
    return found


async def _found(conn: AsyncConnection[Row], query: str, **parameters: Any) -> list[Row]:
    return await (await conn.execute(sql(query), parameters)).fetchall()


@contextmanager
def _name_of(task: Row) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UniqueViolation:
        raise AlreadyExists(f"changes.name: there is a task {task['name']!r} already", "TASK_EXISTS") from None
