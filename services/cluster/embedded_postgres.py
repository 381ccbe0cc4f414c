"""A Postgres of our own: a direct child on 127.0.0.1, with a password, that ends when we do and keeps its data.

One process at a time has a data folder (a lock in it). A server that outlived its supervisor is stopped and started
anew as our child; one that has a supervisor is found by `attach`. fsync and synchronous_commit are on unless
`fsync=False`, which is for tests of other things.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from taskflow_server.cluster import binaries as pg_binaries
from taskflow_server.cluster import home as pg_home
from taskflow_server.cluster import pidfile
from taskflow_server.cluster.ports import PortInUseError, free_ports, is_free
from taskflow_server.cluster.process import spawn, stop, tail, take_lock, wait_until

USER = "postgres"  # not "taskflow": the schema of that name would be on its search path, and hide unqualified names
DATABASE = "taskflow"
HOST = "127.0.0.1"
_INITDB_TIMEOUT = 120.0
_START_TIMEOUT = 60.0
_RETRY_FOR = 5.0
_SMALL_SHARED_MEMORY = 256 * 1024 * 1024
_INITDB_TAKES_SETTINGS = 16  # the version; an older initdb needs 2 MiB of /dev/shm, or none at all
# Fast first: sessions are cut, a checkpoint is written. Immediate if that takes long: recovery follows at the start.
_STOP = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0))
_RETRIED = ("pre-existing shared memory", "could not bind", "lock file")
_LOG_LIMIT = 10 * 1024 * 1024


class PostgresError(Exception):
    """The embedded Postgres does not run; the text says why, in one line."""


class LockedError(PostgresError):
    """Another process has the data folder."""


class EmbeddedPostgres:
    """The server of one data folder. `port` 0: a free one, the last one again if possible. Use from one thread."""

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        fsync: bool = True,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.port = port
        self.log = self.data_dir / "logs" / "postgres.log"
        self.version = ""
        self._fixed_port = bool(port)
        self._fsync = fsync
        self._environ = environ
        self._home = pg_home.locate(self.data_dir, environ)
        self._bin: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    @property
    def dsn(self) -> str:
        """The URL of the database, with the password."""
        return _dsn(self._home.password, self.port)

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def bin(self) -> Path:
        """The folder of the programs that run here, pg_dump among them. Known once started."""
        if self._bin is None:
            raise PostgresError("not started")
        return self._bin

    def start(self, stopping: Callable[[], bool] = lambda: False) -> str:
        """Make the data if there are none, start, wait until it answers; returns the dsn. Again after a death: back.

        Raises PostgresError, HomeError, NoPostgresError, PortInUseError; process.Interrupted once `stopping()` holds,
        with nothing left running.
        """
        self._take_lock()
        try:
            pg_home.prepare(self._home, self.data_dir)
            found = pg_binaries.find(self._major_of_data(), self._environ)
            self._bin, self.version = pg_home.runnable(found, self._home), found.version
            self._end_leftover(stopping)
            if self._major_of_data() is None:
                self._initdb(found.major, stopping)
            self._launch(stopping)
            self._make_database()
        except BaseException:
            self.stop()
            raise
        self._fixed_port = True  # clients that know the dsn find the server there after a restart
        return self.dsn

    def stop(self) -> None:
        """Stop the server, within about 25 s, and let go of the data folder."""
        if self._process is not None:
            stop(self._process, _STOP)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the server a signal, for tests of what comes after."""
        if self._process is not None:
            self._process.send_signal(number)

    def remove(self) -> None:
        """Stop, and delete the data for good."""
        self.stop()
        pg_home.remove(self._home)

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            self._lock = take_lock(self.data_dir / "postgres.lock")
        except BlockingIOError:
            raise LockedError(f"another process runs the Postgres of {self.data_dir}") from None
        except OSError as error:
            raise PostgresError(f"{self.data_dir} cannot be used: {error.strerror}") from error

    def _major_of_data(self) -> int | None:
        try:
            return int((self._home.data / "PG_VERSION").read_text().partition(".")[0])
        except FileNotFoundError:
            return None

    def _end_leftover(self, stopping: Callable[[], bool]) -> None:
        """See that no server has the data, and that no stale pid file keeps ours from starting."""
        for number, patience in _STOP:
            pid = pidfile.postmaster(self._home.data)
            if pid is not None:
                os.kill(pid, number)
                wait_until(lambda: pidfile.postmaster(self._home.data) is None, patience, stopping)
        if pidfile.postmaster(self._home.data) is not None:
            raise PostgresError(f"an old server has the data in {self._home.data} and does not stop: end it by hand")
        (self._home.data / "postmaster.pid").unlink(missing_ok=True)

    def _initdb(self, major: int, stopping: Callable[[], bool]) -> None:
        draft = self._home.path / "data.new"
        shutil.rmtree(draft, ignore_errors=True)
        log = self.log.with_name("initdb.log")
        log.unlink(missing_ok=True)
        options = ["--encoding=UTF8", "--locale=C", "--auth=scram-sha-256", f"--username={USER}"]
        options += [f"--pwfile={self._home.path / 'password'}", f"--pgdata={draft}"]
        if not self._fsync:
            options.append("--no-sync")
            if major >= _INITDB_TAKES_SETTINGS:  # the password's 4,096 rounds are a quarter of a connection's CPU
                options += ["-c", "scram_iterations=1"]
        if _small_shared_memory() and major >= _INITDB_TAKES_SETTINGS:
            options += ["-c", "dynamic_shared_memory_type=mmap"]
        process = self._spawn([self.bin / "initdb", *options], log)
        try:
            done = wait_until(lambda: process.poll() is not None, _INITDB_TIMEOUT, stopping)
        finally:
            stop(process, ((signal.SIGTERM, 2.0),))
        if not done or process.returncode != 0:
            who = f", as user {self._home.identity.name}," if self._home.identity else ""
            raise PostgresError(f"initdb{who} failed: {_reason(log, 0)} (more in {log})")
        draft.rename(self._home.data)

    def _launch(self, stopping: Callable[[], bool]) -> None:
        """Start the server; again, for a while, where what is in the way goes away by itself."""
        self._choose_port(stopping)
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        reasons: list[str] = []
        if not wait_until(lambda: self._try(reasons, stopping), _RETRY_FOR, stopping):
            raise PostgresError(f"Postgres did not start: {reasons[-1]} (more in {self.log})")

    def _choose_port(self, stopping: Callable[[], bool]) -> None:
        if self._fixed_port:
            if not wait_until(lambda: is_free(self.port), 1.0, stopping):
                raise PortInUseError(self.port, "the embedded Postgres")
            return
        self.port = self.port or pidfile.last_port(self._home.data)
        if not (self.port and is_free(self.port)):
            self.port = free_ports(1)[0]

    def _try(self, reasons: list[str], stopping: Callable[[], bool]) -> bool:
        """Start the server and wait. Adds to `reasons`, and is False, where another try may help; else raises."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        process = self._process = self._spawn([self.bin / "postgres", *self._options()], self.log)

        def settled() -> bool:
            return process.poll() is not None or pidfile.ready(self._home.data, process.pid)

        wait_until(settled, _START_TIMEOUT, stopping)
        if process.poll() is None and pidfile.ready(self._home.data, process.pid):
            return True
        stop(process, _STOP)
        reasons.append(_reason(self.log, offset))
        if not any(words in reasons[-1] for words in _RETRIED):
            raise PostgresError(f"Postgres did not start: {reasons[-1]} (more in {self.log})")
        return False

    def _options(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "unix_socket_directories": "",  # TCP only: a socket's path has a limit of 107 bytes
            "max_connections": "200",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_checkpoints": "off",
            "jit": "off",  # compiling costs more than our short queries
        }
        if _small_shared_memory():
            settings["dynamic_shared_memory_type"] = "mmap"
        if not self._fsync:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return ["-D", str(self._home.data), "-p", str(self.port), *flags]

    def _spawn(self, command: list[str | Path], log: Path) -> "subprocess.Popen[bytes]":
        # Nothing of the caller's: PGDATA, PGOPTIONS or a locale would change what runs.
        env = {"PATH": self._environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
        try:
            return spawn(
                command, env=env, cwd=self._home.path, log=log, death_signal=signal.SIGINT, identity=self._home.identity
            )
        except OSError as error:
            raise PostgresError(f"cannot start {command[0]}: {error}") from error

    def _make_database(self) -> None:
        try:
            with psycopg.connect(_dsn(self._home.password, self.port, "postgres"), autocommit=True) as conn:
                if conn.execute("select 1 from pg_database where datname = %s", (DATABASE,)).fetchone() is None:
                    conn.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
        except psycopg.Error as error:
            raise PostgresError(f"the embedded Postgres answers, but: {error}") from error


def attach(data_dir: Path, environ: Mapping[str, str] = os.environ) -> str | None:
    """The dsn of the live server of `data_dir`, under any supervisor; None when there is none."""
    home = pg_home.locate(data_dir, environ)
    pid = pidfile.postmaster(home.data)
    if pid is None or not pidfile.ready(home.data, pid):
        return None
    return _dsn(home.password, int(pidfile.lines(home.data)[3]))


def _dsn(password: str, port: int, database: str = DATABASE) -> str:
    return f"postgresql://{USER}:{password}@{HOST}:{port}/{database}"


def _small_shared_memory() -> bool:
    """Whether /dev/shm is missing, or has too little left for parallel queries, as in many containers."""
    try:
        volume = os.statvfs("/dev/shm")
    except OSError:
        return True
    return volume.f_frsize * volume.f_bavail < _SMALL_SHARED_MEMORY


def _reason(log: Path, offset: int) -> str:
    """Why a program of Postgres ended: its first FATAL or error line, else its last words."""
    try:
        with log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    for mark in ("FATAL:", "PANIC:", "error:"):
        for line in lines:
            if mark in line:
                return line.partition(mark)[2].strip()
    return tail(log, offset) or "it said nothing"
