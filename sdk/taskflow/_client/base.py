"""The common part of both clients: what they are made of, the tasks that they register, their runs.

Neither face holds a stub. The async face awaits what the I/O thread does, the sync face blocks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from taskflow._handlers.task import Registry, make_handler
from taskflow._jobs.core import Core
from taskflow._messages.options import JobOptions, check_name, task_defaults
from taskflow._worker.declared_tasks import DeclaredOptions, declaration
from taskflow._worker.options import RunOptions
from taskflow._worker.run import Running
from taskflow.errors import InvalidArgument


class BaseClient:
    """The arguments of both clients.

    `scheduler`: host:port, by default TASKFLOW_ADDRESS or localhost:9003; the rest is discovered from it. `queue`:
    pins the queue service that workers poll. `timeout`: seconds for one call, by default TASKFLOW_TIMEOUT or 10;
    while the scheduler is away a call is repeated until then. Nothing is connected before the first use.
    TASKFLOW_KEEPALIVE_INTERVAL: seconds between pings on a connection, 10 by default; services refuse pings that come
    twice as often as theirs.
    """

    def __init__(self, scheduler: str | None = None, queue: str | None = None, *, timeout: float | None = None) -> None:
        self._core = Core(scheduler, queue, timeout)
        self._registry = Registry()
        self._running: list[Running] = []

    def stop(self) -> None:
        """Makes `run` drain and return, as SIGTERM does. From any thread; does nothing when nothing runs."""
        for running in list(self._running):
            running.stop()

    def _run_options(
        self,
        queue: str | None,
        handler: object,
        processes: int | None,
        queues: Iterable[str],
        options: RunOptions,
    ) -> RunOptions:
        if isinstance(queues, str):
            queues = [queues]
        if (queue is None) != (handler is None):
            missing = "handler" if handler is None else "queue"
            raise InvalidArgument(
                f"{missing}: give both, as in run('EmailQueue', handler=deliver), or neither, to run registered tasks",
                field=missing,
            )
        return options.bind(queue, handler, processes, tuple(queues), self._registry)

    def _register(
        self,
        kind: type[Any],
        target: Callable[..., Any],
        name: str | None,
        queue: str,
        processes: int | None,
        options: JobOptions,
        declared: DeclaredOptions,
    ) -> Any:
        title = check_name(name if name is not None else getattr(target, "__name__", ""), "name")
        defaults = task_defaults(title, queue, options)  # says at the decorator what would be wrong in every job
        handler = make_handler(title, target, processes, options)
        self._registry.add(handler, defaults, declaration(handler, queue, options, declared))
        return kind(self, handler, queue, options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._core.scheduler}>"
