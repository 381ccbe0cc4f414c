"""The reads and writes of a coordinator. Every write ends with the fence of its shards (A1)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from taskflow_server.core.errors import Unavailable
from taskflow_server.core.lanes import LaneKey, Mark
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.columns import columns
from taskflow_server.store.database import Database, Writer, commit
from taskflow_server.store.errors import count
from taskflow_server.store.queries import sql
from taskflow_server.store.times import to_copy, to_datetime

_COPY_ATTEMPTS = (
    "copy taskflow.attempts (job_id, started_at, finished_at, exec_id, attempt, tries, outcome, final, encoding,"
    " worker, result, error) from stdin (format binary)"
)
_ATTEMPT_TYPES = ["bytea", "int8", "int8", "bytea", "int4", "int4", "int2", "bool", "int2", "text", "bytea", "bytea"]
SMALL = 100  # up to this number one pipeline, which is one round trip, is faster than COPY with four (see jobs.py)
_NAMES = (
    "job_id", "started_at", "finished_at", "exec_id", "attempt", "tries", "outcome", "final", "encoding", "worker",
    "result", "error",
)  # fmt: skip

FENCE_PATIENCE = 1.0  # seconds that a takeover waits for a fence before it terminates the fence's backend


class AttemptRow(NamedTuple):
    """One row of `attempts`. Instants are microseconds since 1970."""

    job_id: bytes
    started_at: int | None
    finished_at: int
    exec_id: bytes | None
    attempt: int
    tries: int
    outcome: int
    final: bool
    encoding: int
    worker: str | None
    result: bytes | None
    error: bytes | None  # JSON


class DeferredRow(NamedTuple):
    job_id: bytes
    delay: float
    shard: int
    priority: int
    attempt: int
    tries: int
    reason: int
    queue: str
    task: str


class BlockedRow(NamedTuple):
    """A job that waits for a permit under a limit."""

    job_id: bytes
    shard: int
    priority: int
    attempt: int
    tries: int
    reason: int
    queue: str
    task: str
    blocked_by: str


class LeaseRow(NamedTuple):
    job_id: bytes
    exec_id: bytes
    started_at: int | None
    shard: int
    priority: int
    attempt: int
    tries: int
    handouts: int
    started: bool
    queue: str
    task: str
    worker: str | None
    progress: str | None
    in_progress_ms: int | None = None  # an executor's in-progress timeout
    fenced: bool | None = None  # its handler's transactions can be fenced (A17)


class TaskLogRow(NamedTuple):
    """An attempt of a named task. Without `task_id`, the job's row decides whether it is one."""

    task_id: UUID | None
    job_id: bytes
    attempt: int
    started_at: int | None
    finished_at: int
    outcome: int
    final: bool


@dataclass(slots=True)
class Changes:
    """One fenced transaction of a coordinator."""

    attempts: list[AttemptRow] = field(default_factory=list)
    task_logs: list[TaskLogRow] = field(default_factory=list)
    defer: list[DeferredRow] = field(default_factory=list)
    block: list[BlockedRow] = field(default_factory=list)
    undefer: list[bytes] = field(default_factory=list)
    leases: list[LeaseRow] = field(default_factory=list)
    unlease: list[bytes] = field(default_factory=list)
    cancelled: list[bytes] = field(default_factory=list)
    unread: list[tuple[bytes, int]] = field(default_factory=list)  # final jobs that their lane has not read; shards
    told: list[tuple[bytes, int]] = field(default_factory=list)  # final jobs of runs, with the attempt
    failed: list[tuple[bytes, int]] = field(default_factory=list)  # failed jobs, with the attempt
    marks: list[tuple[LaneKey, Mark]] = field(default_factory=list)
    other: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def statements(self, epochs: Mapping[int, int]) -> list[tuple[str, dict[str, Any]]]:
        """The statements for the small tables and the fence, in the order in which they are sent."""
        found: list[tuple[str, dict[str, Any]]] = list(self.other)
        if self.task_logs:
            found.append(("put_task_logs", _instants(_by_column(TaskLogRow, self.task_logs))))
        if self.defer:
            found.append(("put_deferred", _by_column(DeferredRow, self.defer)))
        if self.block:
            found.append(("put_blocked", _by_column(BlockedRow, self.block)))
        if self.undefer:
            found.append(("delete_deferred", {"ids": _uuids(self.undefer)}))
        if self.leases:
            leases = _by_column(LeaseRow, self.leases)
            leases["started_at"] = [to_datetime(t) for t in leases["started_at"]]
            found.append(("put_leases", leases))
        if self.unlease:
            found.append(("end_leases", {"ids": _uuids(self.unlease)}))
        if self.cancelled:
            found.append(("finish_cancels", {"ids": _uuids(self.cancelled)}))
        if self.unread:
            ended = {"job_id": _uuids([job for job, _ in self.unread]), "shard": [n for _, n in self.unread]}
            found.append(("pass_over", ended))
        for query, jobs in (("tell_of_jobs", self.told), ("alert_jobs", self.failed)):
            if jobs:
                found.append((query, {"job_id": _uuids([job for job, _ in jobs]), "attempt": [n for _, n in jobs]}))
        if self.marks:
            found.append(("write_marks", _mark_columns(self.marks)))
        shards = sorted(epochs)
        found.append(("fence", {"shards": shards, "epochs": [epochs[n] for n in shards]}))
        return found


