"""Rows as the store's functions take them, with everything left out that a test does not care for."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Any
from uuid import UUID

import psycopg

from taskflow._policy import Deferral, Outcome
from taskflow_server.core.ids import exec_id, uuid7
from taskflow_server.store.dispatch import AttemptRow, DeferredRow, LeaseRow
from taskflow_server.store.jobs import NewJob


def now_us() -> int:
    return time.time_ns() // 1000


def new_id(offset_ms: int = 0) -> bytes:
    """A UUIDv7 of now, or so many milliseconds off."""
    return uuid7(now_us() // 1000 + offset_ms, secrets.randbits(80))


def new_exec(shard: int = 0, epoch: int = 1) -> bytes:
    return exec_id(shard, epoch, secrets.randbits(40), secrets.randbits(32))


def job(queue: str = "q", **values: Any) -> NewJob:
    plain = NewJob(new_id(), 5, 1, 0, False, queue, "", b'{"n":1}', None, None, None, 0)
    return plain._replace(**values)


def attempt(job_id: bytes, **values: Any) -> AttemptRow:
    now = now_us()
    plain = AttemptRow(job_id, now, now, new_exec(), 1, 1, Outcome.SUCCEEDED, True, 1, "w", b"1", None)
    return plain._replace(**values)


def deferred(job_id: bytes, **values: Any) -> DeferredRow:
    return DeferredRow(job_id, 60.0, 0, 5, 2, 1, Deferral.RETRYING, "q", "")._replace(**values)


def lease(job_id: bytes, **values: Any) -> LeaseRow:
    return LeaseRow(job_id, new_exec(), None, 0, 5, 1, 0, 0, False, "q", "", None, None)._replace(**values)


class _Kept(threading.local):
    """A thread's connection to the database that it asked last: a new one costs 8 ms of CPU, a question 0.2."""

    dsn = ""
    conn: psycopg.Connection[Any] | None = None

    def to(self, dsn: str) -> psycopg.Connection[Any]:
        if self.conn is None or self.conn.closed or self.dsn != dsn:
            if self.conn is not None:
                self.conn.close()
            self.dsn, self.conn = dsn, psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        return self.conn


_kept = _Kept()


def found(dsn: str, statement: str, *parameters: Any, **named: Any) -> list[tuple[Any, ...]]:
    """The rows of a question, which may be asked twice."""
    try:
        return _kept.to(dsn).execute(statement, parameters or named or None).fetchall()
    except psycopg.OperationalError:
        if _kept.conn is None or not _kept.conn.closed:
            raise  # no connection, or an error of the question itself
    # The server was restarted since the last question, or ended the session.
    return _kept.to(dsn).execute(statement, parameters or named or None).fetchall()


def run(dsn: str, statement: str, *parameters: Any) -> int:
    """A statement on a connection of its own; the rows that it touched."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(statement, parameters or None).rowcount


def attempts_of(dsn: str, *job_ids: bytes) -> dict[bytes, bytes | None]:
    """`{job: exec_id}` of the first attempts that stand."""
    rows = found(
        dsn,
        "select job_id, exec_id from taskflow.attempts where attempt = 1 and job_id = any(%s)",
        [UUID(bytes=i) for i in job_ids],
    )
    return {row[0].bytes: row[1].bytes if row[1] else None for row in rows}


def shown(job_id: bytes) -> str:
    """An id as the API writes it."""
    return str(UUID(bytes=job_id))
