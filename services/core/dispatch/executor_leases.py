"""Attempts of executors: without a session, held by time-outs (protocol A6, rules R4 and R5).

What holds, beside what the table says:

- an executor's attempt runs from the durable answer to its Start on, never before: one that did not start in time goes
  back under another exec_id;
- a started one is its executor's until a time-out ends, which each word of the executor prolongs; a takeover gives it
  the whole of it anew, so that nobody's time runs out while nobody could be told.

Pure: times are arguments. `tests/unit/test_epoch_model.py` drives it beside workers with sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from taskflow_server.core.dispatch.records import Entry, ExecutorLease, Phase, WorkerRecord
from taskflow_server.core.dispatch.table import DispatchTable

_SEAT = b"without a session: "  # longer than any worker's id


class ExecutorLeases:
    def __init__(self, table: DispatchTable) -> None:
        self._table = table

    def request(
        self, executor: str, exec_ids: Iterable[bytes], lease_of: Callable[[Entry], ExecutorLease], now: float
    ) -> None:
        """The queue service gave these to an executor."""
        for exec_id in exec_ids:
            entry = self._table.by_exec.get(exec_id)
            if entry is not None and entry.phase is Phase.QUEUED:
                self._table.waiting.remove(entry)
                if entry.cancelling:
                    self._table.cancel_taken = True
                self._seat(entry, executor, now)
                entry.executor_lease = lease_of(entry)
                entry.executor_lease.until = now + entry.executor_lease.requested

    def restore(self, entry: Entry, executor: str, lease: ExecutorLease, began: float, now: float) -> None:
        """A row of `leases` of a started one, read at a takeover: it goes on under its exec_id."""
        self._table.by_job[entry.job_id] = self._table.by_exec[entry.exec_id] = entry
        self._seat(entry, executor, began)
        entry.leased = entry.started = True
        entry.executor_lease = lease
        self.word(entry, now)

    def start(self, entry: Entry, now: float) -> None:
        """It is about to be written that it runs."""
        entry.started, entry.taken_at = True, now
        self.word(entry, now)

    def not_started(self, entry: Entry, now: float) -> None:
        """That could not be written, as far as is known: its executor may try again."""
        if entry.executor_lease is not None and entry.phase is Phase.TAKEN:
            entry.started, entry.executor_lease.until = False, now + entry.executor_lease.requested

    def word(self, entry: Entry, now: float) -> None:
        """Its executor was heard of."""
        lease = entry.executor_lease
        if lease is not None:
            lease.until = min(now + lease.silence, entry.taken_at + lease.timeout)

    def prolong(self, gap: float) -> None:
        """Nobody could be heard for so long."""
        for entry in self._running():
            if entry.executor_lease is not None:
                entry.executor_lease.until += gap

    def overdue(self, now: float) -> list[Entry]:
        """Whose time-out is over."""
        return [
            e
            for e in self._running()
            if e.phase is Phase.TAKEN and e.executor_lease is not None and e.executor_lease.until <= now
        ]

    def _running(self) -> Iterator[Entry]:
        for seat in self._table.workers.values():
            if seat.sessionless:
                yield from seat.entries.values()

    def _seat(self, entry: Entry, executor: str, now: float) -> None:
        worker = _SEAT + executor.encode()
        seat = self._table.workers.get(worker)
        if seat is None:
            seat = self._table.workers[worker] = WorkerRecord(worker, math.inf, executor, sessionless=True)
        entry.phase, entry.worker, entry.taken_at = Phase.TAKEN, worker, now
        seat.entries[entry.exec_id] = entry
