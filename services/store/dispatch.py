"""What a coordinator reads and writes. Every write ends with the fence of the shards concerned (A1)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

from services.core.lanes import Lane, LaneKey, Mark, Page, PageRequest, Position, Snapshot
from services.runtime.failpoints import reach
from services.store import raw_ids
from services.store.columns import columns
from services.store.database import Database, Writer, commit, translated
from services.store.queries import sql
from services.store.times import to_copy, to_datetime

_COPY_ATTEMPTS = (
    "copy taskflow.attempts (job_id, started_at, finished_at, exec_id, attempt, tries, outcome, final, encoding,"
    " worker, result, error) from stdin (format binary)"
)
_ATTEMPT_TYPES = ["bytea", "int8", "int8", "bytea", "int4", "int4", "int2", "bool", "int2", "text", "bytea", "bytea"]
SMALL = 100  # up to here everything in one pipeline, which is one round trip, beats COPY and its four (see jobs.py)
_NAMES = (
    "job_id", "started_at", "finished_at", "exec_id", "attempt", "tries", "outcome", "final", "encoding", "worker",
    "result", "error",
)  # fmt: skip

FENCE_PATIENCE = 1.0  # seconds that a takeover waits for a fence before it ends its backend


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
    in_progress_ms: int | None = None  # an executor's time-out


class TaskLogRow(NamedTuple):
    """An attempt at a run of a named task. Without `task_id`: the job's row tells whether it is one."""

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
    undefer: list[bytes] = field(default_factory=list)
    leases: list[LeaseRow] = field(default_factory=list)
    unlease: list[bytes] = field(default_factory=list)
    cancelled: list[bytes] = field(default_factory=list)
    told: list[tuple[bytes, int]] = field(default_factory=list)  # final jobs, with the attempt, of runs
    marks: list[tuple[LaneKey, Mark]] = field(default_factory=list)
    other: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def statements(self, epochs: Mapping[int, int]) -> list[tuple[str, dict[str, Any]]]:
        """The small tables and the fence, in the order in which they are sent."""
        found: list[tuple[str, dict[str, Any]]] = list(self.other)
        if self.task_logs:
            found.append(("put_task_logs", _instants(_by_column(TaskLogRow, self.task_logs))))
        if self.defer:
            found.append(("put_deferred", _by_column(DeferredRow, self.defer)))
        if self.undefer:
            found.append(("delete_deferred", {"ids": _uuids(self.undefer)}))
        if self.leases:
            leases = _by_column(LeaseRow, self.leases)
            leases["started_at"] = [to_datetime(t) for t in leases["started_at"]]
            found.append(("put_leases", leases))
        if self.unlease:
            found.append(("delete_leases", {"ids": _uuids(self.unlease)}))
        if self.cancelled:
            found.append(("finish_cancels", {"ids": _uuids(self.cancelled)}))
        if self.told:
            jobs = {"job_id": _uuids([job for job, _ in self.told]), "attempt": [n for _, n in self.told]}
            found.append(("tell_of_jobs", jobs))
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


async def write(writer: Writer, changes: Changes, epochs: Mapping[int, int], *, slow: bool = False) -> None:
    """Writes `changes` if every shard of `epochs` is still ours.

    NotOwner when one is not; CommitUnknown when it may have been written: then again with `slow`, which finds the
    rows of a commit in doubt by their keys (A8). psycopg errors of class 22 or 23: a row is bad, nothing is written.
    """
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
                await _insert_attempts(conn, changes)
            await commit(conn, changes.statements(epochs))
        if changes.attempts:
            await reach("coordinator.after_commit")


async def _insert_attempts(conn: Any, changes: Changes) -> None:
    """By keys. What stands there already from this very commit is as good as written; what another exec_id has
    written (a cancel, say) wins, and nothing more of ours is written for that job."""
    await conn.execute(sql("insert_attempts"), _attempt_columns(changes.attempts))
    job_ids, numbers = _uuids([r.job_id for r in changes.attempts]), [r.attempt for r in changes.attempts]
    wanted = {"job_ids": job_ids, "attempts": numbers}
    rows = await (await conn.execute(sql("recorded"), wanted)).fetchall()
    written = {(job_id.bytes, attempt): exec_id.bytes if exec_id else None for job_id, attempt, exec_id, _ in rows}
    beaten = {r.job_id for r in changes.attempts if written[r.job_id, r.attempt] != r.exec_id}
    if beaten:
        changes.task_logs = [row for row in changes.task_logs if row.job_id not in beaten]
        changes.defer = [row for row in changes.defer if row.job_id not in beaten]
        changes.leases = [row for row in changes.leases if row.job_id not in beaten]
        changes.told = [(job_id, attempt) for job_id, attempt in changes.told if job_id not in beaten]
        for ids in (changes.undefer, changes.unlease, changes.cancelled):
            ids[:] = [job_id for job_id in ids if job_id not in beaten]


