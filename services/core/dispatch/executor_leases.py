"""Attempts of executors, which have timeouts instead of a session (protocol A6, rules R4 and R5).

Invariants beside those of the table:

- an executor's attempt runs only after the durable answer to its Start: one that did not start in time is handed out
again under another exec_id;
- a started attempt belongs to its executor until a timeout passes, which each report extends; a takeover restarts the
timeout, so that no attempt expires while its executor could not report.

Pure: times are arguments. `tests/unit/test_epoch_model.py` drives it beside workers with sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from taskflow._policy import Outcome
from taskflow_server.core.dispatch.effects import Effects, End
from taskflow_server.core.dispatch.records import Entry, ExecutorLease, WorkerRecord
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.transitions import Event, Phase

_SESSIONLESS = b"without a session: "  # longer than any worker's id


class ExecutorLeases:
    def __init__(self, table: DispatchTable) -> None:
        self._table = table

    def request(
        self, executor: str, exec_ids: Iterable[bytes], lease_of: Callable[[Entry], ExecutorLease], now: float
    ) -> None:
        """Records attempts that the queue service gave to an executor."""
        for exec_id in exec_ids:
            entry = self._table.by_exec.get(exec_id)
            if entry is not None and entry.phase is Phase.QUEUED:
                self._table.move(entry, Event.TAKEN, Phase.TAKEN)
                self._table.waiting.remove(entry)
                if entry.cancelling:
                    self._table.cancel_taken = True
                self._assign(entry, executor, now)
                entry.executor_lease = lease_of(entry)
                entry.executor_lease.until = now + entry.executor_lease.requested

    def restore(self, entry: Entry, executor: str, lease: ExecutorLease, began: float, now: float) -> None:
        """Restores a started attempt from the lease row that a takeover read, under its exec_id."""
        self._table.move(entry, Event.RESTORED, Phase.TAKEN)
        self._table.by_job[entry.job_id] = self._table.by_exec[entry.exec_id] = entry
        self._assign(entry, executor, began)
        entry.leased = entry.started = True
        entry.executor_lease = lease
        self.keepalive(entry, now)

    def start(self, entry: Entry, now: float) -> None:
        """Call before its start is written."""
        entry.started, entry.taken_at = True, now
        self.keepalive(entry, now)

    def not_started(self, entry: Entry, now: float) -> None:
        """Its start could not be written, or this is unknown: its executor may retry."""
        if entry.executor_lease is not None and entry.phase is Phase.TAKEN:
            entry.started, entry.executor_lease.until = False, now + entry.executor_lease.requested

    def keepalive(self, entry: Entry, now: float) -> None:
        """Extends the timeout after a report of its executor."""
        lease = entry.executor_lease
        if lease is not None:
            lease.until = min(now + lease.silence, entry.taken_at + lease.timeout)

    def prolong(self, gap: float) -> None:
        """Extends every lease by `gap`, during which no executor could report."""
        for entry in self._running():
            if entry.executor_lease is not None:
                entry.executor_lease.until += gap

    def expire(self, now: float) -> Effects:
        """Ends the attempts whose timeout has passed: one that never started is returned, a silent one is lost, one
        that ran for too long has timed out."""
        taken = [entry for entry in self._running() if entry.phase is Phase.TAKEN]
        overdue = [
            (e, e.executor_lease) for e in taken if e.executor_lease is not None and e.executor_lease.until <= now
        ]
        effects = self._table.returned([entry for entry, _ in overdue if not entry.started])
        for entry, lease in overdue:
            if entry.phase is Phase.TAKEN and entry.started:
                too_long = now >= entry.taken_at + lease.timeout
                outcome, reason = (Outcome.TIMED_OUT, "timeout") if too_long else (Outcome.LOST, "in_progress_timeout")
                effects.ends.append(End(entry, outcome, reason))
        return effects

    def _running(self) -> Iterator[Entry]:
        for seat in self._table.workers.values():
            if seat.sessionless:
                yield from seat.entries.values()

    def _assign(self, entry: Entry, executor: str, now: float) -> None:
        worker = _SESSIONLESS + executor.encode()
        seat = self._table.workers.get(worker)
        if seat is None:
            seat = self._table.workers[worker] = WorkerRecord(worker, math.inf, executor, sessionless=True)
        entry.worker, entry.taken_at = worker, now
        seat.entries[entry.exec_id] = entry
