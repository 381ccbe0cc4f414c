"""moto's AWS, as a process of its own, whose Batch runs containers as processes: no Docker is needed.

`python -m tests.support.batch_server PORT LAG`. A container's command is then real: its exit code, its end
by a signal, its environment. One gap of moto is filled as AWS has it: DescribeJobs gives the exit code. ListJobs shows
a job when it is LAG seconds old: AWS's may lag behind, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

from moto.batch.models import BatchBackend, Job
from moto.server import main
from moto.utilities.docker_utilities import DockerModel


class Container:
    """The part of a container that moto needs, over a process of this machine."""

    def __init__(self, command: list[str] | str, environment: dict[str, str]) -> None:
        words = ["sh", "-c", command] if isinstance(command, str) else command
        everything = {"PATH": os.environ["PATH"], **{name: str(value) for name, value in environment.items()}}
        self._process = subprocess.Popen(
            words, env=everything, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.attrs: dict[str, Any] = {}

    @property
    def status(self) -> str:
        return "running" if self._process.poll() is None else "exited"

    def reload(self) -> None:
        pass

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> dict[str, int]:
        code = self._process.wait()
        return {"StatusCode": code if code >= 0 else 128 - code}

    def logs(self, **_: Any) -> bytes:
        return b""

    def remove(self, **_: Any) -> None:
        self.kill()


class Containers:
    def run(self, command: list[str] | str = "true", environment: dict[str, str] | None = None, **_: Any) -> Container:
        return Container(command, environment or {})


class Docker:
    containers = Containers()


def complete(lag: timedelta) -> None:
    describe, listed = Job.describe, BatchBackend.list_jobs

    def described(job: Job) -> dict[str, Any]:
        found = describe(job)
        if job.exit_code is not None:
            found.setdefault("container", {})["exitCode"] = job.exit_code
        return found

    def seen(backend: BatchBackend, *which: Any, **more: Any) -> list[Job]:
        now = datetime.now()  # noqa: DTZ005  moto's own
        return [job for job in listed(backend, *which, **more) if now - job.job_created_at >= lag]

    BatchBackend.list_jobs = seen  # type: ignore[method-assign]
    Job.describe = described  # type: ignore[method-assign]
    DockerModel.docker_client = property(lambda self: Docker())  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    complete(timedelta(seconds=float(sys.argv[2])))
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