def _copy_row(row: AttemptRow) -> tuple[Any, ...]:
    error = None if row.error is None else b"\x01" + row.error
    return (row[0], to_copy(row.started_at), row.finished_at - 946_684_800_000_000, *row[3:11], error)


class Spec(NamedTuple):
    """What a worker is told of a job."""

    payload: bytes | None
    encoding: int
    retries: int
    options: dict[str, Any] | None
    run_at: datetime | None = None


NO_SCANS = " -c enable_seqscan=off -c enable_hashjoin=off -c enable_mergejoin=off"


class LaneReader:
    """Reads pages. Its connection is kept from plans that scan: a fresh partition looks empty to the planner."""

    def __init__(self, url: str, timeout: float) -> None:
        self._writer = Writer(url, timeout=timeout, settings=NO_SCANS, prepare=raw_ids.register)

    async def close(self) -> None:
        await self._writer.reset()

    async def pages(self, wanted: Sequence[tuple[Lane, PageRequest]]) -> list[Page]:
        """One page for each lane, all of one snapshot."""
        parameters = {
            "queues": [lane.key.queue for lane, _ in wanted],
            "tasks": [lane.key.task for lane, _ in wanted],
            "priorities": [lane.key.priority for lane, _ in wanted],
            "txs": [str(r.position.tx) for _, r in wanted],
            "ids": raw_ids.Ids(r.position.id for _, r in wanted),
            "limits": [r.limit for _, r in wanted],
            "catching_up": [r.catching_up for _, r in wanted],
            "late_of": [n for n, (_, r) in enumerate(wanted, 1) for _ in r.late],
            "late": [str(tx) for _, r in wanted for tx in r.late],
        }
        async with self._writer.transaction() as conn:
            rows = await (await conn.execute(sql("read_lanes"), parameters, binary=True)).fetchall()
        snapshot = Snapshot(0, frozenset())
        ahead: list[list[Position]] = [[] for _ in wanted]
        behind: list[list[Position]] = [[] for _ in wanted]
        for n, tx, job_id, text in rows:
            if n == 0:
                _, xmax, running = text.split(":")
                snapshot = Snapshot(int(xmax), frozenset(int(x) for x in running.split(",") if x))
            else:
                (ahead if n > 0 else behind)[abs(n) - 1].append(Position(tx, job_id))
        # UNION ALL keeps each branch's order, but does not promise to.
        return [
            Page(snapshot, sorted(a), b, len(a) >= r.limit)
            for a, b, (_, r) in zip(ahead, behind, wanted, strict=True)
        ]

    async def specs(self, ids: Sequence[bytes]) -> dict[bytes, Spec]:
        async with self._writer.transaction() as conn:
            rows = await (await conn.execute(sql("load_specs"), {"ids": raw_ids.Ids(ids)}, binary=True)).fetchall()
        return {row[0]: Spec(*row[1:]) for row in rows}


async def take_shards(writer: Writer, floors: Mapping[int, int], **owner: Any) -> dict[int, tuple[int, bool]]:
    """Raises the epochs; `{shard: (epoch, clean)}`, clean when the last owner had left in order."""
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
    """The shards' last owners. Whoever holds up a takeover for longer hangs between its fence and its COMMIT (A1)."""
    locking = asyncio.ensure_future(conn.execute(sql("lock_shards"), {"shards": shards}))
    try:
        while not (await asyncio.wait({locking}, timeout=FENCE_PATIENCE))[0]:
            await writer.end_blockers()
        rows: list[Any] = await locking.result().fetchall()
        return rows
    finally:
        locking.cancel()


async def recorded_executions(db: Database, wanted: Sequence[tuple[bytes, bytes]]) -> dict[bytes, int]:
    """The outcomes of these (job, exec_id), by exec_id, as far as they are recorded."""
    jobs, execs = _uuids([j for j, _ in wanted]), _uuids([e for _, e in wanted])
    rows = await db.rows("recorded_executions", job_ids=jobs, exec_ids=execs)
    return {r["exec_id"].bytes: r["outcome"] for r in rows}


async def recorded(
    db: Database, wanted: Sequence[tuple[bytes, int]]
) -> dict[tuple[bytes, int], tuple[bytes | None, int]]:
    """What stands for these attempts: `{(job, attempt): (exec_id, outcome)}`."""
    rows = await db.rows("recorded", job_ids=_uuids([j for j, _ in wanted]), attempts=[a for _, a in wanted])
    return {
        (r["job_id"].bytes, r["attempt"]): (r["exec_id"].bytes if r["exec_id"] else None, r["outcome"]) for r in rows
    }


__all__ = [
    "AttemptRow", "Changes", "DeferredRow", "LaneReader", "LeaseRow", "Spec", "TaskLogRow", "psycopg", "recorded",
    "recorded_executions", "take_shards", "translated", "write",
]  # fmt: skip
