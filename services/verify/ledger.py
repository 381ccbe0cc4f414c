"""Compares the ledger of a schedule with its nominal instants. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from taskflow_server.core.timing import Timing

_TICK = timedelta(microseconds=1)
BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A row of `firings`: it stands for `count` instants, from `first` to `instant`."""

    instant: datetime
    first: datetime
    count: int
    state: str
    trigger: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Instants from `first` to `last` that the ledger lacks, has twice, or should not have."""

    what: str
    first: datetime
    last: datetime
    instants: int


class Reading:
    """The rows of one schedule, in the order of their instants, read in pages from `counted_from` to its cursor."""

    def __init__(self, timing: Timing, counted_from: datetime, cursor: datetime) -> None:
        self._timing = timing
        self._cursor = cursor
        self._decided = counted_from  # every instant up to here has its row
        self._last: datetime | None = None  # instant of the last row that the schedule made
        # Beyond `_decided`. A row for many goes on telling of instants in its midst that a backfill has fired, and
        # comes after them: so these rows alone show no gap.
        self._backfilled: list[datetime] = []

    def read(self, rows: Iterable[LedgerRow]) -> Iterator[Fault]:
        """The faults of the next rows."""
        for row in rows:
            if self._is_next(row):
                self._decided = self._last = row.instant
                continue
            nominal = self._timing.count(row.first, row.instant + _TICK)
            if nominal != row.count:
                yield Fault("not nominal", row.first, row.instant, row.count - nominal)
            if row.trigger == BACKFILL:
                self._backfilled.append(row.instant)
                continue
            yield from self._missing(row.first)
            if self._last is not None and row.first <= self._last:
                yield Fault("doubled", row.first, self._last, self._timing.count(row.first, self._last + _TICK))
            self._decided = max(self._decided, row.instant)
            self._last = row.instant
            self._backfilled.clear()

    def end(self) -> Iterator[Fault]:
        """The faults between the last row and the cursor."""
        yield from self._missing(self._cursor + _TICK)

    def _is_next(self, row: LedgerRow) -> bool:
        """Whether it is the one instant that follows: so are nearly all, and this costs a tenth of counting."""
        plain = row.count == 1 and row.first == row.instant and row.trigger != BACKFILL and not self._backfilled
        return plain and self._timing.next_after(self._decided) == row.instant

    def _missing(self, before: datetime) -> Iterator[Fault]:
        """Instants after the decided ones and before `before` that no backfill has fired."""
        begin = self._decided + _TICK
        if begin >= before:
            return
        by_hand = sum(begin <= instant < before for instant in self._backfilled)
        missing = self._timing.count(begin, before) - by_hand
        if missing > 0:
            first, last = next(self._timing.instants(begin, before)), self._timing.latest(1, begin, before)[0]
            yield Fault("missing", first, last, missing)
