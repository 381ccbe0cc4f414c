"""Alerts: facts are added to the messages of their rules, and messages become jobs, under the leader's term.

Invariants: the transaction that counts a fact deletes its row, and the transaction that closes a group creates its
message; each ends with a check of the leader's term. The step of a leader that dies is committed whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import dict_row

from taskflow_server.core.alerts import SHOWN, Event, Group
from taskflow_server.store.columns import columns
from taskflow_server.store.database import Database, Row, Writer, commit
from taskflow_server.store.jobs import NewJob, insert_within
from taskflow_server.store.queries import sql
from taskflow_server.store.schedules import ROLE

_FIELDS = ("queue", "task", "workflow", "detail")


class GroupRow(NamedTuple):
    """The next message of a rule, as stored."""

    rule_id: UUID
    opened_at: datetime | None
    counts: str
    first: str
    sent: str
    last_job: UUID | None


class ConditionRow(NamedTuple):
    """A condition that a lane meets; `detail` is for people."""

    rule_id: UUID
    event: str
    queue: str
    task: str
    detail: str = ""


@dataclass
class Taken:
    """The rules that have facts or an open group, and the facts of each that this transaction takes."""

    rules: list[Row]
    facts: dict[UUID, list[dict[str, Any]]] = field(default_factory=dict)
    count: int = 0  # of all facts, including those of deleted rules


async def begin(conn: AsyncConnection[Any], limit: int) -> Taken:
    """Opens the transaction and takes the oldest facts."""
    await conn.execute("begin")
    rows = sorted(await _rows(conn, "take_alert_facts", limit=limit), key=lambda row: row["seq"])
    by_rule: dict[UUID, list[Row]] = {}
    for row in rows:
        by_rule.setdefault(row["rule_id"], []).append(row)
    taken = Taken(await _rows(conn, "alert_groups", ids=list(by_rule)), count=len(rows))
    shown = [
        row
        for rule in taken.rules
        for row in by_rule.get(rule["id"], [])[: max(0, SHOWN - len(rule["first"]))]
    ]
    said = await _errors(conn, shown)
    for rule in taken.rules:
        taken.facts[rule["id"]] = [_fact(row, said) for row in by_rule.get(rule["id"], [])]
    return taken


async def _errors(conn: AsyncConnection[Any], facts: Sequence[Row]) -> dict[tuple[UUID, int | None], tuple[str, str]]:
    """The outcome and error of each fact that a message will show."""
    found: dict[tuple[UUID, int | None], tuple[str, str]] = {}
    jobs = [fact for fact in facts if fact["event"] == Event.JOB_FAILED]
    if jobs:
        attempts = [job["attempt"] for job in jobs]
        for row in await _rows(conn, "errors_of_attempts", job_ids=[j["subject"] for j in jobs], attempts=attempts):
            found[row["job_id"], row["attempt"]] = row["outcome"], row["message"] or ""
    runs = [fact["subject"] for fact in facts if fact["event"] == Event.RUN_FAILED]
    if runs:
        for row in await _rows(conn, "errors_of_runs", ids=runs):
            found[row["id"], None] = "failed", row["message"] or ""
    return found


def _fact(row: Row, said: dict[tuple[UUID, int | None], tuple[str, str]]) -> dict[str, Any]:
    fact: dict[str, Any] = {"event": row["event"], "at": row["at"].isoformat()}
    if row["subject"] is not None:
        fact["run_id" if row["workflow"] else "job_id"] = str(row["subject"])
        if (row["subject"], row["attempt"]) in said:
            fact["outcome"], fact["error"] = said[row["subject"], row["attempt"]]
    return fact | {name: row[name] for name in _FIELDS if row[name]}


def group_of(rule: Row) -> Group:
    """The open group of a rule."""
    return Group(rule["opened_at"], rule["counts"], tuple(rule["first"]), tuple(rule["sent"]))


def group_row(rule_id: UUID, group: Group, last_job: UUID | None) -> GroupRow:
    """A group as stored."""
    sent = "{" + ",".join(f'"{at.isoformat()}"' for at in group.sent) + "}"
    return GroupRow(
        rule_id, group.opened_at, json.dumps(dict(group.counts or {})), json.dumps(list(map(dict, group.first))), sent,
        last_job,
    )  # fmt: skip


async def write(conn: AsyncConnection[Any], groups: Sequence[GroupRow], jobs: Sequence[NewJob], term: int) -> int:
    """Ends the transaction and returns the `tx` of its jobs. NotOwner when another scheduler leads now."""
    tx = await insert_within(conn, jobs) if jobs else 0
    statements: list[tuple[str, dict[str, Any]]] = []
    if groups:
        statements.append(("put_alert_groups", columns(GroupRow, groups)))
    statements.append(("leads", {"role": ROLE, "term": term}))
    await commit(conn, statements)
    return tx


async def write_conditions(
    writer: Writer, begun: Sequence[ConditionRow], ended: Sequence[ConditionRow], term: int
) -> None:
    """Makes a fact of each condition that has begun, and deletes those that have ended, which may become one again."""
    statements: list[tuple[str, dict[str, Any]]] = []
    if begun:
        statements.append(("begin_alert_conditions", columns(ConditionRow, begun)))
    if ended:
        gone = columns(ConditionRow, ended)
        del gone["detail"]
        statements.append(("end_alert_conditions", gone))
    async with writer.transaction() as conn:
        await commit(conn, [*statements, ("leads", {"role": ROLE, "term": term})], begin=True)


async def change(db: Database, name: str, decide: Callable[[Row], dict[str, Any]]) -> bool:
    """Locks a rule, passes its row to `decide` and writes the result; False when it does not exist. Its open group
    stays, unless the rule is paused; its conditions start again."""
    async with db.connection() as conn, conn.transaction():
        rows = await (await conn.execute(sql("lock_alert_rule"), {"name": name})).fetchall()
        if not rows:
            return False
        changed = decide(rows[0])
        await conn.execute(sql("change_alert_rule"), changed)
        await conn.execute(sql("forget_conditions_of_rule"), {"name": name})
        if not changed["active"]:
            await conn.execute(sql("forget_alerts_of_rule"), {"name": name})
    return True


async def _rows(conn: AsyncConnection[Any], query: str, **parameters: Any) -> list[Row]:
    async with conn.cursor(row_factory=dict_row) as cursor:
        return await (await cursor.execute(sql(query), parameters)).fetchall()
