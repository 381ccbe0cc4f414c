"""A steady load beside an old transaction and old snapshots, and the same load without them before and after.

An open snapshot collapses queues that update rows: no row that dies meanwhile can be cleaned away, and no reader
can tell that it may pass over it.
"""

import statistics
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg

from benchmarks.measure import Measure, percentile
from benchmarks.plan import HELD_RATE

READERS = 4
WINDOWS = 12  # parts of the held time, each with a percentile of its own
_SHORTEST = 0.25  # seconds of a part
_READ = 0.5  # seconds between the reads of one reader
_QUERY = "select count(*) from (select from taskflow.job_states order by id limit 200) oldest"


def measure(m: Measure) -> None:
    """Half of the time without, all of it with, half without: what drifts meanwhile falls on both."""
    seconds = m.plan.held
    _steady(m, "base", seconds / 2)
    with _held(m.lab.dsn):
        _steady(m, "", seconds)
    _steady(m, "base", seconds / 2)


def _steady(m: Measure, kind: str, seconds: float) -> None:
    """Adds a rate and a 99th percentile for each window."""
    times = m.starts(kind or "held", "steady", rate=HELD_RATE, seconds=seconds)
    length = max(m.plan.held / WINDOWS, _SHORTEST)
    first = times[0][0]
    windows: dict[int, list[float]] = {}
    for sent, start in times:
        windows.setdefault(int((sent - first) / length), []).append((start - sent) * 1000)
    started = [start for _, start in times]
    for number, took in windows.items():
        begin, end = first + number * length, first + (number + 1) * length
        if end - first > seconds + length / 2:
            continue  # a rest
        m.add(f"held.{kind}p50", statistics.median(took))
        m.add(f"held.{kind}p99", percentile(took, 0.99))
        m.add(f"held.{kind}rate", sum(begin <= start < end for start in started) / length)


@contextmanager
def _held(dsn: str) -> Iterator[None]:
    """A transaction with a number that does nothing, and readers that see the tables as they were."""
    with ExitStack() as stack:
        idle = stack.enter_context(psycopg.connect(dsn))
        idle.execute("select pg_current_xact_id()")
        stop = threading.Event()
        readers = [stack.enter_context(psycopg.connect(dsn)) for _ in range(READERS)]
        for reader in readers:
            reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            reader.execute(_QUERY)
        threads = [threading.Thread(target=_read, args=(reader, stop), daemon=True) for reader in readers]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        for conn in (idle, *readers):
            conn.rollback()  # raises if one of them has been ended meanwhile: then nothing was held


def _read(conn: "psycopg.Connection[tuple[object, ...]]", stop: threading.Event) -> None:
    while not stop.wait(_READ):
        conn.execute(_QUERY)
