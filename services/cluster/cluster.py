"""TaskFlow's services on this machine, as child processes on loopback. The database is the caller's."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from services.cluster.ports import free_ports
from services.cluster.process import Interrupted
from services.cluster.service import Service, environment, python

# In the order of starting; stopping is the reverse.
SERVICES = ("queue", "coordinator", "scheduler", "worker", "gateway")
PORT_BASE = 9001
_OFFSETS = {"coordinator": 0, "queue": 1, "scheduler": 2, "worker": 3, "gateway": -921}
_METRICS = {"gateway": 1100}
_METRICS_ELSE = 100
HTTP = frozenset({"gateway"})


def fixed_ports(base: int = PORT_BASE) -> dict[str, int]:
    """The ports of `taskflow up`: coordinator at `base`, then queue, scheduler, worker; gateway at 8080 for 9001."""
    return {name: base + offset for name, offset in _OFFSETS.items()}


def metrics_ports(ports: Mapping[str, int]) -> dict[str, int]:
    """The metrics' port of each service: a hundred above its own; the gateway's is 9180 for 8080."""
    return {name: port + _METRICS.get(name, _METRICS_ELSE) for name, port in ports.items()}


class Cluster:
    """The services by name. `ports` None: free ones. Logs go to `<directory>/logs/<name>.log`.

    A context manager, that stops everything at its end. Use from any thread, one at a time.
    """

    def __init__(
        self,
        dsn: str,
        directory: Path,
        *,
        services: Sequence[str] = SERVICES,
        ports: Mapping[str, int] | None = None,
        metrics: bool = False,
        app: str | None = None,
        environ: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
    ) -> None:
        ports = dict(ports or zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        logs = directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        env = environment(environ) | {
            "TASKFLOW_DATABASE_URL": dsn,
            "TASKFLOW_QUEUE_ADDRESS": f"127.0.0.1:{ports['queue']}",
            "TASKFLOW_SCHEDULER_ADDRESS": f"127.0.0.1:{ports['scheduler']}",
        }
        env.pop("TASKFLOW_ADVERTISE", None)  # it would name one address for all of them
        self.services: dict[str, Service] = {}
        for name in services:
            own = dict(env)
            if name in ("queue", "worker", "gateway"):
                del own["TASKFLOW_DATABASE_URL"]  # they never touch Postgres, so they need not know the password
            self.services[name] = Service(
                name=f"{name}-1",
                port=ports[name],
                http=name in HTTP,
                metrics_port=metrics_ports(ports)[name] if metrics else 0,
                log=logs / f"{name}.log",
                command=python(f"services.{name}", *([app] if app and name == "worker" else [])),
                cwd=cwd or Path.cwd(),
                env=own,
                grace=35.0 if name == "worker" else 10.0,  # the worker's own grace is 30 s
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    @property
    def scheduler_address(self) -> str:
        """What the SDK is given."""
        return self["scheduler"].address

    def start(self, timeout: float = 30.0, stopping: Callable[[], bool] = lambda: False) -> None:
        """Start all at once, and wait until each is healthy. Raises ServiceError or Interrupted, with all down."""
        try:
            for service in self.services.values():
                if stopping():
                    raise Interrupted
                service.start()
            for service in self.services.values():
                service.wait_healthy(timeout, stopping)
        except BaseException:
            self.stop(hurry=lambda: True)
            raise

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop all, in the order that loses no work's outcome: gateway, worker, scheduler, coordinator, queue."""
        for service in reversed(self.services.values()):
            service.stop(hurry=hurry)
