"""`taskflow up`: Postgres and every service under one supervisor, until Ctrl-C.

Invariants: one supervisor at a time has a data folder; whatever it started ends with it, however it ends; a
Ctrl-C at any moment, also during the start, leaves nothing running, within bounded time; a second one is impatient.
The signal handlers only set flags, which every wait looks at.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taskflow_server.cluster import binaries as pg_binaries
from taskflow_server.cluster import home as pg_home
from taskflow_server.cluster.cluster import Cluster, fixed_ports, metrics_ports, names
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres, LockedError, PostgresError
from taskflow_server.cluster.others import RunsAlreadyError, refuse_others, suffix
from taskflow_server.cluster.ports import PortInUseError, require_free
from taskflow_server.cluster.prepare import DatabaseError, prepare
from taskflow_server.cluster.process import Interrupted, take_lock, wait_until
from taskflow_server.cluster.service import ServiceError
from taskflow_server.cluster.watch import Watch

OK, FAILED, USAGE, UNAVAILABLE = 0, 1, 2, 3
DATA_DIR = Path(".taskflow")


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the command line. `ports` 0: free ones, for tests and for a second cluster beside the first."""

    data_dir: Path = DATA_DIR
    database_url: str = ""
    port_base: int = 9001
    free_ports: bool = False
    app: str | None = None
    clock: str = "system"


class _Signals:
    """Flags that SIGINT, SIGTERM and SIGHUP set: `stopping` after the first, `hurry` after the second."""

    def __init__(self) -> None:
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._came)

    def _came(self, *_: object) -> None:
        self.count += 1

    def stopping(self) -> bool:
        return self.count > 0

    def hurry(self) -> bool:
        return self.count > 1


def run(options: Options, environ: Mapping[str, str] = os.environ) -> int:
    """The command. Returns its exit status: 0 after a stop, 1 when it is running already or something failed,
    2 for a wrong option or a port in use, 3 when the database cannot be reached. Errors are one line on stderr."""
    signals = _Signals()
    try:
        return _run(options, environ, signals)
    except Interrupted:
        _say("stopped")
        return OK
    except (PortInUseError, pg_home.HomeError) as error:
        return _fail(USAGE, str(error))
    except (PostgresError, pg_binaries.NoPostgresError, RunsAlreadyError) as error:
        return _fail(FAILED, str(error))
    except DatabaseError as error:
        return _fail(USAGE if error.usage else UNAVAILABLE if error.absent else FAILED, str(error))
    except ServiceError as error:
        return _fail(USAGE if error.status == USAGE else FAILED, str(error))


def _run(options: Options, environ: Mapping[str, str], signals: _Signals) -> int:
    data_dir = options.data_dir.resolve()
    state = data_dir / "up.json"
    try:
        (data_dir / "logs").mkdir(parents=True, exist_ok=True)
        lock = take_lock(data_dir / "up.lock")
    except BlockingIOError:
        return _fail(FAILED, _running_already(state, options.data_dir))
    except OSError as error:
        return _fail(USAGE, f"--data-dir {options.data_dir}: {error.strerror}")
    environ = {**environ, "TASKFLOW_CLOCK": options.clock} if options.clock != "system" else environ
    # Only where they were allowed: a job of `http.call` that waits for a worker with other rights would fail here.
    environ = {"TASKFLOW_BUILTINS": "", **environ}
    postgres = None if options.database_url else EmbeddedPostgres(data_dir, environ=environ)
    try:
        _write(state, {"pid": os.getpid()})
        if not options.free_ports:
            _check_ports(options.port_base, signals.stopping)
        dsn = postgres.start(signals.stopping) if postgres else options.database_url
        mended = prepare(dsn, signals.stopping).mended
        if mended is not None:
            _say(f"mended: {mended}")
        # Nobody else has a Postgres of ours, so there the names may be short.
        end = "1" if postgres else suffix(data_dir)
        if postgres is None:
            refuse_others(dsn, names(end), signals.stopping)
        ports = None if options.free_ports else fixed_ports(options.port_base)
        metrics = None if options.free_ports else metrics_ports(options.port_base)
        cluster = Cluster(
            dsn, data_dir, ports=ports, metrics=metrics or False, app=options.app, environ=environ, suffix=end
        )
        try:
            cluster.start(stopping=signals.stopping)
        except ServiceError:
            if postgres is None:  # another one that started at the same moment is the better reason
                refuse_others(dsn, names(end), signals.stopping)
            raise
        _write(state, {"pid": os.getpid(), "addresses": {name: s.address for name, s in cluster.services.items()}})
        _say(_table(cluster, postgres, data_dir))
        try:
            Watch(cluster, postgres, _say).until(signals.stopping)
            _say("stopping (Ctrl-C again: at once)")
        finally:
            cluster.stop(hurry=signals.hurry)
    except LockedError:
        return _fail(FAILED, _running_already(state, options.data_dir))
    finally:
        if postgres:
            postgres.stop()
        state.unlink(missing_ok=True)
        os.close(lock)
    _say("stopped")
    return OK


def _check_ports(base: int, stopping: Callable[[], bool]) -> None:
    """Before anything starts. Waits a moment: the services of a supervisor that was killed may be just going."""
    ports = fixed_ports(base)
    users = dict(ports) | {f"{name} (metrics)": port for name, port in metrics_ports(base).items()}

    def all_free() -> bool:
        try:
            require_free(users)
        except PortInUseError:
            return False
        return True

    if not wait_until(all_free, 1.0, stopping):
        require_free(users, cure="take other ports with --port-base N or --free-ports")


def _running_already(state: Path, data_dir: Path) -> str:
    """Who runs here. The state file may be missing for a moment while the other starts or stops."""
    try:
        other: dict[str, Any] = json.loads(state.read_text())
    except (OSError, ValueError):
        other = {}
    facts = [f"pid {other['pid']}"] if "pid" in other else []
    facts += [f"{name} {address}" for name, address in other.get("addresses", {}).items() if name == "scheduler"]
    return f"one is running already with {data_dir}" + (f" ({', '.join(facts)})" if facts else "")


def _table(cluster: Cluster, postgres: EmbeddedPostgres | None, data_dir: Path) -> str:
    services = reversed(cluster.services.items())
    rows = [(name, f"http://{service.address}" if service.http else service.address) for name, service in services]
    rows.append(("postgres", f"127.0.0.1:{postgres.port} ({postgres.version})" if postgres else "yours"))
    rows.append(("logs", str(data_dir / "logs")))
    lines = [f"  {name:<12} {where}" for name, where in rows]
    return "\n".join(["TaskFlow is up; Ctrl-C stops it, the data stay.", *lines])


def _write(state: Path, content: Mapping[str, Any]) -> None:
    draft = state.with_suffix(".new")
    draft.write_text(json.dumps(content))
    draft.replace(state)


def _say(text: str) -> None:
    print(text, flush=True)


def _fail(status: int, text: str) -> int:
    print(f"taskflow up: {text}", file=sys.stderr, flush=True)
    return status
