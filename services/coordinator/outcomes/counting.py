"""Counts attempts: each start once, each end once, by queue and in batches.

A start is counted when a heartbeat reports it, or with the outcome of an attempt that ended before. Instants are the
database's: the end is that of the worker's report, the start is the end minus the reported run time, or, for a running
attempt, the time of its hand-out. A job was created at the time of its id. All calls are for batches: 0.5 µs a job in
batches of 100 to 2,000, of some 22 µs that the coordinator needs for each.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import compress

from taskflow._policy import Outcome
from taskflow_server.coordinator.outcomes.ending import Ending
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.ids import shard_and_epoch
from taskflow_server.runtime import metrics

_NAMES = {int(outcome): outcome.name.lower() for outcome in Outcome}
_LOST, _CANCELLED = int(Outcome.LOST), int(Outcome.CANCELLED)
_NEVER_FINAL = (Outcome.SNOOZED, Outcome.RETURNED)


class _Series:
    """The counters of a queue. All start at 0 with its first attempt, so that a first failure is an increase."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.started = metrics.attempts_started.labels(label)
        self.attempts = {o: metrics.attempts_finished.labels(label, name) for o, name in _NAMES.items()}
        final = [(o, name) for o, name in _NAMES.items() if o not in _NEVER_FINAL]
        self.jobs = {o: metrics.jobs_finished.labels(label, name) for o, name in final}


class AttemptMetrics:
    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._labels = metrics.QueueLabels(shared.settings.metrics_queues)
        self._series: dict[str, _Series] = {}

    def running(self, entries: Iterable[Entry]) -> None:
        """Counts the started attempts of a heartbeat that this owner has handed out."""
        fresh: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.started and not entry.counted and self._ours(entry):
                self._shared.table.count_start(entry)
                fresh[entry.key.queue].append(entry)
        if not fresh:
            return
        now_us, now = self._shared.clock.now_us(), self._shared.clock.monotonic()
        for queue, part in fresh.items():
            series = self._of(queue)
            series.started.inc(len(part))
            made = _made([entry.job_id for entry in part])
            metrics.attempt_wait_seconds.observe(
                series.label,
                [
                    now_us - round((now - entry.taken_at) * 1e6) - (entry.due_us or made_us)
                    for entry, made_us in zip(part, made, strict=True)
                ],
            )

    def _of(self, queue: str) -> _Series:
        label = self._labels(queue)
        series = self._series.get(label)
        if series is None:
            series = self._series[label] = _Series(label)
        return series

    def _ours(self, entry: Entry) -> bool:
        """Whether this owner has handed it out: only the report of a former owner's attempt has its start."""
        shard = self._shared.table.shards.get(entry.shard)
        return shard is not None and shard_and_epoch(entry.exec_id)[1] == shard.epoch & 0xFFFFFFFF

    def ended(self, endings: Sequence[Ending]) -> None:
        """Call after the commit of these endings."""
        queues: defaultdict[str, list[Ending]] = defaultdict(list)
        for ending in endings:
            queues[ending.entry.key.queue].append(ending)
        for queue, part in queues.items():
            self._count(queue, part)

    def _count(self, queue: str, part: Sequence[Ending]) -> None:
        """Counts for the metrics, and for the table of counts: all jobs of a queue have one shard."""
        series, entries = self._of(queue), [ending.entry for ending in part]
        ids, begins, ends, _, _, _, outcomes, finals, *_ = zip(*[ending.row for ending in part], strict=True)
        for outcome, count in Counter(outcomes).items():
            series.attempts[outcome].inc(count)
        minute = self._shared.clock.now_us() // 60_000_000
        for outcome, count in Counter(compress(outcomes, finals)).items():
            series.jobs[outcome].inc(count)
            self._shared.finished[queue, entries[0].shard, minute, outcome] += count
        made = _made(ids)
        waits = [
            begin - (entry.due_us or at)
            for begin, entry, at in zip(begins, entries, made, strict=True)
            if begin is not None and not entry.counted
        ]
        if waits:
            series.started.inc(len(waits))
            metrics.attempt_wait_seconds.observe(series.label, waits)
        metrics.attempt_run_seconds.observe(
            series.label,
            [
                end - begin
                for begin, end, outcome in zip(begins, ends, outcomes, strict=True)
                if begin is not None and outcome != _LOST
            ],
        )
        metrics.job_end_to_end_seconds.observe(
            series.label,
            [
                end - (entry.run_at_us or at)
                for end, entry, at, final, outcome in zip(ends, entries, made, finals, outcomes, strict=True)
                if final and outcome != _CANCELLED
            ],
        )


def _made(job_ids: Sequence[bytes]) -> list[int]:
    """Microseconds since 1970 of UUIDv7s: their first 48 bits are milliseconds."""
    words = struct.unpack(f">{2 * len(job_ids)}Q", b"".join(job_ids))
    return [(word >> 16) * 1000 for word in words[::2]]
