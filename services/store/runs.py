"""Runs of workflows, and the one fenced transaction in which their owner writes its decisions (A11)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from taskflow_server.core.names import shard_of
from taskflow_server.core.workflow import events
from taskflow_server.core.workflow.events import Event, Started
from taskflow_server.store.columns import columns
from taskflow_server.store.database import Database, Writer, commit
from taskflow_server.store.errors import DatabaseError
from taskflow_server.store.jobs import NewJob, insert_within
from taskflow_server.store.queries import sql

CHANGED = "TF002"  # raised by taskflow.runs_unchanged
_ABANDON = ("cancel_jobs_of_runs", "cancel_children_of_runs", "delete_timers_of_runs", "cancel_steps_of_runs")


class RunsChanged(Exception):
    """The state that was read of a run is stale: an earlier commit in doubt has succeeded."""


class NewRun(NamedTuple):
    """A run to start. Values are JSON."""

    id: UUID
    workflow: str
    version: int
    shard: int
    input: str | None
    context: str
    metadata: str
    label: str | None
    trigger: str
    schedule_id: UUID | None = None
    parent_id: UUID | None = None
    parent_step: str | None = None
    parent_iteration: int | None = None
    depth: int = 0


class RunRow(NamedTuple):
    """The new state of a run."""

    id: UUID
    status: str
    held: bool
    waiting: bool
    state: str | None  # None: unchanged
    signals: str
    output: str | None
    error: str | None
    sla_missed: bool
    begun: bool
    ended: bool


class RunJobRow(NamedTuple):
    """A job of a step, or a child run; neither when it could not be created."""

    run_id: UUID
    step: str
    iteration: int
    place: int  # `index`
    job_id: UUID | None
    child_id: UUID | None
    after: str


class RunJobKey(NamedTuple):
    run_id: UUID
    step: str
    iteration: int
    place: int  # `index`


class TimerRow(NamedTuple):
    run_id: UUID
    name: str
    iteration: int
    due_at: datetime
    shard: int
    after: str


class TimerKey(NamedTuple):
    run_id: UUID
    name: str
    iteration: int


class StepRow(NamedTuple):
    run_id: UUID
    step: str
    iteration: int
    status: str
    error: str | None
    due_at: datetime | None
    begun: bool
    ended: bool
    after: str


@dataclass(slots=True)
class RunChanges:
    """The writes of one transaction of an owner of runs."""

    jobs: list[NewJob] = field(default_factory=list)
    children: list[NewRun] = field(default_factory=list)
    run_jobs: list[RunJobRow] = field(default_factory=list)
    cancelled: list[RunJobKey] = field(default_factory=list)  # jobs and child runs to cancel
    timers: list[TimerRow] = field(default_factory=list)
    stopped: list[TimerKey] = field(default_factory=list)  # timers that fired or are not needed
    steps: list[StepRow] = field(default_factory=list)
    runs: list[RunRow] = field(default_factory=list)
    failed: list[UUID] = field(default_factory=list)  # runs that fail now, for alerts
    late: list[UUID] = field(default_factory=list)  # runs that began after the end of their sla
    told: list[tuple[UUID, Event]] = field(default_factory=list)  # events for the inboxes of runs
    logs: list[tuple[UUID, str]] = field(default_factory=list)
    freed: dict[str, int] = field(default_factory=dict)  # workflow -> number of its held runs that may start
    heard: list[int] = field(default_factory=list)  # events consumed from the inbox
    turns: dict[UUID, int] = field(default_factory=dict)  # run -> the turn at which it was read
    abandoned: list[UUID] = field(default_factory=list)  # runs whose state cannot be read: all their jobs end

    def begin(self, runs: Sequence[NewRun]) -> None:
        """Adds runs to start."""
        self.children += runs
        self.told += [(run.id, Started()) for run in runs]

    def statements(self) -> list[tuple[str, dict[str, Any]]]:
        """The statements beside the jobs, in the order in which they are sent."""
        found: list[tuple[str, dict[str, Any]]] = []

        def add(name: str, kind: type[Any], rows: Sequence[Any]) -> None:
            if rows:
                found.append((name, columns(kind, rows)))

        if self.turns:
            found.append(("runs_unchanged", {"ids": list(self.turns), "turns": list(self.turns.values())}))
        add("insert_runs", NewRun, self.children)
        add("insert_run_jobs", RunJobRow, self.run_jobs)
        # No timer is both stopped and set here: their iterations differ.
        add("delete_run_timers", TimerKey, self.stopped)
        add("put_run_timers", TimerRow, self.timers)
        add("cancel_run_jobs", RunJobKey, self.cancelled)
        add("cancel_child_runs", RunJobKey, self.cancelled)
        if self.abandoned:
            for name in _ABANDON:
                found.append((name, {"ids": self.abandoned}))
        add("put_run_steps", StepRow, self.steps)
        for event, ids in (("run_failed", self.failed), ("sla_missed", self.late)):
            if ids:
                found.append(("alert_runs", {"event": event, "ids": ids}))
        add("update_runs", RunRow, self.runs)
        if self.late:
            found.append(("note_run_sla_misses", {"ids": self.late}))
        if self.told:
            found.append(("tell_runs", told(self.told)))
        if self.freed:
            found.append(("release_held_runs", {"workflow": list(self.freed), "n": list(self.freed.values())}))
        if self.logs:
            found.append(("add_run_logs", {"run_id": [r for r, _ in self.logs], "message": [m for _, m in self.logs]}))
        if self.heard:
            found.append(("delete_inbox", {"seqs": self.heard}))
        return found


def told(events_of: Sequence[tuple[UUID, Event]]) -> dict[str, list[Any]]:
    """The parameters of `tell_runs`."""
    return {
        "run_id": [run_id for run_id, _ in events_of],
        "event": [json.dumps(events.to_json(event)) for _, event in events_of],
    }


async def write(writer: Writer, changes: RunChanges, epochs: Mapping[int, int]) -> int:
    """Writes `changes` if this coordinator still owns every shard of `epochs`; returns the `tx` of its jobs.

    NotOwner when it does not; RunsChanged when a run's turn is not the one that was read: nothing is written, and the
    run must be read again. Unavailable also when the result of the commit is unknown: the next transaction about one
    of these runs waits until it is decided, and learns the result from the turn (A8).
    """
    shards = sorted(epochs)
    fence = ("fence", {"shards": shards, "epochs": [epochs[n] for n in shards]})
    async with writer.transaction() as conn:
        await conn.execute("begin")
        tx = await insert_within(conn, changes.jobs) if changes.jobs else 0
        try:
            await commit(conn, [*changes.statements(), fence])
        except DatabaseError as error:
            if error.sqlstate == CHANGED:
                raise RunsChanged("a run was changed since it was read") from error
            raise
    return tx


def starting(runs: Sequence[NewRun]) -> list[tuple[str, dict[str, Any]]]:
    """The statements that insert runs to start."""
    return [("insert_runs", columns(NewRun, runs)), ("tell_runs", told([(run.id, Started()) for run in runs]))]


def new_run(
    run_id: bytes,
    workflow: str,
    version: int,
    input: str | None,
    metadata: Mapping[str, str],
    *,
    trigger: str,
    label: str | None = None,
    schedule_id: UUID | None = None,
    **more: Any,
) -> NewRun:
    """A run whose context has the app's attributes, and the id of its schedule, if any.

    All runs of a workflow have one owner, which alone counts the running ones.
    """
    context: dict[str, Any] = dict(metadata)
    if schedule_id is not None:
        context["schedule_id"] = str(schedule_id)
    return NewRun(
        UUID(bytes=run_id), workflow, version, shard_of(workflow), input, json.dumps(context),
        json.dumps(dict(metadata)), label, trigger, schedule_id, **more,
    )  # fmt: skip


async def start_run(db: Database, run: NewRun) -> bool:
    """Inserts a run; False when a run with that id exists."""
    async with db.connection() as conn, conn.transaction():
        made = await (await conn.execute(sql("insert_runs"), columns(NewRun, [run]))).fetchall()
        if made:
            await conn.execute(sql("tell_runs"), told([(run.id, Started())]))
    return bool(made)


async def tell(db: Database, run_id: UUID, event: Event) -> int | None:
    """Puts an event into the inbox of a run, for its owner to apply. Returns its place; None when the run is gone."""
    async with db.connection() as conn:
        row = await (await conn.execute(sql("tell_runs"), told([(run_id, event)]))).fetchone()
    return row["seq"] if row is not None else None


async def ask(db: Database, run_id: UUID, event: Event, action: str, actor: str) -> int | None:
    """As `tell`, and records the action and its actor for the time line."""
    ((_, text),) = zip(*told([(run_id, event)]).values(), strict=True)
    async with db.connection() as conn:
        values = {"run_id": run_id, "event": text, "action": action, "actor": actor}
        row = await (await conn.execute(sql("ask_run"), values)).fetchone()
    return row["seq"] if row is not None else None
