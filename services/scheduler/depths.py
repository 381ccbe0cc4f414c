"""Depth and age of queues as metrics, sampled; never more series than queues have names of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from services.core.names import qualify
from services.runtime import metrics
from taskflow.v1.queues_pb2 import Queue

PAGE = 100  # queues a query
MOST = 1000  # queues that are looked at, by name: what waits in them is counted, 10,000 rows a queue
_GAUGES = (metrics.queue_ready, metrics.queue_oldest, metrics.queue_scheduled, metrics.queue_running)


class Depths:
    """`page(after, limit)` gives queues by name; those that it no longer gives leave the metrics."""

    def __init__(self, page: Callable[[str, int], Awaitable[Sequence[Queue]]], most_names: int) -> None:
        self._page = page
        self._label = metrics.QueueLabels(most_names)
        self._shown: set[str] = set()

    async def sample(self) -> None:
        """Measures; queues without a name of their own are added up, with the age of the oldest of them."""
        found: defaultdict[str, list[Queue]] = defaultdict(list)
        after = ""
        for _ in range(0, MOST, PAGE):
            queues = await self._page(after, PAGE)
            for queue in queues:
                after = qualify(queue.name, field="name", namespace=queue.namespace)
                found[self._label(after)].append(queue)
            if len(queues) < PAGE:
                break
        for name, part in found.items():
            metrics.queue_ready.labels(name).set(sum(q.ready for q in part))
            metrics.queue_oldest.labels(name).set(max(q.oldest.ToTimedelta().total_seconds() for q in part))
            metrics.queue_scheduled.labels(name).set(sum(q.scheduled for q in part))
            metrics.queue_running.labels(name).set(sum(q.running for q in part))
        for name in self._shown - found.keys():
            for gauge in _GAUGES:
                gauge.remove(name)
        self._shown = set(found)