def _uuids(ids: Sequence[bytes]) -> list[UUID]:
    return [UUID(bytes=i) for i in ids]


def _by_column(kind: Any, rows: Sequence[Any]) -> dict[str, list[Any]]:
    found = columns(kind, rows)
    for name in ("job_id", "exec_id"):
        if name in found:
            found[name] = [None if i is None else UUID(bytes=i) for i in found[name]]
    return found


def _instants(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for name in ("started_at", "finished_at"):
        columns[name] = [to_datetime(t) for t in columns[name]]
    return columns


def _attempt_columns(rows: Sequence[AttemptRow]) -> dict[str, list[Any]]:
    columns = _instants(_by_column(AttemptRow, rows))
    columns["error"] = [None if e is None else e.decode() for e in columns["error"]]
    return columns


def _mark_columns(marks: Sequence[tuple[LaneKey, Mark]]) -> dict[str, list[Any]]:
    return {
        "queue": [k.queue for k, _ in marks],
        "task": [k.task for k, _ in marks],
        "priority": [k.priority for k, _ in marks],
        "tx": [str(m.position.tx) for _, m in marks],
        "id": [UUID(bytes=m.position.id) for _, m in marks],
        "late": ["{" + ",".join(map(str, sorted(m.late))) + "}" for _, m in marks],
    }


async def write(writer: Writer, changes: Changes, epochs: Mapping[int, int], *, slow: bool = False) -> frozenset[bytes]:
    """Writes `changes` if this coordinator still owns every shard of `epochs`. Returns the jobs for which nothing was
    written because another outcome of the same attempt is recorded: only `slow` finds any.

    NotOwner when a shard has another owner, FencedOpen when handlers' transactions hold some of the attempts: nothing
    is written. CommitUnknown when the changes may have been written: call again with `slow`, which finds the rows of a
    commit in doubt by their keys (A8). DatabaseError: a row is at fault, nothing is written.
    """
    beaten: frozenset[bytes] = frozenset()
    async with writer.transaction() as conn:
        if changes.attempts and not slow and len(changes.attempts) <= SMALL:
            await reach("coordinator.before_commit")
            attempts = ("insert_few_attempts", _attempt_columns(changes.attempts))
            await commit(conn, [attempts, *changes.statements(epochs)], begin=True)
        elif changes.attempts and not slow:
            await conn.execute("begin")
            async with conn.cursor() as cursor, cursor.copy(_COPY_ATTEMPTS) as copy:
                copy.set_types(_ATTEMPT_TYPES)
                for row in changes.attempts:
                    await copy.write_row(_copy_row(row))
            await reach("coordinator.before_commit")
            await commit(conn, changes.statements(epochs))
        else:
            await conn.execute("begin")
            if changes.attempts:
                beaten = await _insert_attempts(conn, changes)
            await commit(conn, changes.statements(epochs))
        if changes.attempts:
            await reach("coordinator.after_commit")
    return beaten


async def _insert_attempts(conn: Any, changes: Changes) -> frozenset[bytes]:
    """Inserts the rows whose keys are free. An existing row with the same exec_id and outcome comes from the commit in
    doubt and counts as written. A row with another exec_id (for example a cancel), or with another outcome (decided
    before a cancel arrived, in a commit whose answer was lost), wins: nothing else is written for its job. Returns
    the jobs of such rows."""
    await conn.execute(sql("insert_attempts"), _attempt_columns(changes.attempts))
    job_ids, numbers = _uuids([r.job_id for r in changes.attempts]), [r.attempt for r in changes.attempts]
    wanted = {"job_ids": job_ids, "attempts": numbers}
    rows = await (await conn.execute(sql("recorded"), wanted)).fetchall()
    there = {(job.bytes, attempt): (exec_id and exec_id.bytes, outcome) for job, attempt, exec_id, outcome in rows}
    beaten = frozenset(r.job_id for r in changes.attempts if there[r.job_id, r.attempt] != (r.exec_id, r.outcome))
    if beaten:
        changes.task_logs = [row for row in changes.task_logs if row.job_id not in beaten]
        changes.defer = [row for row in changes.defer if row.job_id not in beaten]
        changes.leases = [row for row in changes.leases if row.job_id not in beaten]
        changes.told = [(job_id, attempt) for job_id, attempt in changes.told if job_id not in beaten]
        for ids in (changes.undefer, changes.unlease, changes.cancelled):
            ids[:] = [job_id for job_id in ids if job_id not in beaten]
    return beaten


def _copy_row(row: AttemptRow) -> tuple[Any, ...]:
    error = None if row.error is None else b"\x01" + row.error
    return (row[0], to_copy(row.started_at), row.finished_at - 946_684_800_000_000, *row[3:11], error)


async def judge_slas(writer: Writer, jobs: dict[str, list[Any]], epochs: Mapping[int, int]) -> list[dict[str, Any]]:
    """Records which of these jobs (columns of `judge_job_slas`) have missed their sla; returns the newly recorded ones.

    NotOwner when a shard has another owner now: nothing is written.
    """
    shards = sorted(epochs)
    async with writer.transaction() as conn:
        await conn.execute("begin")
        async with conn.cursor(row_factory=dict_row) as cursor:
            found = await (await cursor.execute(sql("judge_job_slas"), jobs)).fetchall()
        await commit(conn, [("fence", {"shards": shards, "epochs": [epochs[n] for n in shards]})])
    return found


async def take_shards(writer: Writer, floors: Mapping[int, int], **owner: Any) -> dict[int, tuple[int, bool]]:
    """Raises the epochs. Returns `{shard: (epoch, clean)}`, clean when the last owner handed the shard over."""
    shards = sorted(floors)
    async with writer.transaction() as conn:
        await conn.execute("begin")
        previous = dict(await _locked(writer, conn, shards))
        cursor = await conn.execute(
            sql("take_shards"), {"shards": shards, "floors": [floors[n] for n in shards], **owner}
        )
        rows = await cursor.fetchall()
        await commit(conn, [])
    return {shard: (epoch, previous[shard] is None) for shard, epoch in rows}


async def _locked(writer: Writer, conn: Any, shards: Sequence[int]) -> list[Any]:
    """Locks the shards and returns their last owners. A backend that blocks a takeover for longer than FENCE_PATIENCE
    hangs between its fence and its COMMIT, and is terminated (A1). One that this role may not terminate is waited for,
    up to the statement timeout."""
    spared: list[str] = []
    locking = asyncio.ensure_future(conn.execute(sql("lock_shards"), {"shards": shards}))
    try:
        while not (await asyncio.wait({locking}, timeout=FENCE_PATIENCE))[0]:
            spared = await writer.end_blockers()
        rows: list[Any] = await locking.result().fetchall()
        return rows
    except psycopg.errors.QueryCanceled as error:
        if not spared:
            raise
        count(error)
        who = ", ".join(spared)
        raise Unavailable(f"the shards are locked by {who}, which this role may not end", "SHARDS_LOCKED") from error
    finally:
        locking.cancel()


async def recorded_executions(db: Database, wanted: Sequence[tuple[bytes, bytes]]) -> dict[bytes, int]:
    """The recorded outcomes of these (job, exec_id), by exec_id."""
    jobs, execs = _uuids([j for j, _ in wanted]), _uuids([e for _, e in wanted])
    rows = await db.rows("recorded_executions", job_ids=jobs, exec_ids=execs)
    return {r["exec_id"].bytes: r["outcome"] for r in rows}


async def recorded(
    db: Database, wanted: Sequence[tuple[bytes, int]]
) -> dict[tuple[bytes, int], tuple[bytes | None, int]]:
    """The recorded rows of these attempts: `{(job, attempt): (exec_id, outcome)}`."""
    rows = await db.rows("recorded", job_ids=_uuids([j for j, _ in wanted]), attempts=[a for _, a in wanted])
    return {
        (r["job_id"].bytes, r["attempt"]): (r["exec_id"].bytes if r["exec_id"] else None, r["outcome"]) for r in rows
    }


__all__ = [
    "AttemptRow", "BlockedRow", "Changes", "DeferredRow", "LeaseRow", "TaskLogRow", "judge_slas", "recorded",
    "recorded_executions", "take_shards", "write",
]  # fmt: skip
