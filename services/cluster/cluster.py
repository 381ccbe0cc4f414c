"""TaskFlow's services on this machine, as child processes on loopback. The database is the caller's."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.process import Interrupted
from taskflow_server.cluster.service import Service, environment, python

# In the order of starting; stopping is the reverse.
SERVICES = ("queue", "coordinator", "scheduler", "worker", "gateway")
PORT_BASE = 9001
HTTP = frozenset({"gateway"})
_IN_ORDER = ("coordinator", "queue", "scheduler", "worker", "gateway")
_DEFAULT = {"coordinator": 9001, "queue": 9002, "scheduler": 9003, "worker": 9004, "gateway": 8080}
_DEFAULT_METRICS = {"coordinator": 9101, "queue": 9102, "scheduler": 9103, "worker": 9104, "gateway": 9180}


def fixed_ports(base: int = PORT_BASE) -> dict[str, int]:
    """The ports of `taskflow up`: coordinator at `base`, then queue, scheduler, worker and gateway; the gateway of the
    default base is at 8080."""
    return dict(_DEFAULT) if base == PORT_BASE else {name: base + n for n, name in enumerate(_IN_ORDER)}


def metrics_ports(base: int = PORT_BASE) -> dict[str, int]:
    """The metrics' ports of `taskflow up`: the next five of the ten ports from `base` on, so that bases in steps of ten
    share none; those of the default base are 9101 to 9104, and 9180."""
    return dict(_DEFAULT_METRICS) if base == PORT_BASE else {name: base + 5 + n for n, name in enumerate(_IN_ORDER)}


def _beside(ports: Mapping[str, int]) -> dict[str, int]:
    """The metrics' ports of services on ports of any kind."""
    return {name: port + (1100 if name in HTTP else 100) for name, port in ports.items()}


def names(suffix: str) -> list[str]:
    """The names of all services."""
    return [f"{name}-{suffix}" for name in SERVICES]


class Cluster:
    """The services by name. `ports` None: free ones. `metrics`: their ports; True for some beside the others. Logs
    go to `<directory>/logs/<name>.log`.

    `suffix` ends their names: on a database that others may use, no other cluster has the same.

    A context manager, that stops everything at its end. Use from any thread, one at a time.
    """

    def __init__(
        self,
        dsn: str,
        directory: Path,
        *,
        services: Sequence[str] = SERVICES,
        ports: Mapping[str, int] | None = None,
        metrics: bool | Mapping[str, int] = False,
        app: str | None = None,
        environ: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
        suffix: str = "1",
    ) -> None:
        ports = dict(ports or zip(SERVICES, free_ports(len(SERVICES)), strict=True))
        logs = directory / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        env = environment(environ) | {
            "TASKFLOW_DATABASE_URL": dsn,
            "TASKFLOW_QUEUE_NAME": f"queue-{suffix}",
            "TASKFLOW_QUEUE_ADDRESS": f"127.0.0.1:{ports['queue']}",
            "TASKFLOW_SCHEDULER_ADDRESS": f"127.0.0.1:{ports['scheduler']}",
            "TASKFLOW_ADDRESS": f"127.0.0.1:{ports['scheduler']}",  # for clients that handlers make
        }
        env.pop("TASKFLOW_ADVERTISE", None)  # it would name one address for all of them
        serving = metrics if isinstance(metrics, Mapping) else _beside(ports) if metrics else None
        self.services: dict[str, Service] = {}
        for name in services:
            own = dict(env)
            if name in ("queue", "worker", "gateway"):
                del own["TASKFLOW_DATABASE_URL"]  # they never touch Postgres, so they need not know the password
            self.services[name] = Service(
                name=f"{name}-{suffix}",
                port=ports[name],
                http=name in HTTP,
                metrics_port=serving[name] if serving else 0,
                log=logs / f"{name}.log",
                command=python("taskflow_server.cli", name, *([app] if app and name == "worker" else [])),
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
        """The address for the SDK."""
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
