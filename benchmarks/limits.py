"""Limits of the machine and of Postgres without us, in the same run: the measure for our own figures."""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import psycopg

BATCH = 5_000
FLUSHES = 200
_SPIN = 200_000

_JOBS = (
    "copy limits.jobs (id, priority, encoding, retries, deferred, queue, task, payload, key, run_at, options)"
    " from stdin (format binary)"
)
_JOB_TYPES = ["bytea", "int2", "int2", "int4", "bool", "text", "text", "bytea", "text", "int8", "bytea"]
_ATTEMPTS = (
    "copy limits.attempts (job_id, started_at, finished_at, exec_id, attempt, tries, outcome, final, encoding, worker,"
    " result, error) from stdin (format binary)"
)
_ATTEMPT_TYPES = ["bytea", "int8", "int8", "bytea", "int4", "int4", "int2", "bool", "int2", "text", "bytea", "bytea"]


def make_tables(conn: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Empty copies of jobs and attempts, with their indexes and one partition each."""
    conn.execute("drop schema if exists limits cascade")
    conn.execute("create schema limits")
    for table, column in (("jobs", "id"), ("attempts", "job_id")):
        conn.execute(
            f"create table limits.{table} (like taskflow.{table} including all) partition by range ({column})"
        )
        conn.execute(
            f"create table limits.{table}_p partition of limits.{table} for values from (minvalue) to (maxvalue)"
        )


def two_copies(conn: "psycopg.Connection[tuple[object, ...]]", jobs: int) -> tuple[float, float]:
    """Seconds for the rows of so many jobs, and for those of their attempts: by one connection, a commit for 5,000."""
    payload = b'{"n":1,"x":"' + b"y" * 86 + b'"}'
    now = time.time_ns()
    ids = [((now // 1_000_000 << 80) | (7 << 76) | (2 << 62) | n).to_bytes(16, "big") for n in range(jobs)]
    asked = [(i, 5, 1, 0, False, "backlog", "", payload, None, None, None) for i in ids]
    us = now // 1000 - 946_684_800_000_000
    done = [(i, us, us, UUID(bytes=i).bytes, 1, 1, 1, True, 1, "bench-1", None, None) for i in ids]
    return _copy(conn, _JOBS, _JOB_TYPES, asked), _copy(conn, _ATTEMPTS, _ATTEMPT_TYPES, done)


def _copy(
    conn: "psycopg.Connection[tuple[object, ...]]", statement: str, types: list[str], rows: Sequence[tuple[object, ...]]
) -> float:
    began = time.monotonic()
    for start in range(0, len(rows), BATCH):
        with conn.transaction(), conn.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(types)
            for row in rows[start : start + BATCH]:
                copy.write_row(row)
    return time.monotonic() - began


def flush_us(folder: Path) -> float:
    """Median microseconds of writing 8 KiB and having it on disk, in the file system of `folder`."""
    path = folder / "flush"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    took = []
    try:
        for _ in range(FLUSHES):
            began = time.perf_counter()
            os.pwrite(file, bytes(8192), 0)
            os.fdatasync(file)
            took.append(time.perf_counter() - began)
    finally:
        os.close(file)
        path.unlink()
    return statistics.median(took) * 1e6


def spin_ms() -> float:
    """Milliseconds of a fixed loop: how fast one core runs Python just now."""
    began = time.perf_counter()
    total = 0
    for number in range(_SPIN):
        total += number & 3
    return (time.perf_counter() - began) * 1e3
