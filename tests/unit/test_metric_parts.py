"""The histogram that is fed in batches, the bound on labels, the lines that are spared: all without a process."""

import logging
from collections import Counter

import structlog
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from taskflow_server.runtime import logs
from taskflow_server.runtime.histogram import BatchHistogram
from taskflow_server.runtime.metrics import OTHER_QUEUES, QueueLabels

BOUNDS = (0.002, 0.01, 1, 60)
# Bounds themselves, their neighbours, and far beyond: microseconds.
durations = st.one_of(
    st.integers(0, 10**9), st.sampled_from([int(bound * 1e6) + off for bound in BOUNDS for off in (-1, 0, 1)])
)


def shown(histogram: BatchHistogram | Histogram, registry: CollectorRegistry) -> dict[tuple[str, str, str], float]:
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (s.name, s.labels["queue"], s.labels.get("le", "")): round(s.value, 6)
        for s in family.samples
        if not s.name.endswith("_created")
    }


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.lists(durations, max_size=30)), max_size=5))
def test_a_batch_counts_as_its_values_one_by_one(batches: list[tuple[str, list[int]]]) -> None:
    one_by_one, batched = CollectorRegistry(), CollectorRegistry()
    theirs = Histogram("x_seconds", "x", ["queue"], buckets=BOUNDS, registry=one_by_one)
    ours = BatchHistogram("x_seconds", "x", "queue", BOUNDS, registry=batched)

    for queue, batch in batches:
        ours.observe(queue, batch)
        for duration in batch:
            theirs.labels(queue).observe(duration / 1e6)

    assert shown(ours, batched) == shown(theirs, one_by_one)


def test_a_duration_below_zero_counts_as_zero() -> None:
    registry = CollectorRegistry()
    histogram = BatchHistogram("x_seconds", "x", "queue", BOUNDS, registry=registry)

    histogram.observe("a", [-5_000_000, 1_000_000])

    assert shown(histogram, registry)["x_seconds_sum", "a", ""] == 1
    assert shown(histogram, registry)["x_seconds_bucket", "a", "0.002"] == 1


@given(st.integers(0, 5), st.lists(st.text("abc", min_size=1, max_size=2)))
def test_only_so_many_queues_have_a_label_of_their_own(most: int, queues: list[str]) -> None:
    label = QueueLabels(most)

    labels = [label(queue) for queue in queues]

    first = list(dict.fromkeys(queues))[:most]
    assert labels == [queue if queue in first else OTHER_QUEUES for queue in queues]


def test_a_flood_of_lines_is_cut_and_counted() -> None:
    lines, now = structlog.testing.LogCapture(), 100.0
    info = structlog.make_filtering_bound_logger(logging.INFO)
    sparing = logs.RateLimitedLog(structlog.wrap_logger(None, processors=[lines], wrapper_class=info), lambda: now)

    def happen(times: int, level: int = logging.WARNING) -> None:
        for _ in range(times):
            if sparing.wanted(level):
                sparing.say(level, "it failed")

    happen(1000)
    happen(5, logging.DEBUG)
    now += 1.0
    happen(2)

    assert len(lines.entries) == logs.RateLimitedLog.MOST + 2
    assert Counter(line.get("left_out") for line in lines.entries)[1000 - logs.RateLimitedLog.MOST] == 1
