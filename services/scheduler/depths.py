"""Depth and age of queues as metrics, sampled; never more series than MOST queues have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from services.runtime import metrics
from taskflow.v1.queues_pb2 import Queue

MOST = 200
_GAUGES = (metrics.queue_ready, metrics.queue_oldest, metrics.queue_scheduled, metrics.queue_running)


class Depths:
    """`read(limit)` gives queues by name; those that it no longer gives leave the metrics."""

    def __init__(self, read: Callable[[int], Awaitable[Sequence[Queue]]]) -> None:
        self._read = read
        self._shown: set[str] = set()

    async def sample(self) -> None:
        now = set()
        for queue in await self._read(MOST):
            name = queue.name if queue.namespace == "default" else f"{queue.namespace}/{queue.name}"
            now.add(name)
            metrics.queue_ready.labels(name).set(queue.ready)
            metrics.queue_oldest.labels(name).set(queue.oldest.ToTimedelta().total_seconds())
            metrics.queue_scheduled.labels(name).set(queue.scheduled)
            metrics.queue_running.labels(name).set(queue.running)
        for name in self._shown - now:
            for gauge in _GAUGES:
                gauge.remove(name)
        self._shown = now
