"""Stores jobs: by COPY, or row by row when a batch has a duplicate or a bad row; jobs with keys separately."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg import AsyncConnection, AsyncCursor

from taskflow_server.core.errors import AlreadyExists, InvalidArgument, NotFound, TaskFlowFault, Unavailable
from taskflow_server.core.names import namespace_of
from taskflow_server.runtime.failpoints import reach
from taskflow_server.store.database import Database, Writer, commit
from taskflow_server.store.queries import sql
from taskflow_server.store.times import to_copy, to_datetime

_COPY_JOBS = (
    "copy taskflow.jobs (id, priority, encoding, retries, deferred, queue, task, payload, key, run_at, options)"
    " from stdin (format binary)"
)
# The values are given as binary COPY expects them, without conversion: uuid and jsonb as bytes, timestamptz as number.
_JOB_TYPES = ["bytea", "int2", "int2", "int4", "bool", "text", "text", "bytea", "text", "int8", "bytea"]
_BY_ID = itemgetter(0)
# Up to this number one INSERT, which is one transaction and one round trip, is faster than COPY with four. Measured:
# one row 0.33 ms and 0.16 ms of CPU against 0.56 and 0.33; 100 rows: 1.06 and 0.42 against 1.25 and 0.58; 300: equal.
SMALL = 100
_COLUMNS = ("id", "priority", "encoding", "retries", "deferred", "queue", "task", "payload", "key", "run_at", "options")


class NewJob(NamedTuple):
    """A job to store. `run_at`: microseconds since 1970, only for a job that is due later."""

    id: bytes
    priority: int
    encoding: int
    retries: int
    deferred: bool
    queue: str
    task: str
    payload: bytes | None
    key: str | None
    run_at: int | None
    options: bytes | None
    shard: int
    call: int = 0  # jobs with the same number are stored all or none; 0: independent
    words: Sequence[str] = ()  # its words for lists: taskflow_server.store.tags
    # Columns that the call left open and its task's options fill. They may differ when the call is repeated.
    unsaid: frozenset[str] = frozenset()


class Stored(NamedTuple):
    """The job is on disk. If `tx` is 0, it was stored before, under `id`."""

    id: bytes
    tx: int


Result = Stored | TaskFlowFault


class IdClash(Exception):
    """Some ids belong to other jobs, so the batch must not be stored as it is."""

    def __init__(self, jobs: Sequence[NewJob]) -> None:
        super().__init__()
        self.jobs = jobs


def _copy_row(job: NewJob) -> tuple[Any, ...]:
    options = b"\x01" + job.options if job.options is not None else None  # jsonb's version
    return (*job[:9], to_copy(job.run_at), options)


async def store_jobs(writer: Writer, jobs: Sequence[NewJob]) -> list[Result]:
    """Stores jobs without keys in one transaction. After Unavailable the call may be repeated with the same ids."""
    try:
        small = len(jobs) <= SMALL and not any(job.deferred or job.words or _is_timed(job) for job in jobs)
        return await (_insert_few if small else _copy)(writer, jobs)
    except psycopg.errors.UniqueViolation:
        return await _insert(writer, jobs)
    except psycopg.Error as error:
        return await halve(writer, jobs, error, store_jobs)


async def _insert_few(writer: Writer, jobs: Sequence[NewJob]) -> list[Result]:
    async with writer.transaction() as conn:
        await reach("scheduler.before_commit")
        columns = _columns(sorted(jobs, key=_BY_ID))
        if len(jobs) == 1:
            cursor = await conn.execute(sql("insert_one_job"), {name: values[0] for name, values in columns.items()})
        else:
            cursor = await conn.execute(sql("insert_few_jobs"), columns)
        tx = await _transaction_number(cursor)
        await reach("scheduler.after_commit")
    return [Stored(job.id, tx) for job in jobs]


async def _copy(writer: Writer, jobs: Sequence[NewJob]) -> list[Result]:
    async with writer.transaction() as conn:
        async with conn.pipeline():
            await conn.execute("begin")
            number = await conn.execute(sql("transaction_number"))
        tx = await _transaction_number(number)
        async with conn.cursor() as cursor, cursor.copy(_COPY_JOBS) as copy:
            copy.set_types(_JOB_TYPES)
            # In order of ids: two batches with the same ids must not deadlock.
            for job in sorted(jobs, key=_BY_ID):
                await copy.write_row(_copy_row(job))
        await reach("scheduler.before_commit")
        await commit(conn, _beside(jobs))
        await reach("scheduler.after_commit")
    return [Stored(job.id, tx) for job in jobs]


async def _transaction_number(cursor: AsyncCursor[Any]) -> int:
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


def _beside(jobs: Sequence[NewJob]) -> list[tuple[str, dict[str, Any]]]:
    """The statements for the small tables in the transaction that inserts these jobs."""
    statements: list[tuple[str, dict[str, Any]]] = []
    later = [job for job in jobs if job.deferred]
    if later:
        statements.append(("insert_deferred", _deferred(later)))
    tagged = sorted((word, job.id) for job in jobs for word in job.words)
    if tagged:
        columns = {"word": [word for word, _ in tagged], "job_id": [UUID(bytes=job_id) for _, job_id in tagged]}
        statements.append(("insert_tags", columns))
    optional = [job for job in jobs if job.options is not None]
    timed = [(job, start_by) for job in optional if (start_by := _start_by(job)) is not None]
    if timed:
        bounds = {
            "job_id": [UUID(bytes=job.id) for job, _ in timed],
            "queue": [job.queue for job, _ in timed],
            "start_by": [to_datetime(start_by) for _, start_by in timed],
        }
        statements.append(("insert_start_bys", bounds))
    slas = [(job, sla) for job in optional if (sla := _sla(job)) is not None]
    if slas:
        due = {
            "job_id": [UUID(bytes=job.id) for job, _ in slas],
            "queue": [job.queue for job, _ in slas],
            "run_at": [to_datetime(job.run_at) for job, _ in slas],
            "sla": [sla for _, sla in slas],
        }
        statements.append(("insert_job_slas", due))
    return statements


def _is_timed(job: NewJob) -> bool:
    """Whether its options may have an sla or a `start_by`."""
    return job.options is not None and (b'"start_by"' in job.options or b'"sla"' in job.options)


def _sla(job: NewJob) -> float | None:
    """Its sla in seconds, if any."""
    if job.options is None or b'"sla"' not in job.options:
        return None
    sla: float | None = json.loads(job.options).get("sla")
    return sla


def _start_by(job: NewJob) -> int | None:
    """When it expires unless it has started, in microseconds since 1970: not before it is due."""
    if job.options is None or b'"start_by"' not in job.options:
        return None
    start_by: int | None = json.loads(job.options).get("start_by")
    return None if start_by is None else max(start_by, job.run_at or 0)


def _deferred(later: Sequence[NewJob]) -> dict[str, list[Any]]:
    return {
        "job_id": [UUID(bytes=j.id) for j in later],
        "due_at": [to_datetime(j.run_at) for j in later],
        "shard": [j.shard for j in later],
        "priority": [j.priority for j in later],
        "attempt": [1] * len(later),
        "tries": [0] * len(later),
        "reason": [1] * len(later),
        "queue": [j.queue for j in later],
        "task": [j.task for j in later],
    }


def _columns(jobs: Sequence[NewJob]) -> dict[str, list[Any]]:
    columns = dict(zip(_COLUMNS, map(list, zip(*(j[:11] for j in jobs), strict=True)), strict=True))
    columns["id"] = [UUID(bytes=i) for i in columns["id"]]
    columns["run_at"] = [to_datetime(t) for t in columns["run_at"]]
    columns["options"] = [None if o is None else o.decode() for o in columns["options"]]
    return columns


async def _insert(writer: Writer, jobs: Sequence[NewJob]) -> list[Result]:
    """Decides for each row: a new job, a repeated one, or the id of another job (A9)."""
    first: dict[bytes, NewJob] = {}
    for job in jobs:
        first.setdefault(job.id, job)
    unique = sorted(first.values(), key=_BY_ID)
    try:
        async with writer.transaction() as conn:
            await conn.execute("begin")
            tx = await _transaction_number(await conn.execute(sql("transaction_number")))
            made = await (await conn.execute(sql("insert_jobs"), _columns(unique))).fetchall()
            new = {row[0].bytes for row in made}
            there = await _present(conn, [job.id for job in jobs])
            clashing = [job for job in jobs if not _is(job, there.get(job.id))]
            if any(job.call for job in clashing):
                raise IdClash(clashing)
            await commit(conn, _beside([job for job in unique if job.id in new]))
    except IdClash as clash:
        return await _without(writer, jobs, clash, _insert)
    except psycopg.Error as error:
        return await halve(writer, jobs, error, _insert)
    results: list[Result] = []
    for job in jobs:
        if not _is(job, there.get(job.id)):
            results.append(_id_in_use(job))
        elif job.id in new:
            results.append(Stored(job.id, tx))
            new.discard(job.id)
        else:
            results.append(Stored(job.id, 0))
    return results


async def _without(writer: Writer, jobs: Sequence[NewJob], clash: IdClash, store: Any) -> list[Result]:
    """Refuses each call that has the id of another job, as a whole, and stores the others."""
    refused = {job.call: _id_in_use(job) for job in clash.jobs if job.call}
    rest = [job for job in jobs if job.call not in refused]
    stored = iter(await store(writer, rest) if rest else [])
    return [refused[job.call] if job.call in refused else next(stored) for job in jobs]


def _id_in_use(job: NewJob) -> AlreadyExists:
    return AlreadyExists(f"id: {UUID(bytes=job.id)} is the id of another job", "ID_IN_USE")


_IDENTITY = ("queue", "task", "priority", "encoding", "retries", "payload", "key")


def _is(job: NewJob, there: tuple[Any, ...] | None) -> bool:
    """Whether the row with the job's id is the same job. Columns that the call left open are not compared."""
    return there is not None and all(
        name in job.unsaid or getattr(job, name) == value for name, value in zip(_IDENTITY, there, strict=True)
    )


