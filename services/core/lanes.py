"""Reading a lane: every committed job exactly once, however late its transaction ends (protocol A2, A3, B3).

A lane is (queue, task, priority); its order is (tx, id). Invariants, for offers, reads and merges in any order:

- a job is dispatched from an offer or from a page, whichever comes first, and only once;
- an offer of a job that pages have covered is refused, and so is a repeated offer;
- every job up to the mark is finished, or in `deferred` or `leases`, except those of the transactions in `mark.late`;
- an idle lane may leave memory: read again from its written mark, as after a takeover, it returns the same jobs.

`tests/unit/test_lane_model.py` runs this class against an executable model with random commits, pages and takeovers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

LOW_ID = bytes(16)  # below every id


class LaneKey(NamedTuple):
    queue: str
    task: str
    priority: int


class Position(NamedTuple):
    tx: int
    id: bytes


class Snapshot(NamedTuple):
    """The `pg_current_snapshot()` of a page: transactions from `xmax` on had not begun."""

    xmax: int
    in_progress: frozenset[int]


class Mark(NamedTuple):
    position: Position
    late: frozenset[int]


START = Mark(Position(0, LOW_ID), frozenset())


@dataclass(frozen=True, slots=True)
class PageRequest:
    """The rows to read: up to `limit` beyond `position`, and all rows of the transactions in `late` that have ended."""

    position: Position
    late: frozenset[int]
    limit: int
    catch_to: int  # leave out older rows that are finished or elsewhere; 0: leave out none
    generation: int

    @property
    def catching_up(self) -> bool:
        return self.catch_to > 0


@dataclass(frozen=True, slots=True)
class Page:
    snapshot: Snapshot
    ahead: list[Position]  # in order, at most `limit`
    behind: list[Position]  # rows of late transactions that have ended
    full: bool  # there may be more rows ahead


@dataclass(slots=True)
class Lane:
    """One lane in its owner's memory. The caller bounds `room`; this class only keeps the positions."""

    key: LaneKey
    shard: int
    position: Position = START.position
    late: frozenset[int] = frozenset()
    catch_to: int = 0  # xmax of the takeover's snapshot: older rows may be final already
    news: bool = True  # there may be rows to read
    open: dict[bytes, int] = field(default_factory=dict)  # read or offered, unfinished: id -> tx
    open_late: dict[bytes, int] = field(default_factory=dict)  # the same, for transactions that were late
    offered: set[bytes] = field(default_factory=set)  # accepted from an offer, not yet returned by a page
    dropped: dict[bytes, int] = field(default_factory=dict)  # not to be dispatched when read: id -> generation
    reading: bool = False
    generation: int = 0
    passed: int = 0  # counts jobs that allow the mark to move; the position of an idle lane moves without it
    marked: int = 0  # `passed` as of the last written mark
    quiet_since: float | None = None  # by the owner's clock: since when it has been idle

    @classmethod
    def at(cls, key: LaneKey, shard: int, mark: Mark, catch_to: int) -> Lane:
        return cls(key, shard, mark.position, mark.late, catch_to)

    @property
    def catching_up(self) -> bool:
        return self.position.tx < self.catch_to or any(tx < self.catch_to for tx in self.late)

    def covered(self, tx: int, job_id: bytes) -> bool:
        return (tx, job_id) <= self.position and tx not in self.late

    def offer(self, tx: int, job_id: bytes) -> bool:
        """Accepts an offered job, or refuses it: covered by a page, known, older than a takeover that still reads, or
        behind jobs that are not read yet."""
        if self.news or self.reading:
            return False
        if job_id in self.offered or job_id in self.dropped or self.covered(tx, job_id):
            return False
        if tx < self.catch_to and self.catching_up:
            return False
        self.passed += 1
        self.offered.add(job_id)
        (self.open_late if tx in self.late else self.open)[job_id] = tx
        return True

    def request(self, limit: int) -> PageRequest:
        """Starts a page. Only one at a time."""
        self.reading = True
        self.news = False
        self.generation += 1
        return PageRequest(self.position, self.late, limit, self.catch_to if self.catching_up else 0, self.generation)

    def merge(self, request: PageRequest, page: Page) -> list[Position]:
        """Moves the position by a page; returns the rows to dispatch, in order."""
        self.reading = False
        in_progress = page.snapshot.in_progress
        old = request.position
        self.position = page.ahead[-1] if page.full else max(old, Position(page.snapshot.xmax, LOW_ID))
        limit = self.position.tx
        self.late = (request.late & in_progress) | {tx for tx in in_progress if tx <= limit}
        self.news = self.news or page.full
        fresh: list[Position] = []
        for rows, standing in ((page.behind, self.open_late), (page.ahead, self.open)):
            for row in rows:
                if row.id in self.offered:
                    self.offered.discard(row.id)
                elif self.dropped.pop(row.id, None) is None:
                    standing[row.id] = row.tx
                    fresh.append(row)
        if page.ahead or page.behind or self._caught_up(request):
            self.passed += 1
        if self.dropped:
            # A page that began after the drop does not have them: their end or their cancel was committed before.
            self.dropped = {i: g for i, g in self.dropped.items() if g >= request.generation}
        return fresh

    def _caught_up(self, request: PageRequest) -> bool:
        """Whether this page has passed all rows that a former owner may have finished."""
        passed_start = request.position.tx < self.catch_to <= self.position.tx
        return passed_start or (request.catching_up and not self.catching_up)

    def unread(self, rows: Iterable[Position], catch_to: int) -> None:
        """Returns rows at the end of the last merged page, for which there is no room: a later page reads them again.

        As after a takeover, the next pages leave out jobs that are finished or elsewhere by then. `catch_to` is at
        least the xmax of that page's snapshot.
        """
        first: Position | None = None
        for row in rows:
            if self.open_late.get(row.id) == row.tx:
                self.late |= {row.tx}
            elif first is None or row < first:
                first = row
        if first is not None:
            self.position = _before(first)
            self.late = frozenset(tx for tx in self.late if tx < first.tx)
        for ids in (self.open, self.open_late):
            for job_id, tx in list(ids.items()):
                # They are read once more; a worker that has one still has it then. Offered jobs have not been read yet.
                if not self.covered(tx, job_id) and job_id not in self.offered:
                    del ids[job_id]
        self.catch_to = max(self.catch_to, catch_to)
        self.news = True

    def abandon(self, request: PageRequest) -> None:
        """Drops a request whose page could not be read."""
        self.reading = False
        self.news = True

    @property
    def idle(self) -> bool:
        """Whether it may leave memory: all its jobs are elsewhere, and its written mark is up to date."""
        busy = self.reading or self.news or self.live or self.offered or self.dropped
        return not busy and self.passed == self.marked

    @property
    def live(self) -> bool:
        """Whether some of its jobs are only in memory, without a row elsewhere."""
        return bool(self.open or self.open_late)

    def holds(self, job_id: bytes) -> bool:
        """Whether a job is read or offered, and unfinished."""
        return job_id in self.open or job_id in self.open_late

    def close(self, job_ids: Iterable[bytes]) -> None:
        """Removes jobs that are finished, deferred or leased: they no longer hold the mark back."""
        for job_id in job_ids:
            if self.open.pop(job_id, None) is not None or self.open_late.pop(job_id, None) is not None:
                self.passed += 1

    def drop(self, job_id: bytes) -> None:
        """Records a job that ended before it was read: a page or an offer of it is ignored."""
        self.dropped[job_id] = self.generation
        self.passed += 1

    def mark(self) -> Mark:
        """The position up to which no unfinished job is only in this lane.

        An unfinished job of a transaction that was once late does not hold the mark back: the mark names its
        transaction as late, so that it is read whole.
        """
        late = self.late.union(self.open_late.values()) if self.open_late else self.late
        lowest = self.position
        floor = min(((tx, job_id) for job_id, tx in self.open.items()), default=None)
        if floor is not None and floor <= lowest:
            lowest = _before(Position(*floor))
        if lowest.tx in late:
            # A late transaction is wholly below the mark or wholly above: else its rows would be read twice.
            lowest = Position(lowest.tx, LOW_ID)
        return Mark(lowest, frozenset(tx for tx in late if tx < lowest.tx))


def _before(row: Position) -> Position:
    """The position just before `row`: ids are numbers, and no UUIDv7 is zero."""
    return Position(row.tx, (int.from_bytes(row.id, "big") - 1).to_bytes(16, "big"))
