"""Entries of the dispatch table, made from rows of Postgres and from offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2
from taskflow.v1.queue_pb2 import Assignment
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.waiting import JOB_BYTES
from taskflow_server.core.lanes import LaneKey
from taskflow_server.rpc.values import options_from_json, times_to_json
from taskflow_server.store.database import Database, Row
from taskflow_server.store.lane_reader import Spec
from taskflow_server.store.times import to_us

FACTS_A_QUERY = 500  # jobs whose facts are read at a time
SPECS_A_QUERY = 500
THERE_LESS = 650  # bytes that a job takes less in the queue service than here, its payload apart
SPEC_BYTES = 4 << 20  # of payloads that are read at a time


def task_limit(task_id: object) -> str:
    """The key of a named task's limit."""
    return f"task:{task_id}"


def note_limit(entry: Entry) -> None:
    """Which limit a job may have, by its facts."""
    spec = entry.spec
    if spec is not None and spec.HasField("options") and spec.options.task_id:
        entry.limit_key, entry.limited = task_limit(spec.options.task_id), spec.options.limited


def task_of(job_id: bytes, spec: Spec) -> Assignment:
    task = Assignment(job_id=job_id, payload=spec.payload or b"", encoding=spec.encoding, retries=spec.retries)  # type: ignore[arg-type]
    if spec.options:
        try:
            task.options.CopyFrom(options_from_json(spec.options) or jobs_pb2.JobOptions())
            times_to_json(task.options, "options")
        except Exception as fault:  # a row that SQL has written: this job fails, and no other waits for it
            task.ClearField("options")
            task.fault = f"options: {type(fault).__name__}: {fault}"[:500]
    return task


def entry_of(
    job_id: bytes, key: LaneKey, shard: int, attempt: int, tries: int, task: Assignment, payload: int
) -> Entry:
    """A job that comes into memory, with what it takes there; `payload` in bytes."""
    if not task.HasField("options"):
        return Entry(job_id, key, shard, attempt, tries, task, JOB_BYTES - THERE_LESS + payload)
    own_size = JOB_BYTES + task.options.ByteSize()
    entry = Entry(job_id, key, shard, attempt, tries, task, own_size - THERE_LESS + payload, own_size)
    note_limit(entry)
    return entry


async def load_facts(db: Database, job_ids: Sequence[bytes], *, payloads: bool = True) -> dict[bytes, Row]:
    """The facts of these jobs, by id; a job that is not stored is left out."""
    if not job_ids:
        return {}
    rows = await db.rows("load_facts", ids=[UUID(bytes=i) for i in job_ids], payloads=payloads)
    return {row["id"].bytes: row for row in rows}


def spec_of(job_id: bytes, facts: dict[str, Any]) -> Any:
    return task_of(job_id, Spec(facts["payload"], facts["encoding"], facts["retries"], facts["options"]))


def note_due(entry: Entry, facts: dict[str, Any]) -> None:
    entry.due = facts["due_attempt"] is not None
    entry.due_us, entry.run_at_us = to_us(facts["due_at"]) or 0, to_us(facts["run_at"]) or 0


def unread_entry(table: DispatchTable, job_id: bytes, facts: Row) -> Entry:
    """Brings it into memory to be ended at once; if its lane still reads it, it is passed over there."""
    key = LaneKey(facts["queue"], facts["task"], facts["priority"])
    entry = Entry(job_id, key, facts["shard"], 1, 0, spec_of(job_id, facts))
    if facts["due_attempt"] is not None:
        entry.due, entry.attempt, entry.tries = True, facts["due_attempt"], facts["due_tries"]
    else:
        entry.unread = True
        lane = table.lanes.get(key)
        if lane is not None:
            lane.drop(job_id)
    table.by_job[job_id] = entry
    table.waiting.add(entry)
    return entry
