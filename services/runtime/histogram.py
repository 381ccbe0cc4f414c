"""A histogram of durations that is fed a batch at a time.

Sorting a batch and looking the bounds up in it is C's work: 0.04 µs a value in batches of 100 to 2,000, where a call of
the Prometheus client's `observe` takes 0.6 µs. One thread feeds it, another scrapes it, and may see half of a batch.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import HistogramMetricFamily
from prometheus_client.registry import Collector

FEW = 8  # values up to which looking each up in the bounds is quicker: 0.3 µs for one, where all bounds take 1.6


class BatchHistogram(Collector):
    """`bounds` are seconds, in rising order; one label."""

    def __init__(
        self,
        name: str,
        documentation: str,
        label: str,
        bounds: Sequence[float],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.name, self.documentation, self.label = name, documentation, label
        self._shown = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._bounds = [round(bound * 1e6) for bound in bounds]
        self._held: dict[str, list[int]] = {}  # values of each bucket, the last one's, and the sum of all
        registry.register(self)

    def observe(self, value: str, microseconds: Iterable[int]) -> None:
        """Adds durations to the series of this label value; one below zero counts as zero: clocks differ."""
        batch = sorted(microseconds)
        if not batch:
            return
        if batch[0] < 0:
            batch = [max(0, duration) for duration in batch]
        held = self._held.get(value)
        if held is None:
            held = self._held[value] = [0] * (len(self._shown) + 1)
        if len(batch) <= FEW:
            for duration in batch:
                held[bisect_left(self._bounds, duration)] += 1
        else:
            before = 0
            for bucket, bound in enumerate(self._bounds):
                up_to = bisect_right(batch, bound, before)
                held[bucket] += up_to - before
                before = up_to
            held[-2] += len(batch) - before
        held[-1] += sum(batch)

    def describe(self) -> Iterable[HistogramMetricFamily]:
        return [HistogramMetricFamily(self.name, self.documentation, labels=[self.label])]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        (family,) = self.describe()
        for value, held in list(self._held.items()):
            *counts, total = list(held)
            buckets = list(zip(self._shown, accumulate(counts), strict=True))
            family.add_metric([value], buckets=buckets, sum_value=total / 1e6)
        return [family]