async def _present(conn: AsyncConnection[Any], ids: list[bytes]) -> dict[bytes, tuple[Any, ...]]:
    rows = await (await conn.execute(sql("same_jobs"), {"ids": [UUID(bytes=i) for i in ids]})).fetchall()
    return {row[0].bytes: tuple(row[1:]) for row in rows}


async def halve(writer: Writer, jobs: Sequence[NewJob], error: psycopg.Error, store: Any) -> list[Result]:
    """Halves a refused batch until the bad row is alone (B6). Only errors that are the fault of a row get here: all
    others are Unavailable."""
    if len(jobs) == 1:
        said = (error.diag.message_primary or str(error)).strip()
        return [InvalidArgument(f"the database refuses this job: {said}", "", "BAD_JOB")]
    middle = len(jobs) // 2
    return [*await store(writer, jobs[:middle]), *await store(writer, jobs[middle:])]


async def store_keyed(writer: Writer, jobs: Sequence[NewJob]) -> list[Result]:
    """Stores jobs with idempotency keys in a separate transaction: keys first, then the winners' rows (B5). A call may
    have jobs with and without a key.

    If another open transaction holds a key, the batch waits for half a second; then each job is stored alone.
    """
    try:
        return await _keyed(writer, jobs)
    except Unavailable as fault:
        if not isinstance(fault.__cause__, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
            raise
        if len(jobs) == 1:
            return [Unavailable("key: another call with this key is in progress; retry", "KEY_BUSY")]
        return [result for job in jobs for result in await _alone(writer, job)]
    except IdClash as clash:
        if any(job.call for job in clash.jobs):
            return await _without(writer, jobs, clash, store_keyed)
        if len(jobs) == 1:
            return [_id_in_use(jobs[0])]
        middle = len(jobs) // 2
        return [*await store_keyed(writer, jobs[:middle]), *await store_keyed(writer, jobs[middle:])]
    except psycopg.Error as error:
        return await halve(writer, jobs, error, store_keyed)


async def _alone(writer: Writer, job: NewJob) -> list[Result]:
    try:
        return await store_keyed(writer, [job])
    except TaskFlowFault as fault:
        return [fault]


async def _keyed(writer: Writer, jobs: Sequence[NewJob]) -> list[Result]:
    plain = [job for job in jobs if job.key is None]
    firsts = {(namespace_of(j.queue), j.key): j for j in reversed(jobs) if j.key is not None}
    wanted = sorted(firsts.items(), key=lambda kj: kj[0])
    keys = {"namespace": [k[0] for k, _ in wanted], "key": [k[1] for k, _ in wanted]}
    holders = {"job_id": [UUID(bytes=j.id) for _, j in wanted]}
    async with writer.transaction() as conn:
        await conn.execute("begin")
        await conn.execute(sql("wait_briefly"))
        tx = await _transaction_number(await conn.execute(sql("transaction_number")))
        won = set(await (await conn.execute(sql("claim_keys"), keys | holders)).fetchall())
        winners = [*(job for key, job in wanted if key in won), *plain]
        new = await _insert_winners(conn, winners)
        held = await (await conn.execute(sql("keyed_jobs"), keys)).fetchall()
        await commit(conn, _beside([job for job in winners if job.id in new]))
        await reach("scheduler.after_keyed_commit")
    owner = {(space, key): job_id.bytes for space, key, job_id in held}
    results: list[Result] = []
    for job in jobs:
        job_id = job.id if job.key is None else owner[namespace_of(job.queue), job.key]
        results.append(Stored(job_id, tx if job_id == job.id and job_id in new else 0))
        new.discard(job.id)
    return results


async def _insert_winners(conn: AsyncConnection[Any], winners: Sequence[NewJob]) -> set[bytes]:
    """The new ids. IdClash when one belongs to another job, whose key must stay free."""
    if not winners:
        return set()
    rows = await (await conn.execute(sql("insert_jobs"), _columns(winners))).fetchall()
    if len(rows) < len(winners):
        there = await _present(conn, [job.id for job in winners])
        clashing = [job for job in winners if not _is(job, there[job.id])]
        if clashing:
            raise IdClash(clashing)
    return {row[0].bytes for row in rows}


async def insert_within(conn: AsyncConnection[Any], jobs: Sequence[NewJob]) -> int:
    """Inserts jobs with ids made by TaskFlow in the caller's transaction. Returns their `tx`."""
    tx = await _transaction_number(await conn.execute(sql("insert_few_jobs"), _columns(sorted(jobs, key=_BY_ID))))
    for name, parameters in _beside(jobs):
        await conn.execute(sql(name), parameters)
    return tx


def options_json(options: dict[str, Any]) -> bytes | None:
    return json.dumps(options, separators=(",", ":")).encode() if options else None


async def get_jobs(db: Database, ids: Sequence[bytes]) -> dict[bytes, dict[str, Any]]:
    rows = await db.rows("get_jobs", ids=[UUID(bytes=i) for i in ids])
    return {row["id"].bytes: row for row in rows}


async def retry_by_hand(db: Database, job_id: bytes, actor: str) -> bool:
    """Makes a finished job wait again with all its tries, and deletes its cancel. False when it is not finished.
    `actor` is shown in the time line."""
    async with db.connection() as conn, conn.transaction():
        await conn.execute(sql("finished_may_change"))
        if (await conn.execute(sql("closed_day_of"), {"id": UUID(bytes=job_id)})).rowcount:
            raise NotFound(f"job {UUID(bytes=job_id)} is past its retention and is being deleted", "JOB_NOT_FOUND")
        made = await (await conn.execute(sql("retry_by_hand"), {"id": UUID(bytes=job_id), "actor": actor})).fetchall()
        if made:
            await conn.execute(sql("revoke_cancel"), {"id": UUID(bytes=job_id)})
    return bool(made)
