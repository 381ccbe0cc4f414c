"""Attempts of executors: without a session, held by time-outs (protocol A6, rules R4 and R5).

What holds, beside what the book says:

- an executor's attempt runs from the durable answer to its Start on, never before: one that did not start in time goes
  back under another exec_id;
- a started one is its executor's until a time-out ends, which each word of the executor prolongs; a takeover gives it
  the whole of it anew, so that nobody's time runs out while nobody could be told.

Pure: times are arguments. `tests/unit/test_epoch_model.py` drives it beside workers with sessions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from taskflow_server.core.book import Book, Entry, Phase, Seat

_SEAT = b"without a session: "  # longer than any worker's id


@dataclass(slots=True)
class Hold:
    """The time-outs of one attempt, in seconds, and when the present one ends."""

    requested: float  # to its start
    silence: float  # between two words of its executor
    timeout: float = math.inf  # of the attempt in all
    until: float = math.inf


class Holds:
    def __init__(self, book: Book) -> None:
        self._book = book

    def request(self, executor: str, exec_ids: Iterable[bytes], hold_of: Callable[[Entry], Hold], now: float) -> None:
        """The queue service gave these to an executor."""
        for exec_id in exec_ids:
            entry = self._book.by_exec.get(exec_id)
            if entry is not None and entry.phase is Phase.QUEUED:
                self._book.waiting.remove(entry)
                if entry.cancelling:
                    self._book.cancel_taken = True
                self._seat(entry, executor, now)
                entry.hold = hold_of(entry)
                entry.hold.until = now + entry.hold.requested

    def restore(self, entry: Entry, executor: str, hold: Hold, began: float, now: float) -> None:
        """A row of `leases` of a started one, read at a takeover: it goes on under its exec_id."""
        self._book.by_job[entry.job_id] = self._book.by_exec[entry.exec_id] = entry
        self._seat(entry, executor, began)
        entry.leased = entry.started = True
        entry.hold = hold
        self.word(entry, now)

    def start(self, entry: Entry, now: float) -> None:
        """It is about to be written that it runs."""
        entry.started, entry.taken_at = True, now
        self.word(entry, now)

    def not_started(self, entry: Entry, now: float) -> None:
        """That could not be written, as far as is known: its executor may try again."""
        if entry.hold is not None and entry.phase is Phase.TAKEN:
            entry.started, entry.hold.until = False, now + entry.hold.requested

    def word(self, entry: Entry, now: float) -> None:
        """Its executor was heard of."""
        hold = entry.hold
        if hold is not None:
            hold.until = min(now + hold.silence, entry.taken_at + hold.timeout)

    def prolong(self, gap: float) -> None:
        """Nobody could be heard for so long."""
        for entry in self._held():
            if entry.hold is not None:
                entry.hold.until += gap

    def overdue(self, now: float) -> list[Entry]:
        """Whose time-out is over."""
        return [e for e in self._held() if e.phase is Phase.TAKEN and e.hold is not None and e.hold.until <= now]

    def _held(self) -> Iterator[Entry]:
        for seat in self._book.seats.values():
            if seat.sessionless:
                yield from seat.entries.values()

    def _seat(self, entry: Entry, executor: str, now: float) -> None:
        worker = _SEAT + executor.encode()
        seat = self._book.seats.get(worker)
        if seat is None:
            seat = self._book.seats[worker] = Seat(worker, math.inf, executor, sessionless=True)
        entry.phase, entry.worker, entry.taken_at = Phase.TAKEN, worker, now
        seat.entries[entry.exec_id] = entry
