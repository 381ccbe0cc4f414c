"""Makes entries of the dispatch table from rows of Postgres and from offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from taskflow.v1 import jobs_pb2
from taskflow.v1.queue_pb2 import Assignment
from taskflow_server.core.dispatch.records import Entry, Facts
from taskflow_server.core.dispatch.waiting import JOB_BYTES
from taskflow_server.core.lanes import LaneKey
from taskflow_server.rpc.values import options_from_json, times_to_json
from taskflow_server.store.database import Database, Row
from taskflow_server.store.lane_reader import Spec
from taskflow_server.store.times import to_us

FACTS_A_QUERY = 500  # jobs whose facts one query reads
SPECS_A_QUERY = 500
THERE_LESS = 650  # bytes that a job without its payload takes less in the queue service than here
SPEC_BYTES = 4 << 20  # bytes of payloads that one query reads


def task_limit(task_id: object) -> str:
    """The key of a named task's limit."""
    return f"task:{task_id}"


def limit_of(assignment: Assignment) -> tuple[str, bool]:
    """The key of the limit that a job may have, and whether it was submitted under one."""
    options = assignment.options if assignment.HasField("options") else None
    return (task_limit(options.task_id), options.limited) if options is not None and options.task_id else ("", False)


def assignment_of(job_id: bytes, spec: Spec) -> Assignment:
    """The message for the worker. If the options cannot be read, its `fault` has the reason, and the job fails."""
    message = Assignment(job_id=job_id, payload=spec.payload or b"", encoding=spec.encoding, retries=spec.retries)  # type: ignore[arg-type]
    if spec.options:
        try:
            message.options.CopyFrom(options_from_json(spec.options) or jobs_pb2.JobOptions())
            times_to_json(message.options, "options")
        except Exception as fault:  # a row that was written by SQL: this job fails, and no other waits for it
            message.ClearField("options")
            message.fault = f"options: {type(fault).__name__}: {fault}"[:500]
    return message


def waiting_entry(
    job_id: bytes, key: LaneKey, shard: int, attempt: int, tries: int, spec: Assignment, payload: int, **known: Any
) -> Entry:
    """A job to admit, with the bytes that it takes in memory; `payload` in bytes."""
    if not spec.HasField("options"):
        return Entry(job_id, key, shard, attempt, tries, spec, JOB_BYTES - THERE_LESS + payload, **known)
    own_size = JOB_BYTES + spec.options.ByteSize()
    size = own_size - THERE_LESS + payload
    limit_key, limited = limit_of(spec)
    return Entry(
        job_id, key, shard, attempt, tries, spec, size, own_size, limit_key=limit_key, limited=limited, **known
    )


def due_entry(row: Row, spec: Spec, payload: int, **known: Any) -> Entry:
    """A row of `deferred` whose job is due, or may get a permit."""
    assignment = assignment_of(row["job_id"], spec)
    due_us, run_at_us = to_us(row["due_at"]) or 0, to_us(spec.run_at) or 0
    return waiting_entry(
        row["job_id"], lane_key(row), row["shard"], row["attempt"], row["tries"], assignment, payload,
        due=True, due_us=due_us, run_at_us=run_at_us, **known,
    )  # fmt: skip


def lane_key(row: Row) -> LaneKey:
    return LaneKey(row["queue"], row["task"], row["priority"])


# -- by the facts of a job -------------------------------------------------------------------
async def load_facts(db: Database, job_ids: Sequence[bytes], *, payloads: bool = True) -> dict[bytes, Row]:
    """The facts of these jobs, by id; jobs that are not stored are missing."""
    if not job_ids:
        return {}
    rows = await db.rows("load_facts", ids=[UUID(bytes=i) for i in job_ids], payloads=payloads)
    return {row["id"].bytes: row for row in rows}


def facts_of(facts: Row) -> Facts:
    """The facts for an adopted attempt."""
    spec = _assignment(facts)
    tries = facts["lease_tries"] if facts["lease_tries"] is not None else facts["due_tries"]
    leased = facts["lease_attempt"] is not None
    return Facts(lane_key(facts), spec, tries if tries is not None else facts["last_tries"] or 0, leased=leased,
                 fenced=facts["lease_fenced"] is not None, **_due(facts), **_limit(spec))  # fmt: skip


def leased_entry(lease: Row, facts: Row) -> Entry:
    """A row of `leases`, with the facts of its job. Its former owner has counted its start."""
    spec = _assignment(facts)
    return Entry(
        lease["job_id"].bytes, lane_key(lease), lease["shard"], lease["attempt"], lease["tries"], spec,
        exec_id=lease["exec_id"].bytes, started=lease["started"], counted=lease["started"],
        handouts=lease["handouts"], leased_to=lease["worker"] or "", fenced=lease["fenced"] is not None, **_due(facts),
        **_limit(spec),
    )  # fmt: skip


def unread_entry(facts: Row) -> Entry:
    """A job to end that is not in memory: deferred, or waiting in Postgres for room in its lane."""
    deferred = facts["due_attempt"] is not None
    attempt, tries = (facts["due_attempt"], facts["due_tries"]) if deferred else (1, 0)
    spec = _assignment(facts)
    return Entry(
        facts["id"].bytes, lane_key(facts), facts["shard"], attempt, tries, spec, unread=not deferred, **_due(facts)
    )


def _assignment(facts: Row) -> Assignment:
    spec = Spec(facts["payload"], facts["encoding"], facts["retries"], facts["options"])
    return assignment_of(facts["id"].bytes, spec)


def _due(facts: Row) -> dict[str, Any]:
    return {
        "due": facts["due_attempt"] is not None,
        "due_us": to_us(facts["due_at"]) or 0,
        "run_at_us": to_us(facts["run_at"]) or 0,
    }


def _limit(spec: Assignment) -> dict[str, Any]:
    key, limited = limit_of(spec)
    return {"limit_key": key, "limited": limited}
