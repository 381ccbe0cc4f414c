"""The handlers of the apps on a cluster in memory."""

from __future__ import annotations

from collections.abc import Sequence

from taskflow._client.async_client import AsyncTaskFlow
from taskflow._client.client import TaskFlow
from taskflow._handlers.task import Handler
from taskflow.testing._jobs import MemoryJob
from taskflow.v1 import worker_pb2


class AppHandlers:
    """Those of their tasks, as they are registered at the time, and those that whole queues were given."""

    def __init__(self, apps: Sequence[TaskFlow | AsyncTaskFlow]) -> None:
        self._apps = apps
        self.of_queue: dict[str, Handler] = {}

    def of(self, job: MemoryJob) -> Handler | None:
        if not job.task:
            return self.of_queue.get(job.queue)
        for app in self._apps:
            if (handler := app._registry.tasks.get(job.task)) is not None:
                return handler
        return None

    def defaults_of(self, task: str) -> worker_pb2.TaskDefaults | None:
        return next((said for app in self._apps if (said := app._registry.defaults.get(task)) is not None), None)

    def tasks(self) -> list[str]:
        return sorted({name for app in self._apps for name in app._registry.tasks})
