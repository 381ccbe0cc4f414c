"""A worker whose handlers write into the cluster's own database, by fenced transactions or by plain ones.

    python -m tests.support.fenced_app <scheduler> <database> <folder> <name> <concurrency> [plain]

A handler notes that it has started, waits for the gate that its payload names (a file of the folder), and writes a row.
The database notes each row that is committed although its attempt has ended (`SCHEMA`).
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import psycopg

from taskflow import Job, StaleAttempt, TaskFlow

# The trigger runs in COMMIT, when nothing of the handler's follows. An attempt that ends after it does not matter.
SCHEMA = """
create schema app;
create table app.effects (job_id uuid not null, attempt integer not null, fence bigint not null);
create table app.stale (job_id uuid not null, attempt integer not null);
create function app.note_stale() returns trigger language plpgsql as $$
begin
    if exists (select from taskflow.attempts a where a.job_id = new.job_id and a.attempt >= new.attempt) then
        insert into app.stale values (new.job_id, new.attempt);
    end if;
    return null;
end $$;
create constraint trigger note_stale after insert on app.effects deferrable initially deferred
    for each row execute function app.note_stale();
"""
CONNECTIONS = 8  # of a worker at once
GATE_SECONDS = 0.02  # between two looks at the folder

_connections: SimpleQueue[psycopg.Connection[Any] | None] = SimpleQueue()  # None: to be opened
_gates: dict[str, threading.Event] = {}


def write(job: Job) -> None:
    note("started", job)
    _gates.setdefault(job.payload["gate"], threading.Event()).wait()
    try:
        with connection() as conn, transaction(conn, job):
            conn.execute("insert into app.effects values (%s, %s, %s)", (job.id, job.attempt, job.fence))
    except StaleAttempt:
        note("stale", job)
        raise


@contextmanager
def connection() -> Iterator[psycopg.Connection[Any]]:
    """One of a few; a session that was terminated makes room for another."""
    conn = _connections.get() or psycopg.connect(DATABASE, autocommit=True)
    try:
        yield conn
    finally:
        _connections.put(None if conn.closed else conn)


def transaction(conn: psycopg.Connection[Any], job: Job) -> Any:
    return conn.transaction() if PLAIN else job.fenced(conn)


def note(what: str, job: Job) -> None:
    with _lock, (FOLDER / what).open("a") as file:
        file.write(f"{job.id} {job.attempt} {NAME}\n")


def open_gates() -> None:
    while True:
        for name, gate in list(_gates.items()):
            if (FOLDER / name).exists():
                gate.set()
        time.sleep(GATE_SECONDS)


_lock = threading.Lock()

if __name__ == "__main__":
    scheduler, DATABASE, folder, NAME, concurrency, *plain = sys.argv[1:]
    FOLDER, PLAIN = Path(folder), bool(plain)
    for _ in range(CONNECTIONS):
        _connections.put(None)
    threading.Thread(target=open_gates, daemon=True).start()
    TaskFlow(scheduler).run("fenced", write, concurrency=int(concurrency), name=NAME, prefetch=0)
