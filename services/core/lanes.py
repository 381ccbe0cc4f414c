"""Reading a lane: every committed job exactly once, however late its transaction ends (protocol A2, A3, B3).

A lane is (queue, task, priority); its order is (tx, id). What holds, whatever is offered, read or merged, in any order:

- a job is handed to dispatch once, from an offer or from a page, whichever comes first;
- an offer of something that pages have covered is refused, and so is anything once it has been offered;
- everything up to the mark is finished, or stands in `deferred` or `leases`, but for the transactions in `mark.late`;
- a lane that is idle may leave memory: read again from its written mark, as after a takeover, it brings the same jobs.

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
    """What `pg_current_snapshot()` told with a page: transactions from `xmax` on had not begun."""

    xmax: int
    in_progress: frozenset[int]


class Mark(NamedTuple):
    position: Position
    late: frozenset[int]


START = Mark(Position(0, LOW_ID), frozenset())


@dataclass(frozen=True, slots=True)
class PageRequest:
    """What to read: rows beyond `position`, up to `limit`, and all rows of those of `late` that have ended."""

    position: Position
    late: frozenset[int]
    limit: int
    catch_to: int  # older rows may be finished or elsewhere: those are passed over; 0: none are
    generation: int

    @property
    def catching_up(self) -> bool:
        return self.catch_to > 0


@dataclass(frozen=True, slots=True)
class Page:
    snapshot: Snapshot
    ahead: list[Position]  # in order, at most `limit`
    behind: list[Position]  # rows of late transactions that have ended
    full: bool  # there may be more ahead


@dataclass(slots=True)
class Lane:
    """One lane as its owner sees it. `room` is bounded by the caller; this class only keeps the places."""

    key: LaneKey
    shard: int
    position: Position = START.position
    late: frozenset[int] = frozenset()
    catch_to: int = 0  # xmax of the takeover's snapshot: older rows may be final already
    news: bool = True  # something may be there to read
    open: dict[bytes, int] = field(default_factory=dict)  # read or offered, unfinished: id -> tx
    open_late: dict[bytes, int] = field(default_factory=dict)  # the same, of transactions that were late
    offered: set[bytes] = field(default_factory=set)  # taken from an offer, not yet returned by a page
    dropped: dict[bytes, int] = field(default_factory=dict)  # must not be dispatched if read: id -> generation
    reading: bool = False
    generation: int = 0
    passed: int = 0  # grows whenever jobs pass, so that the mark may move; an idle lane's position moves without it
    marked: int = 0  # `passed` as of the last written mark
    quiet_since: float | None = None  # by the owner's clock: how long it has been idle

    @classmethod
    def at(cls, key: LaneKey, shard: int, mark: Mark, catch_to: int) -> Lane:
        return cls(key, shard, mark.position, mark.late, catch_to)

    @property
    def catching_up(self) -> bool:
        return self.position.tx < self.catch_to or any(tx < self.catch_to for tx in self.late)

    def covered(self, tx: int, job_id: bytes) -> bool:
        return (tx, job_id) <= self.position and tx not in self.late

    def offer(self, tx: int, job_id: bytes) -> bool:
        """Takes an offered job, or refuses it: covered, known, older than a takeover that still reads, or behind
        jobs that are not read yet."""
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
        """Begins a page. One at a time."""
        self.reading = True
        self.news = False
        self.generation += 1
        return PageRequest(self.position, self.late, limit, self.catch_to if self.catching_up else 0, self.generation)

    def merge(self, request: PageRequest, page: Page) -> list[Position]:
        """Moves on by a page; returns the rows that are to be dispatched, in order."""
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
            # A page that began after the drop does not bring them: their end, or their cancel, was committed before.
            self.dropped = {i: g for i, g in self.dropped.items() if g >= request.generation}
        return fresh

    def _caught_up(self, request: PageRequest) -> bool:
        """This page has passed what an older owner has finished, and what stands in the way of later takeovers."""
        passed_start = request.position.tx < self.catch_to <= self.position.tx
        return passed_start or (request.catching_up and not self.catching_up)

    def unread(self, rows: Iterable[Position], catch_to: int) -> None:
        """There is no room for these rows of the page that was merged last, its end: a later page is to bring them.

        As after a takeover, the next pages pass over what is finished or elsewhere by then. `catch_to` is at least the
        xmax of that page's snapshot.
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
                # They come once more, and whoever has one still has it then; what was offered has not come yet.
                if not self.covered(tx, job_id) and job_id not in self.offered:
                    del ids[job_id]
        self.catch_to = max(self.catch_to, catch_to)
        self.news = True

    def abandon(self, request: PageRequest) -> None:
        """The page could not be read."""
        self.reading = False
        self.news = True

    @property
    def idle(self) -> bool:
        """Nothing is lost if it leaves memory: all its jobs stand elsewhere, and its written mark says so."""
        busy = self.reading or self.news or self.live or self.offered or self.dropped
        return not busy and self.passed == self.marked

    @property
    def live(self) -> bool:
        """Some of its jobs are in memory, without a row that says where they are."""
        return bool(self.open or self.open_late)

    def holds(self, job_id: bytes) -> bool:
        """Read or offered, and unfinished."""
        return job_id in self.open or job_id in self.open_late

    def close(self, job_ids: Iterable[bytes]) -> None:
        """These are finished, deferred or leased: the mark need not wait for them."""
        for job_id in job_ids:
            if self.open.pop(job_id, None) is not None or self.open_late.pop(job_id, None) is not None:
                self.passed += 1

    def drop(self, job_id: bytes) -> None:
        """Ended without having been read: if a page or an offer still brings it, it is passed over."""
        self.dropped[job_id] = self.generation
        self.passed += 1

    def mark(self) -> Mark:
        """The point up to which nothing unfinished stands in this lane alone.

        An unfinished job of a transaction that was once late does not hold the mark back: its transaction is
        named as late instead, and will be read whole.
        """
        late = self.late.union(self.open_late.values()) if self.open_late else self.late
        lowest = self.position
        floor = min(((tx, job_id) for job_id, tx in self.open.items()), default=None)
        if floor is not None and floor <= lowest:
            lowest = _before(Position(*floor))
        if lowest.tx in late:
            # A late transaction stands wholly below the mark or wholly above: else its rows would be read twice.
            lowest = Position(lowest.tx, LOW_ID)
        return Mark(lowest, frozenset(tx for tx in late if tx < lowest.tx))


def _before(row: Position) -> Position:
    """The place just before it: ids are numbers, and no UUIDv7 is zero."""
    return Position(row.tx, (int.from_bytes(row.id, "big") - 1).to_bytes(16, "big"))
