"""Conditions of lanes that alert rules watch: jobs that no live worker can run, and jobs that wait for too long.

A condition makes one fact when it begins and may make another only after it has ended. The rows of `alert_conditions`
hold the conditions that last, so that a new leader does not repeat their facts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.core import alerts
from taskflow_server.core.alerts import Event
from taskflow_server.runtime import logs
from taskflow_server.scheduler.queue_depth_metrics import WaitingTask
from taskflow_server.scheduler.serving import Lane
from taskflow_server.store import alerts as store
from taskflow_server.store.alerts import ConditionRow
from taskflow_server.store.database import Database, Row, Writer

log = logs.get("alerts")

Unserved = Callable[[Sequence[Lane]], Awaitable[Mapping[Lane, pb.Warning] | None]]
Waiting = Callable[[Sequence[str], int], Awaitable[Sequence[WaitingTask]]]
Key = tuple[object, str, str, str]  # of a condition


class AlertLanes:
    """`waiting(queues, limit)` returns the tasks whose oldest ready jobs have waited longest; `unserved(lanes)` returns
    the lanes without a live worker or executor, or None if unknown. Reads at most `limit` queues and tasks."""

    def __init__(self, db: Database, waiting: Waiting, unserved: Unserved, limit: int) -> None:
        self._db = db
        self._waiting = waiting
        self._unserved = unserved
        self._limit = limit

    async def look(self, writer: Writer, term: int) -> None:
        """Evaluates all lanes that the rules select, once."""
        rules = await self._db.rows("watching_rules")
        named = None if any(not rule["queue"] for rule in rules) else [rule["queue"] for rule in rules]
        rows = await self._db.rows("queues_to_watch", own=alerts.QUEUE, names=named, limit=self._limit)
        waiting = await self._waiting([row["name"] for row in rows], self._limit) if rows else []
        waiting = [task for task in waiting if task.task != alerts.TASK]
        unserved = await self._unserved([(task.queue, task.task) for task in waiting]) if waiting else {}
        holds = {_key(row): row for rule in rules for row in self._holding(rule, waiting, unserved or {})}
        before = {_key(row): row for row in map(_condition, await self._db.rows("alert_conditions"))}
        begun = [row for key, row in holds.items() if key not in before]
        # While a queue service is unreachable, executors are unknown: a NO_WORKER condition is not ended by that.
        ended = [
            row
            for key, row in before.items()
            if key not in holds and not (unserved is None and row.event == Event.NO_WORKER)
        ]
        if begun or ended:
            await store.write_conditions(writer, begun, ended, term)

    def _holding(
        self, rule: Row, waiting: Sequence[WaitingTask], unserved: Mapping[Lane, pb.Warning]
    ) -> Iterator[ConditionRow]:
        for task in waiting:
            lane = task.queue, task.task
            if task.age >= rule["backlog_age"] and alerts.selects_lane(rule, Event.BACKLOG_OLD, *lane):
                detail = f"the oldest job has waited {task.age:.0f} s; the rule's limit is {rule['backlog_age']:g} s"
                yield ConditionRow(rule["id"], Event.BACKLOG_OLD.value, *lane, detail)
            late = task.age >= rule["no_worker_for"] and lane in unserved
            if late and alerts.selects_lane(rule, Event.NO_WORKER, *lane):
                yield ConditionRow(rule["id"], Event.NO_WORKER.value, *lane, unserved[lane].message)


def _condition(row: Row) -> ConditionRow:
    return ConditionRow(row["rule_id"], row["event"], row["queue"], row["task"])


def _key(row: ConditionRow) -> Key:
    return row[:4]
