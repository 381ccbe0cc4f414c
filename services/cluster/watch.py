"""Keeps what was started running: a child that dies is started again, later each time it dies soon."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from taskflow_server.cluster.cluster import Cluster
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres, PostgresError
from taskflow_server.cluster.ports import PortInUseError
from taskflow_server.cluster.process import rotate, wait_until
from taskflow_server.cluster.service import LOG_LIMIT

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 10.0
EVERY = 0.1  # seconds between looks
ROTATE_EVERY = 1.0  # seconds between looks at the sizes of the logs
STEADY = 30.0  # seconds after which a child's earlier deaths are forgotten


class _Startable(Protocol):
    @property
    def alive(self) -> bool: ...

    @property
    def ending(self) -> str: ...

    def start(self) -> None: ...

    def rotate(self) -> None: ...


class _Server:
    """The embedded Postgres as one of the children."""

    ending = "ended"

    def __init__(self, postgres: EmbeddedPostgres, stopping: Callable[[], bool]) -> None:
        self._postgres = postgres
        self._stopping = stopping

    @property
    def alive(self) -> bool:
        return self._postgres.pid is not None

    def start(self) -> None:
        self._postgres.start(self._stopping)

    def rotate(self) -> None:
        rotate(self._postgres.log, LOG_LIMIT)


@dataclass
class _Child:
    name: str
    program: _Startable
    pause: float = FIRST_PAUSE
    started: float = field(default_factory=time.monotonic)
    due: float | None = None  # when to start it again


class Watch:
    """Watches a running cluster, and its Postgres where we have one. `say` gets one line for each death."""

    def __init__(self, cluster: Cluster, postgres: EmbeddedPostgres | None, say: Callable[[str], None]) -> None:
        self._say = say
        self._stopping: Callable[[], bool] = lambda: False
        self._look_at_logs = 0.0
        self._children = [_Child(name, service) for name, service in cluster.services.items()]
        if postgres is not None:
            self._children.insert(0, _Child("postgres", _Server(postgres, lambda: self._stopping())))

    def until(self, stopping: Callable[[], bool]) -> None:
        """Watch until `stopping()` holds."""
        self._stopping = stopping

        def look() -> bool:
            for child in self._children:
                self._tend(child, time.monotonic())
            self._rotate(time.monotonic())
            return stopping()

        wait_until(look, float("inf"), every=EVERY)

    def _rotate(self, now: float) -> None:
        if now >= self._look_at_logs:
            self._look_at_logs = now + ROTATE_EVERY
            for child in self._children:
                child.program.rotate()

    def _tend(self, child: _Child, now: float) -> None:
        if child.program.alive:
            if now - child.started > STEADY:
                child.pause = FIRST_PAUSE
            return
        if child.due is None:
            self._say(f"{child.name} {child.program.ending}; starting it again in {child.pause:g} s")
            child.due = now + child.pause
        if now >= child.due:
            child.due = None
            child.pause = min(child.pause * 2, LONGEST_PAUSE)
            child.started = now
            try:
                child.program.start()
            except (PostgresError, PortInUseError, OSError) as error:
                self._say(f"{child.name} cannot be started: {error}")
