"""One service as a child process at a fixed address: started, watched, stopped and started again."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taskflow_server.cluster.process import last_lines, rotate, spawn, stop, wait_until

HOST = "127.0.0.1"
CODE = Path(__file__).absolute().parents[2]  # the folder that holds `taskflow_server`, which may be a link
LOG_LIMIT = 10 * 1024 * 1024  # bytes of a log, above which it becomes `.log.1`


_STOPPING = re.compile(r"\bstopping\b")  # in the log of a service that stops on request
_SIGNALLED = "it was stopped by a signal"
_SILENT = "its log does not say why; os._exit(0) and exec in the code of an app end a process so"


class ServiceError(Exception):
    """A service did not come up. `status` is its exit status, None where it runs but does not answer."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Service:
    """A program that serves health on `port` of loopback once it is ready: gRPC's, or with `http` /healthz.

    `env` is all of its environment, but for the variables that say where it listens and what it is called.
    """

    name: str
    port: int
    log: Path
    command: Sequence[str]
    cwd: Path
    http: bool = False
    metrics_port: int = 0
    env: dict[str, str] = field(default_factory=dict)
    grace: float = 10.0  # seconds between SIGTERM and SIGKILL
    spawn: Callable[..., "subprocess.Popen[bytes]"] = spawn
    process: "subprocess.Popen[bytes] | None" = None
    log_start: int = 0  # where the log of the present process begins

    @property
    def address(self) -> str:
        """host:port, the same after every start."""
        return f"{HOST}:{self.port}"

    @property
    def health(self) -> str:
        """The argument of `is_serving`."""
        return f"http://{self.address}/healthz" if self.http else self.address

    @property
    def alive(self) -> bool:
        """Whether its process runs, or is stopped by SIGSTOP."""
        return self.process is not None and self.process.poll() is None

    @property
    def ending(self) -> str:
        """How the process ended, in words, with the last line that it wrote if it ended by itself."""
        status = self.process.returncode if self.process else None
        if status is None:
            return "was not started"
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        how = f"ended with exit status {status}"
        said = last_lines(self.log, self.log_start)
        if status == 0:  # no service ends so by itself
            was_told = any(_STOPPING.search(line) for line in said)
            return f"{how}: {_SIGNALLED if was_told else _SILENT}"
        return f"{how}: {said[-1]}" if said else how

    def start(self, extra_env: Mapping[str, str] | None = None) -> None:
        """Start the process; does not wait. `extra_env` holds for this time only."""
        if self.alive:
            raise RuntimeError(f"{self.name} runs already")
        self.rotate()
        self.log_start = self.log.stat().st_size if self.log.exists() else 0
        where = {
            "TASKFLOW_HOST": HOST,
            "TASKFLOW_PORT": str(self.port),
            "TASKFLOW_METRICS_PORT": str(self.metrics_port),
            "TASKFLOW_NAME": self.name,
        }
        env = {**self.env, **where, **(extra_env or {})}
        self.process = self.spawn(self.command, env=env, cwd=self.cwd, log=self.log)

    def rotate(self) -> None:
        """Move a log that has become too large out of the way, whether the program runs or not."""
        if rotate(self.log, LOG_LIMIT):
            self.log_start = 0

    def wait_healthy(self, timeout: float = 30.0, stopping: Callable[[], bool] = lambda: False) -> None:
        """Until its health answers SERVING. Raises ServiceError, process.Interrupted."""
        from taskflow_server.cluster.health import is_serving  # grpc takes its time to import

        if not wait_until(lambda: not self.alive or is_serving(self.health), timeout, stopping):
            raise ServiceError(f"{self.name} does not answer on {self.address} (its log: {self.log})", None)
        if not self.alive:
            raise ServiceError(f"{self.name} {self.ending}", self.process.returncode if self.process else None)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal; after SIGKILL, wait for the end."""
        if self.process is not None and self.alive:
            self.process.send_signal(number)
            if number == signal.SIGKILL:
                self.process.wait()

    def stop(self, grace: float | None = None, hurry: Callable[[], bool] = lambda: False) -> int | None:
        """SIGTERM, then SIGKILL after `grace` seconds or once `hurry()` holds. Returns the exit status."""
        if self.process is None:
            return None
        if self.alive:
            self.process.send_signal(signal.SIGCONT)  # a stopped process would not receive the next one
        patience = self.grace if grace is None else grace
        stop(self.process, ((signal.SIGTERM, patience),), hurry)
        return self.process.returncode


def python(*words: str) -> list[str]:
    """The command that runs one of our modules, whatever the current folder may hold under its name."""
    return [sys.executable, "-P", "-m", *words]


def environment(environ: Mapping[str, str] = os.environ, *folders: Path) -> dict[str, str]:
    """The environment that a service inherits, with our code and these folders on its path."""
    path = os.pathsep.join(filter(None, [str(CODE), *map(str, folders), environ.get("PYTHONPATH", "")]))
    return {**environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
