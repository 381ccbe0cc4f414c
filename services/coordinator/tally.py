"""What is counted of attempts: each start once, each end once, by queue and a batch at a time.

A start is counted when a heartbeat tells of it, or with the outcome of an attempt that was quicker. Instants are the
database's: an end as the worker's report dates it, a start so much earlier as the worker says that it ran, or, of what
still runs, when it was handed out. A job is made at its id's time. Nothing here is called once a job: 0.6 µs a job
in batches of 100 to 2,000, where the coordinator has some 25 for each.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from services.coordinator.state import State
from services.core.book import Entry
from services.core.ids import shard_and_epoch
from services.runtime import metrics
from taskflow._policy import Outcome

if TYPE_CHECKING:
    from services.coordinator.ledger import Ending

_NAMES = {int(outcome): outcome.name.lower() for outcome in Outcome}
_LOST, _CANCELLED = int(Outcome.LOST), int(Outcome.CANCELLED)
_FINAL = [name for name in _NAMES.values() if name not in ("snoozed", "returned")]


class Tally:
    def __init__(self, state: State) -> None:
        self._state = state
        self._labels = metrics.QueueLabels(state.settings.metrics_queues)
        self._begun: set[str] = set()

    def running(self, entries: Iterable[Entry]) -> None:
        """A heartbeat told what its worker has: what has started, and was handed out by ourselves, is counted."""
        fresh: defaultdict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            if entry.started and not entry.counted and self._ours(entry):
                entry.counted = True
                fresh[entry.key.queue].append(entry)
        if not fresh:
            return
        now_us, now = self._state.clock.now_us(), self._state.clock.monotonic()
        for queue, part in fresh.items():
            label = self._label(queue)
            metrics.attempts_started.labels(label).inc(len(part))
            made = _made([entry.job_id for entry in part])
            metrics.attempt_wait_seconds.observe(
                label,
                [
                    now_us - round((now - entry.taken_at) * 1e6) - (entry.due_us or made_us)
                    for entry, made_us in zip(part, made, strict=True)
                ],
            )

    def _label(self, queue: str) -> str:
        """A queue's counters begin at 0 with its first attempt: the first failure after it is an increase."""
        label = self._labels(queue)
        if label not in self._begun:
            self._begun.add(label)
            for outcome in _NAMES.values():
                metrics.attempts_finished.labels(label, outcome)
            for outcome in _FINAL:
                metrics.jobs_finished.labels(label, outcome)
        return label

    def _ours(self, entry: Entry) -> bool:
        """Not an attempt of a former owner: of such a one only its report tells when it started."""
        shard = self._state.book.shards.get(entry.shard)
        return shard is not None and shard_and_epoch(entry.exec_id)[1] == shard.epoch & 0xFFFFFFFF

    def ended(self, endings: Sequence[Ending]) -> None:
        """These are on disk."""
        queues: defaultdict[str, list[Ending]] = defaultdict(list)
        for ending in endings:
            queues[ending.entry.key.queue].append(ending)
        for queue, part in queues.items():
            label = self._label(queue)
            self._count(label, queue, part)
            self._measure(label, part)

    def _count(self, label: str, queue: str, part: Sequence[Ending]) -> None:
        """For the metrics, and what ended for the table of counts: all jobs of a queue are of one shard."""
        for outcome, count in Counter([e.row.outcome for e in part]).items():
            metrics.attempts_finished.labels(label, _NAMES[outcome]).inc(count)
        shard, minute = part[0].entry.shard, self._state.clock.now_us() // 60_000_000
        for outcome, count in Counter([e.row.outcome for e in part if e.row.final]).items():
            metrics.jobs_finished.labels(label, _NAMES[outcome]).inc(count)
            self._state.finished[queue, shard, minute, outcome] += count

    def _measure(self, label: str, part: Sequence[Ending]) -> None:
        made = _made([e.row.job_id for e in part])
        both = list(zip(part, made, strict=True))
        started = [(began, e.row, e.entry, at) for e, at in both if (began := e.row.started_at) is not None]
        waits = [began - (entry.due_us or at) for began, _, entry, at in started if not entry.counted]
        if waits:
            metrics.attempts_started.labels(label).inc(len(waits))
            metrics.attempt_wait_seconds.observe(label, waits)
        runs = [row.finished_at - began for began, row, _, _ in started if row.outcome != _LOST]
        metrics.attempt_run_seconds.observe(label, runs)
        whole = [
            e.row.finished_at - (e.entry.run_at_us or at)
            for e, at in both
            if e.row.final and e.row.outcome != _CANCELLED
        ]
        metrics.job_end_to_end_seconds.observe(label, whole)


def _made(job_ids: Sequence[bytes]) -> list[int]:
    """Microseconds since 1970 of UUIDv7s: their first 48 bits are milliseconds."""
    words = struct.unpack(f">{2 * len(job_ids)}Q", b"".join(job_ids))
    return [(word >> 16) * 1000 for word in words[::2]]
