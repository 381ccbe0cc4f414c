"""Samples the depth and age of queues as metrics; the number of series is bounded by the number of queue labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from taskflow.v1.queues_pb2 import Queue
from taskflow_server.core.names import qualify
from taskflow_server.runtime import metrics

PAGE = 100  # queues a query
MOST = 1000  # queues whose waiting jobs are counted, in order of names
_GAUGES = (metrics.queue_ready, metrics.queue_oldest, metrics.queue_scheduled, metrics.queue_running)


class WaitingTask(NamedTuple):
    """A task with ready jobs; the empty name stands for the jobs of a queue that have no task."""

    queue: str
    task: str
    since_us: int  # since when its oldest job has been ready, in microseconds since 1970
    age: float  # of that job, in seconds
    registered: bool  # a live worker is registered for it, or one of its attempts is running


Page = Callable[[str, int], Awaitable[Sequence[Queue]]]
Tasks = Callable[[Sequence[str], int], Awaitable[Sequence[WaitingTask]]]


class QueueDepthMetrics:
    """`page(after, limit)` returns queues by name, and `tasks(queues, limit)` the tasks that have waited longest in
    them. A queue or task that is no longer returned is removed from the metrics."""

    def __init__(self, page: Page, tasks: Tasks, most_names: int, patience: float) -> None:
        """Shows tasks that have waited for longer than `patience` seconds."""
        self._page = page
        self._tasks = tasks
        self._most = most_names
        self._patience = patience
        self._since: dict[tuple[str, str], int] = {}  # since_us of the tasks that waited at the last sample
        self._tasks_shown: set[tuple[str, str, str]] = set()
        self._label = metrics.QueueLabels(most_names)
        self._shown: set[str] = set()

    async def sample(self) -> None:
        """Sets the metrics; queues without a label of their own are summed, with the age of the oldest of them."""
        found: defaultdict[str, list[Queue]] = defaultdict(list)
        waiting: list[str] = []
        after = ""
        for _ in range(0, MOST, PAGE):
            queues = await self._page(after, PAGE)
            for queue in queues:
                after = qualify(queue.name, field="name", namespace=queue.namespace)
                found[self._label(after)].append(queue)
                if queue.ready:
                    waiting.append(after)
            if len(queues) < PAGE:
                break
        for name, part in found.items():
            metrics.queue_ready.labels(name).set(sum(q.ready for q in part))
            metrics.queue_oldest.labels(name).set(max(q.oldest.ToTimedelta().total_seconds() for q in part))
            metrics.queue_scheduled.labels(name).set(sum(q.scheduled for q in part))
            metrics.queue_running.labels(name).set(sum(q.running + q.requested for q in part))
        for name in self._shown - found.keys():
            for gauge in _GAUGES:
                gauge.remove(name)
        self._shown = set(found)
        await self._sample_tasks(waiting)

    async def _sample_tasks(self, queues: Sequence[str]) -> None:
        """A task whose oldest job has changed since the last sample is served as well: by executors that poll."""
        found = await self._tasks(queues, self._most) if queues and self._most else ()
        oldest: dict[tuple[str, str, str], float] = {}
        for task in found:
            if task.age < self._patience:
                continue
            served = task.registered or self._since.get((task.queue, task.task), task.since_us) != task.since_us
            labels = self._label(task.queue), task.task, "yes" if served else "no"
            oldest[labels] = max(task.age, oldest.get(labels, 0.0))
        for labels, age in oldest.items():
            metrics.task_oldest.labels(*labels).set(age)
        for labels in self._tasks_shown - oldest.keys():
            metrics.task_oldest.remove(*labels)
        self._tasks_shown = set(oldest)
        self._since = {(task.queue, task.task): task.since_us for task in found}
