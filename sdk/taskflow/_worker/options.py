"""Arguments of `run`, checked."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field, replace

from taskflow._handlers.task import Handler, Registry, make_handler
from taskflow._messages.options import check_name, seconds
from taskflow.errors import InvalidArgument
from taskflow.v1 import tasks_pb2, worker_pb2

DEFAULT_CONCURRENCY = 20
DEFAULT_GRACE = 30.0
DEFAULT_START_TIMEOUT = 60.0
DEFAULT_PREFETCH = 0.01
DEFAULT_STRICT_AFTER = 60.0
_MAX_CONCURRENCY = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of one `run`. Times in seconds."""

    concurrency: int = DEFAULT_CONCURRENCY
    grace: float = DEFAULT_GRACE
    cancel_grace: float = 10.0
    start_timeout: float = DEFAULT_START_TIMEOUT
    prefetch: float = DEFAULT_PREFETCH
    name: str | None = None
    strict: bool = False
    strict_after: float = DEFAULT_STRICT_AFTER
    signals: bool = True
    queues: list[str] = field(default_factory=list)
    tasks: dict[str, Handler] = field(default_factory=dict)
    queue_handlers: dict[str, Handler] = field(default_factory=dict)
    declared: list[tasks_pb2.UpdateTaskRequest] = field(default_factory=list)
    defaults: list[worker_pb2.TaskDefaults] = field(default_factory=list)

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
        seconds(self.start_timeout, "start_timeout")
        seconds(self.prefetch, "prefetch", zero=True)
        seconds(self.strict_after, "strict_after", zero=True)
        only = [check_name(name, "queues") for name in queues]
        name = self.name or os.environ.get("TASKFLOW_WORKER_NAME") or f"{socket.gethostname()}-{os.getpid()}"
        if queue is not None:
            queue = check_name(queue, "queue")
            made = make_handler(queue, handler, processes)
            made.binding.check_queue_handler()
            return replace(self, name=name, queues=only, queue_handlers={queue: made})
        if not registry.tasks:
            raise InvalidArgument(
                "handler: there is nothing to run; register tasks with @tf.task, or give queue and handler",
                field="handler",
            )
        declared = [said for said in registry.declared.values() if not only or said.changes.queue in only]
        defaults = list(registry.defaults.values())
        return replace(
            self, name=name, queues=only, tasks=dict(registry.tasks), declared=declared, defaults=defaults
        )

    @property
    def handlers(self) -> list[Handler]:
        return [*self.tasks.values(), *self.queue_handlers.values()]
