"""Depth and age of queues as metrics, sampled; never more series than queues have names of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from taskflow.v1.queues_pb2 import Queue
from taskflow_server.core.names import qualify
from taskflow_server.runtime import metrics

PAGE = 100  # queues a query
MOST = 1000  # queues that are looked at, by name: what waits in them is counted
_GAUGES = (metrics.queue_ready, metrics.queue_oldest, metrics.queue_scheduled, metrics.queue_running)


class WaitingTask(NamedTuple):
    """A task of which jobs are ready; without a name, those of a queue that have no task."""

    queue: str
    task: str
    since_us: int  # from when on its oldest ready job could start, in microseconds since 1970
    age: float  # of that job, in seconds
    registered: bool  # a live worker is registered for it, or an attempt of it runs


Page = Callable[[str, int], Awaitable[Sequence[Queue]]]
Tasks = Callable[[Sequence[str], int], Awaitable[Sequence[WaitingTask]]]


class Depths:
    """`page(after, limit)` gives queues by name, and `tasks(queues, limit)` what waits longest in them; those that are
    no longer given leave the metrics."""

    def __init__(self, page: Page, tasks: Tasks, most_names: int, patience: float) -> None:
        """Tasks are shown that wait for longer than `patience` seconds."""
        self._page = page
        self._tasks = tasks
        self._most = most_names
        self._patience = patience
        self._since: dict[tuple[str, str], int] = {}  # of the tasks that waited at the last look
        self._tasks_shown: set[tuple[str, str, str]] = set()
        self._label = metrics.QueueLabels(most_names)
        self._shown: set[str] = set()

    async def sample(self) -> None:
        """Measures; queues without a name of their own are added up, with the age of the oldest of them."""
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
        """A task whose oldest job is another one than at the last look is served, too: by executors that poll."""
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
