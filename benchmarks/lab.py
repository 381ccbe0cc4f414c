"""The measured system: a cluster of its own on an embedded Postgres with fsync on, workers and clients as processes.

Everything stands in a temporary folder and on free ports, and is gone at the end.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import procs
from benchmarks.board import Board
from benchmarks.plan import CONCURRENCY, Plan
from taskflow_server.cluster import home
from taskflow_server.cluster.cluster import Cluster
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres
from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.process import spawn, stop, tail, wait_until
from taskflow_server.cluster.service import CODE, environment, python
from taskflow_server.store.migrate import migrate

ROOT = Path(__file__).resolve().parents[1]  # from where `benchmarks` is imported
PATIENCE = 120.0  # seconds that one step may take
SERVICES = ("queue", "coordinator", "scheduler")
_CLIENT_PATIENCE = 300.0
_UP = "up"  # the data folder of a `taskflow up` of its own


class BenchError(Exception):
    """Something did not happen that had to; the text says what."""


class Worker:
    """A worker process of ours, that runs jobs of one queue and counts them in its slot of the board."""

    def __init__(self, process: "subprocess.Popen[bytes]", queue: str, slot: int, log: Path) -> None:
        self.process, self.queue, self.slot, self.log = process, queue, slot, log

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid


class Lab:
    """The cluster and its surroundings. Use from one thread."""

    def __init__(self, directory: Path, plan: Plan, postgres: EmbeddedPostgres, cluster: Cluster, dsn: str) -> None:
        self.plan = plan
        self.postgres = postgres
        self.cluster = cluster
        self.dsn = dsn
        self.conn = psycopg.connect(dsn, autocommit=True)
        self.board = Board(directory / "board", plan.numbers)
        self.waiting = 0  # jobs on the queue `backlog` that no worker has run
        self.waiting_since: Any = None  # an id below all of theirs
        self.peaks: list[float] = []  # jobs/s seen with enqueue and run at once
        self.workers: list[Worker] = []
        self.directory = directory
        self.up_directory = directory / _UP
        self._env = environment(_plain_environ(), ROOT)
        self.echo_port = free_ports(1)[0]
        self._echo: subprocess.Popen[bytes] | None = None

    # -- processes -----------------------------------------------------------------------------------------------

    def pids(self) -> dict[str, list[int]]:
        """By name: the services, Postgres, and the workers there are."""
        found = {name: [service.process.pid] for name in SERVICES if (service := self.cluster[name]).process}
        found["postgres"] = [self.postgres.pid or 0]
        found["worker"] = [worker.pid for worker in self.workers]
        return found

    @contextmanager
    def window(self) -> Iterator[procs.Window]:
        """CPU by process over the block."""
        with procs.window(self.pids) as seen:
            yield seen

    def start_worker(
        self, queue: str, slot: int, *, shut: bool = False, concurrency: int = CONCURRENCY, takes: float = 0.0
    ) -> Worker:
        """Start a worker; does not wait. The slot's count begins at 0; with `shut` it holds its jobs. Its handlers take
        `takes` seconds."""
        self.board.clear(slot, shut=shut)
        log = self.directory / "logs" / f"worker-{slot}.log"
        words = ["--scheduler", self.cluster.scheduler_address, "--queue", queue, "--board", str(self.board.path)]
        words += ["--slot", str(slot), "--concurrency", str(concurrency), "--takes", str(takes)]
        worker = Worker(self.spawn(python("benchmarks.worker", *words), log), queue, slot, log)
        self.workers.append(worker)
        return worker

    def stop_workers(self, queue: str) -> None:
        """Stop those of a queue, politely."""
        for worker in [w for w in self.workers if w.queue == queue]:
            stop(worker.process, ((signal.SIGTERM, 10.0),))
            self.workers.remove(worker)

    def live_worker(self) -> Worker:
        """The worker of the queue `live`, started when first asked for; it has run a job when this returns."""
        for worker in self.workers:
            if worker.queue == "live":
                return worker
        worker = self.start_worker("live", 0)
        self.client("bulk", queue="live", jobs=1)
        self.until(lambda: self.board.count(0) >= 1, "the first job of the live worker")
        return worker

    def client(self, way: str, **options: object) -> dict[str, Any]:
        """Run a client to its end; its answer."""
        address = f"127.0.0.1:{self.echo_port}" if way in ("unary", "stream") else self.cluster.scheduler_address
        words = ["--address", address] + [w for name, value in options.items() for w in (f"--{name}", str(value))]
        answer = self.directory / "answer"
        answer.unlink(missing_ok=True)
        log = self.directory / "logs" / "client.log"
        command = python("benchmarks.client", way, *words, "--answer", str(answer))
        process = self.spawn(command, log)
        try:
            if not wait_until(lambda: process.poll() is not None, _CLIENT_PATIENCE, every=0.005):
                raise BenchError(f"the client {way} did not end within {_CLIENT_PATIENCE:g} s")
        finally:
            stop(process, ((signal.SIGTERM, 1.0),))
        if process.returncode != 0:
            raise BenchError(f"the client {way} failed: {tail(log)}")
        told: dict[str, Any] = json.loads(answer.read_text())
        return told

    def start_echo(self) -> None:
        """The bare gRPC server, unless it runs."""
        if self._echo is None:
            log = self.directory / "logs" / "echo.log"
            self._echo = self.spawn(python("benchmarks.echo", str(self.echo_port)), log)

    def close(self) -> None:
        """Stop workers and the echo server; the cluster is its own affair."""
        for worker in list(self.workers):
            self.stop_workers(worker.queue)
        if self._echo is not None:
            stop(self._echo, ((signal.SIGTERM, 2.0),))
        self.conn.close()

    def spawn(self, command: list[str], log: Path) -> "subprocess.Popen[bytes]":
        """Start a program with the clean environment; it ends with us, if not before."""
        return spawn(command, env=self._env, cwd=CODE, log=log)

    def pause(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)
        self._all_alive()

    def wait_quiet(self, most: float) -> None:
        """Until others use at most this share of a core for half a second; or a minute has passed."""

        def quiet() -> bool:
            with self.window() as seen:
                self.pause(0.5)
            return seen.others <= most

        wait_until(quiet, 60.0)

    def until(self, condition: Callable[[], bool], what: str, every: float = 0.002) -> None:
        """Wait for a fact. BenchError names it, and who of ours has died, when it does not come true."""

        def look() -> bool:
            self._all_alive()
            return condition()

        if not wait_until(look, PATIENCE, every=every):
            raise BenchError(f"{what} did not come within {PATIENCE:g} s")

    def _all_alive(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is not None:
                raise BenchError(f"the worker of {worker.queue} ended: {tail(worker.log)}")
        for name in SERVICES:
            if not self.cluster[name].alive:
                raise BenchError(f"{name} {self.cluster[name].ending}")

    # -- facts from Postgres -------------------------------------------------------------------------------------

    def value(self, query: str, *parameters: object) -> Any:
        """The only field of the only row."""
        row = self.conn.execute(query, parameters).fetchone()
        return row[0] if row else None

    def expect(self) -> None:
        """Jobs are about to be put on the queue `backlog`."""
        if not self.waiting:
            self.waiting_since = self.here()

    def here(self) -> Any:
        """An id below all those of jobs made from now on."""
        return self.value("select taskflow.uuid_at(clock_timestamp())")

    def settled(self, since: Any) -> int:
        """Jobs made since `here` whose success stands in `attempts`."""
        return int(
            self.value("select count(*) from taskflow.attempts where job_id >= %s and final and outcome = 1", since)
        )

    def wait_settled(self, since: Any, jobs: int) -> float:
        """Until so many have their outcome on disk; the instant. To be asked once their handlers have begun."""
        self.until(lambda: self.settled(since) >= jobs, f"the outcomes of {jobs} jobs", every=0.001)
        return time.monotonic()

    def wal(self) -> int:
        """Bytes of WAL written since the server was made."""
        return int(self.value("select pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')"))

    def wait_written(self, inserted: int) -> dict[str, int]:
        """Rows inserted and changed in our tables, dead ones in jobs and attempts; once it knows of `inserted` ones."""
        self.until(lambda: self._written()["inserted"] >= inserted, "Postgres's statistics", every=0.1)
        return self._written()

    def _written(self) -> dict[str, int]:
        row = self.conn.execute(
            """select coalesce(sum(n_tup_ins), 0), coalesce(sum(n_tup_upd + n_tup_del), 0),
                   coalesce(sum(n_dead_tup + n_tup_upd + n_tup_del) filter (where relname ~ '^(jobs|attempts)_p'), 0)
               from pg_stat_user_tables where schemaname = 'taskflow'"""
        ).fetchone()
        assert row is not None
        return dict(zip(("inserted", "changed", "dead"), map(int, row), strict=True))


def _plain_environ() -> dict[str, str]:
    """Ours without TASKFLOW_* (but for where Postgres is found): what is measured are the defaults."""
    return {k: v for k, v in os.environ.items() if not k.startswith("TASKFLOW_") or k.startswith("TASKFLOW_PG_")}


@contextmanager
def lab(plan: Plan, stopping: Callable[[], bool] = lambda: False) -> Iterator[Lab]:
    """A cluster to measure. Raises what the start of Postgres and of the services raises."""
    directory = Path(tempfile.mkdtemp(prefix="taskflow-bench-"))
    environ: Mapping[str, str] = _plain_environ()
    postgres = EmbeddedPostgres(directory, environ=environ)
    try:
        dsn = postgres.start(stopping)
        asyncio.run(migrate(dsn))
        with Cluster(dsn, directory, services=SERVICES, environ=environ, cwd=CODE) as cluster:
            cluster.start(stopping=stopping)
            made = Lab(directory, plan, postgres, cluster, dsn)
            for setting in ("fsync", "synchronous_commit"):
                if made.value(f"show {setting}") != "on":
                    raise BenchError(f"{setting} is off: the figures would mean nothing")
            try:
                yield made
            finally:
                made.close()
    finally:
        postgres.remove()
        home.remove(home.locate(directory / _UP, environ))
        shutil.rmtree(directory, ignore_errors=True)
