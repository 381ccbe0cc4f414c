"""Named tasks: a task and its own schedule are written in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg
from psycopg import AsyncConnection

from taskflow_server.core.errors import AlreadyExists, ResourceExhausted
from taskflow_server.core.names import namespace_of
from taskflow_server.store.database import Database, Row
from taskflow_server.store.queries import sql
from taskflow_server.store.schedules import write_changed


@dataclass(slots=True)
class TaskChanges:
    """The writes of one change of a task. Schedules have the form of `change_schedule`, ledger rows under `passed`."""

    task: Row
    new: Row | None = None  # its first own schedule
    changed: Sequence[Row] = field(default_factory=list)
    gone: Sequence[UUID] = ()


async def create(db: Database, task: Row, schedule: Row | None, *, within_quota: bool = True) -> bool:
    """Inserts a task; False when a task with that name exists.

    With `within_quota`, ResourceExhausted when the quota of its namespace is used up.
    """
    async with db.connection() as conn, conn.transaction():
        limit = await _quota(conn, namespace_of(task["name"])) if within_quota else None
        made = (await conn.execute(sql("insert_task"), task)).rowcount == 1
        if made and schedule is not None:
            await conn.execute(sql("insert_schedule"), schedule)
        if made and limit is not None:
            await _check_quota(conn, namespace_of(task["name"]), limit, "task.name")
    return made


async def change(
    db: Database, name: str, task_id: UUID | None, decide: Callable[[Row, list[Row]], TaskChanges]
) -> UUID | None:
    """Locks a task and all schedules that run it, passes them to `decide` and writes the result. Its id; None: no task.

    AlreadyExists when its new name is taken; ResourceExhausted when that is in another namespace whose quota is used
    up.
    """
    async with db.connection() as conn, conn.transaction():
        rows = await _found(conn, "lock_task", name=name, id=task_id)
        if not rows:
            return None
        (task,) = rows
        changes = decide(task, await _found(conn, "lock_schedules_of", task=task["name"]))
        space = namespace_of(changes.task["name"])
        moved = space != namespace_of(task["name"])
        limit = await _quota(conn, space) if moved else None
        with _name_of(changes.task):
            await conn.execute(sql("update_task"), changes.task)
        if changes.task["name"] != task["name"]:
            await conn.execute(sql("rename_in_schedules"), {"name": changes.task["name"], "old": task["name"]})
        if limit is not None:
            await _check_quota(conn, space, limit, "changes.name")
        for schedule_id in changes.gone:
            await conn.execute(sql("delete_schedule"), {"id": schedule_id})
        await write_changed(conn, changes.changed)
        if changes.new is not None:
            await conn.execute(sql("insert_schedule"), changes.new)
        found: UUID = task["id"]
    return found


async def _quota(conn: AsyncConnection[Row], namespace: str) -> int | None:
    """The quota of tasks, locked until the end of the transaction, so that creators in one namespace take turns."""
    rows = await _found(conn, "lock_quota_of_tasks", namespace=namespace)
    return rows[0]["quota_tasks"] if rows else None


async def _check_quota(conn: AsyncConnection[Row], namespace: str, limit: int, field: str) -> None:
    """Raises when the task that this transaction has written exceeds the quota."""
    (counted,) = await _found(conn, "count_tasks", namespace=namespace)
    used = counted["tasks"] - 1
    if used >= limit:
        raise ResourceExhausted(
            f"{field}: 1 more task would exceed the quota of namespace {namespace!r}: {used} of {limit} tasks are used;"
            " remove one, or raise the quota",
            "QUOTA_TASKS",
            {"namespace": namespace, "quota": "tasks", "used": str(used), "limit": str(limit)},
        )


async def _found(conn: AsyncConnection[Row], query: str, **parameters: Any) -> list[Row]:
    return await (await conn.execute(sql(query), parameters)).fetchall()


@contextmanager
def _name_of(task: Row) -> Iterator[None]:
    try:
        yield
    except psycopg.errors.UniqueViolation:
        raise AlreadyExists(f"changes.name: the task {task['name']!r} already exists", "TASK_EXISTS") from None
