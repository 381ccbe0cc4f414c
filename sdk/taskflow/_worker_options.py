"""What `run` was asked to do, checked."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field, replace

from taskflow._options import check_name, seconds
from taskflow._tasks import Handler, Registry, make_handler
from taskflow.errors import InvalidArgument
from taskflow.v1 import tasks_pb2

DEFAULT_CONCURRENCY = 20
DEFAULT_GRACE = 30.0
_MAX_CONCURRENCY = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Of one `run`. Times in seconds."""

    concurrency: int = DEFAULT_CONCURRENCY
    grace: float = DEFAULT_GRACE
    cancel_grace: float = 10.0
    name: str | None = None
    strict: bool = False
    signals: bool = True
    queues: list[str] = field(default_factory=list)
    tasks: dict[str, Handler] = field(default_factory=dict)
    queue_handlers: dict[str, Handler] = field(default_factory=dict)
    declared: list[tasks_pb2.Task] = field(default_factory=list)

    def bind(
        self, queue: str | None, handler: object, processes: int | None, queues: tuple[str, ...], registry: Registry
    ) -> RunOptions:
        """These with the handlers to run. InvalidArgument names what is wrong."""
        if isinstance(self.concurrency, bool) or not isinstance(self.concurrency, int) or (
            not 1 <= self.concurrency <= _MAX_CONCURRENCY
        ):
            raise InvalidArgument(
                f"concurrency: {self.concurrency!r} is not a whole number from 1 to {_MAX_CONCURRENCY:,}",
                field="concurrency",
            )
        seconds(self.grace, "grace", zero=True)
        seconds(self.cancel_grace, "cancel_grace", zero=True)
        only = [check_name(name, "queues") for name in queues]
        name = self.name or os.environ.get("TASKFLOW_WORKER_NAME") or f"{socket.gethostname()}-{os.getpid()}"
        if queue is not None:
            queue = check_name(queue, "queue")
            handlers = {queue: make_handler(queue, handler, processes)}
            return replace(self, name=name, queues=only, queue_handlers=handlers)
        if not registry.tasks:
            raise InvalidArgument(
                "handler: there is nothing to run; register tasks with @tf.task, or give queue and handler",
                field="handler",
            )
        declared = [task for task in registry.declared.values() if not only or task.queue in only]
        return replace(self, name=name, queues=only, tasks=dict(registry.tasks), declared=declared)

    @property
    def handlers(self) -> list[Handler]:
        return [*self.tasks.values(), *self.queue_handlers.values()]
