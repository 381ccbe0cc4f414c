"""TaskFlow's services as real processes for the tests, to be killed, stopped and started again by name."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from taskflow_server.cluster import process as processes
from taskflow_server.cluster.cluster import Cluster
from taskflow_server.cluster.process import stop, wait_until
from taskflow_server.cluster.service import environment
from tests.support.forkserver import Forked, spawn

ROOT = Path(__file__).resolve().parents[2]
SPINE = ("queue", "coordinator", "scheduler")

living: "list[ServiceCluster]" = []  # those whose logs a failing test shows


class Program:
    """Any other process of a test, as an SDK worker in an app. Ends with the tests, if not before."""

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path = ROOT, *, forked: bool = True
    ) -> None:
        self.log = log
        start = spawn if forked else processes.spawn
        self.process: subprocess.Popen[bytes] | Forked = start(command, env=env, cwd=cwd, log=log)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    @property
    def output(self) -> str:
        """All that it wrote so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; does not wait."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """Its exit status. AssertionError when it has not ended within `timeout` seconds."""
        assert wait_until(lambda: not self.alive, timeout), f"still running after {timeout:g} s:\n{self.output[-2000:]}"
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        self.process.kill()
        self.process.wait()

    def stop(self, grace: float = 40.0) -> int:
        """SIGTERM, SIGKILL after `grace` seconds; its exit status."""
        stop(self.process, ((signal.SIGTERM, grace),))
        return self.process.returncode


class ServiceCluster:
    """The services against one database, on free ports that stay the same over restarts.

    `env` adds variables by service, as `{"coordinator": {"TASKFLOW_FAILPOINTS": "…"}}`. They are forked from a parent
    that has imported their modules, unless `forked` is off. `after` is called with `dsn` at the end.
    """

    def __init__(
        self,
        dsn: str,
        directory: Path,
        *,
        services: Sequence[str] = SPINE,
        app: str | None = None,
        env: Mapping[str, Mapping[str, str]] | None = None,
        metrics: bool = False,
        forked: bool = True,
        after: Callable[[str], None] = lambda dsn: None,
    ) -> None:
        self.dsn = dsn
        self._after = after
        self.directory = directory
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
        self._cluster = Cluster(
            dsn, directory, services=services, app=app, environ=self._environ, cwd=ROOT, metrics=metrics
        )
        for service in self._cluster.services.values():
            service.spawn = spawn if forked else processes.spawn
        for name, extra in (env or {}).items():
            self._cluster[name].env.update(extra)
        self._programs: dict[str, Program] = {}
        living.append(self)

    @property
    def scheduler_address(self) -> str:
        """The address for the SDK."""
        return self._cluster["scheduler"].address

    def address(self, name: str) -> str:
        """host:port of a service."""
        return self._cluster[name].address

    def metrics_port(self, name: str) -> int:
        """0 unless the cluster was made with `metrics`."""
        return self._cluster[name].metrics_port

    def start_all(self, timeout: float = 30.0) -> None:
        """Start every service and wait until all are healthy."""
        self._cluster.start(timeout)

    def start(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Start one; `env` holds for this time only. Does not wait."""
        self._cluster[name].start(env)

    def restart(self, name: str, env: Mapping[str, str] | None = None) -> None:
        """Stop it politely, start it, wait until it is healthy."""
        self.stop(name)
        self.start(name, env)
        self.wait_healthy(name)

    def wait_healthy(self, name: str, timeout: float = 30.0) -> None:
        """Until its health answers SERVING."""
        self._cluster[name].wait_healthy(timeout)

    def wait_dead(self, name: str, timeout: float = 30.0) -> None:
        """Until its process has ended, as by a failpoint."""
        assert wait_until(lambda: not self.alive(name), timeout), f"{name} still runs after {timeout:g} s"

    def stop(self, name: str, grace: float | None = None) -> int | None:
        """SIGTERM, SIGKILL after its grace; the exit status."""
        return self._cluster[name].stop(grace)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal: SIGKILL (then it is gone when this returns), SIGSTOP, SIGCONT, …"""
        self._cluster[name].kill(number)

    def alive(self, name: str) -> bool:
        """Whether its process runs."""
        return self._cluster[name].alive

    def pid(self, name: str) -> int:
        """Its process id."""
        process = self._cluster[name].process
        assert process is not None, f"{name} was never started"
        return process.pid

    def log(self, name: str) -> str:
        """All that it wrote, over all its starts."""
        log = self._cluster[name].log if name in self._cluster.services else self._programs[name].log
        return log.read_text(errors="replace") if log.exists() else ""

    def run(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> Program:
        """Start another program, as `("-m", "taskflow", "worker", "tests.x:app")` for our Python, under a new name.

        It finds the scheduler in TASKFLOW_SCHEDULER_ADDRESS, and ends with the cluster.
        """
        everything = (
            environment(self._environ) | {"TASKFLOW_SCHEDULER_ADDRESS": self.scheduler_address} | dict(env or {})
        )
        log = self.directory / "logs" / f"{name}.log"
        self._programs[name] = Program([sys.executable, *command], log, everything)
        return self._programs[name]

    def close(self) -> None:
        """Stop everything, programs first; then `after` looks at what they have left in the database."""
        for program in self._programs.values():
            program.stop(grace=5.0)
        self._cluster.stop()
        if self in living:
            living.remove(self)
            self._after(self.dsn)

    def logs(self, lines: int = 40) -> str:
        """The ends of all logs, for the report of a failed test."""
        names = [*self._cluster.services, *self._programs]
        ends = (f"--- {name}\n" + "\n".join(self.log(name).splitlines()[-lines:]) for name in names)
        return "\n".join(ends)
