"""What a schedule does now (R17-R19): each nominal instant gets one firing in the ledger, with a state and a reason.

Decisions are pure: the leader reads a schedule's state, decides, and writes what was decided in one transaction. They
are bounded: a schedule of every second that nobody looked at for years costs 1,000 jobs and 1,100 rows at most, and a
few milliseconds. The cursor is the last nominal instant that was decided; it only moves forward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from services.core.errors import InvalidArgument
from services.core.timing import Timing

MISFIRE_AFTER = timedelta(seconds=60)  # a firing that is later than this was missed
MAX_AT_ONCE = 1000  # firings in time, and missed ones caught up, of one decision
MAX_QUEUED = 1000  # firings of one schedule that wait for the job before them
MAX_SKIPPED_ROWS = 100  # skipped in one decision and told one by one; those before them share a row
QUEUE_CHECK = timedelta(seconds=1)  # how often to look whether a queued firing may start
MAX_BACKFILL = 1000  # instants of one backfill
_TICK = timedelta(microseconds=1)


class Misfire(StrEnum):
    """What becomes of instants that were missed."""

    SKIP = "skip"
    FIRE_ONCE = "fire_once"  # the latest of them fires
    CATCH_UP = "catch_up"  # the latest 1,000 of them fire


class Overlap(StrEnum):
    """What a firing does while a job of the same schedule is unfinished."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"  # waits until none is
    REPLACE = "replace"  # cancels them


class FiringState(StrEnum):
    """What became of a nominal instant. Final, except for QUEUED."""

    FIRED = "fired"
    QUEUED = "queued"
    SKIPPED_MISFIRE = "skipped_misfire"
    SKIPPED_OVERLAP = "skipped_overlap"
    SKIPPED_OFF = "skipped_off"  # the schedule was inactive, or was given other times


@dataclass(frozen=True, slots=True)
class Policy:
    """The defaults are R17's."""

    misfire: Misfire = Misfire.FIRE_ONCE
    overlap: Overlap = Overlap.SKIP
    misfire_after: timedelta = MISFIRE_AFTER

    @classmethod
    def of(cls, misfire: Misfire | None, overlap: Overlap | None, misfire_after: timedelta = MISFIRE_AFTER) -> Policy:
        """What a user gave, completed. Who catches up without a word on overlap gets a queue: by skipping, the first
        of the missed firings would run and keep all others out.
        """
        misfire = misfire or Misfire.FIRE_ONCE
        overlap = overlap or (Overlap.QUEUE if misfire is Misfire.CATCH_UP else Overlap.SKIP)
        return cls(misfire, overlap, misfire_after)


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """A schedule as it stands in the database. `unfinished`: its jobs that are not final, those run by hand left out
    (R18); `queued`: its firings in state QUEUED.
    """

    timing: Timing
    cursor: datetime
    active: bool = True
    unfinished: int = 0
    queued: int = 0
    oldest_queued: datetime | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """A row of the ledger. Where `count` is not 1 it stands for all nominal instants from `first` to `instant`."""

    instant: datetime
    state: FiringState
    reason: str
    first: datetime
    count: int = 1


@dataclass(frozen=True, slots=True)
class Firings:
    """A decision, to be written as one: new rows, what becomes of the oldest queued one, jobs, cursor and times."""

    rows: tuple[Firing, ...]
    dequeued: Firing | None
    cancel_unfinished: bool
    cursor: datetime
    next_at: datetime | None  # the next nominal instant, which users see as next_run_at
    wake_at: datetime | None  # when to decide again; None: never by itself

    @property
    def fired(self) -> tuple[datetime, ...]:
        """The nominal instants of the jobs to make, oldest first."""
        rows = (self.dequeued, *self.rows) if self.dequeued else self.rows
        return tuple(row.instant for row in rows if row.state is FiringState.FIRED)


def due(state: ScheduleState, now: datetime, policy: Policy) -> Firings:
    """What becomes of the nominal instants after the cursor, up to `now`, and of the oldest queued firing. 15 µs for
    one firing in time.
    """
    if not state.active:
        return Firings((), None, False, state.cursor, None, None)
    missed_before = now - policy.misfire_after
    next_at = state.timing.next_after(state.cursor)
    skipped: list[Firing] = []
    wanted: list[_Wanted] = []
    if next_at is not None and next_at < missed_before:
        skipped, wanted = _missed(state, missed_before, policy)
        next_at = state.timing.next_after(missed_before - _TICK)
    for _ in range(MAX_AT_ONCE):
        if next_at is None or next_at > now:
            break
        wanted.append((next_at, "in time"))
        next_at = state.timing.next_after(next_at)

    head = state.oldest_queued if policy.overlap is not Overlap.QUEUE or not state.unfinished else None
    if head is not None:
        wanted.insert(0, (head, "waited for the job before it"))
    decided = list(_by_overlap(wanted, state, policy.overlap))
    dequeued = decided.pop(0) if head is not None else None
    rows = (*skipped, *decided)
    queued = state.queued - (head is not None) + sum(row.state is FiringState.QUEUED for row in decided)
    looks = [at for at in (next_at, now + QUEUE_CHECK if queued else None) if at is not None]
    return Firings(
        rows=rows,
        dequeued=dequeued,
        cancel_unfinished=policy.overlap is Overlap.REPLACE and state.unfinished > 0 and bool(wanted),
        cursor=rows[-1].instant if rows else state.cursor,
        next_at=next_at,
        wake_at=min(looks, default=None),
    )


def count_from_now(
    state: ScheduleState, now: datetime, *, timing: Timing | None = None, active: bool = True
) -> Firings:
    """The decision when a schedule is activated again, or given another `timing`: nothing is caught up (R19).

    What the old timing would have fired since the cursor gets one row. What is queued stays so.
    """
    new = state.timing if timing is None else timing
    passed = state.cursor + _TICK, now + _TICK
    reason = "the schedule was given other times" if state.active else "the schedule was inactive"
    rows = _skipped(state.timing, *passed, state.timing.count(*passed), FiringState.SKIPPED_OFF, reason, singly=0)
    cursor = max(state.cursor, now)
    next_at = new.next_after(cursor) if active else None
    queued = now if active and state.queued else None
    return Firings(tuple(rows), None, False, cursor, next_at, wake_at=queued or next_at)


@dataclass(frozen=True, slots=True)
class Backfill:
    """What a backfill writes: instants that fire now, and rows that go on telling of those that were skipped with one
    of them. `existing`: instants that have a job, or wait for one.
    """

    fired: tuple[Firing, ...]
    kept: tuple[Firing, ...]
    existing: int


def backfill(timing: Timing, start: datetime, end: datetime, ledger: Iterable[Firing]) -> Backfill:
    """A job for each nominal instant of [start, end) that has none. `ledger`: its rows of that span, in any order.

    InvalidArgument when there are more than `MAX_BACKFILL` instants.
    """
    count = timing.count(start, end)
    if count > MAX_BACKFILL:
        said = f"end_time: {count:,} instants; {MAX_BACKFILL:,} are the most of a call, so do it in parts"
        raise InvalidArgument(said, "end_time", "TOO_MANY")
    there = {row.instant: row for row in ledger}
    fired, kept, existing = [], [], 0
    for instant in timing.instants(start, end):
        row = there.get(instant)
        if row is not None and row.state in (FiringState.FIRED, FiringState.QUEUED):
            existing += 1
            continue
        fired.append(Firing(instant, FiringState.FIRED, "asked for by hand", instant))
        if row is not None and row.first < start and (before := timing.latest(1, row.first, start)):
            kept.append(Firing(before[0], row.state, row.reason, row.first, timing.count(row.first, start)))
    return Backfill(tuple(fired), tuple(kept), existing)


_Wanted = tuple[datetime, str]  # a nominal instant that fires unless another job is in its way, and why it would


def _missed(state: ScheduleState, before: datetime, policy: Policy) -> tuple[list[Firing], list[_Wanted]]:
    """Of the instants after the cursor and before `before`: what is skipped, and what is to fire nevertheless."""
    after = state.cursor + _TICK
    total = state.timing.count(after, before)
    keep = {Misfire.SKIP: 0, Misfire.FIRE_ONCE: 1, Misfire.CATCH_UP: MAX_AT_ONCE}[policy.misfire]
    kept = state.timing.latest(keep, after, before)
    reason = f"more than {policy.misfire_after.total_seconds():g} s late"
    if kept:
        reason += ", and not the latest" if len(kept) == 1 else f", and not among the latest {len(kept)}"
    rows = _skipped(
        state.timing,
        after,
        kept[0] if kept else before,
        total - len(kept),
        FiringState.SKIPPED_MISFIRE,
        reason,
        singly=MAX_SKIPPED_ROWS,
    )
    why = f"the latest of {total} missed" if policy.misfire is Misfire.FIRE_ONCE else "missed, and caught up"
    return rows, [(instant, why) for instant in kept]


def _skipped(
    timing: Timing, start: datetime, end: datetime, count: int, state: FiringState, reason: str, *, singly: int
) -> list[Firing]:
    """Rows for the `count` instants of [start, end): the last `singly` one by one, one row for all before them."""
    alone = timing.latest(min(singly, count), start, end)
    rows = [Firing(instant, state, reason, instant) for instant in alone]
    if len(alone) < count:
        end = alone[0] if alone else end
        last, first = timing.latest(1, start, end)[0], next(timing.instants(start, end))
        rows.insert(0, Firing(last, state, reason, first, count - len(alone)))
    return rows


def _by_overlap(wanted: list[_Wanted], state: ScheduleState, overlap: Overlap) -> Iterator[Firing]:
    """Each instant with what becomes of it: a firing of this decision is in the way of the next one too."""
    unfinished, queued = state.unfinished, state.queued
    for instant, reason in wanted:
        fate = FiringState.FIRED
        if overlap is Overlap.REPLACE and instant != wanted[-1][0]:
            fate, reason = FiringState.SKIPPED_OVERLAP, f"replaced by {wanted[-1][0].isoformat()}"
        elif overlap is Overlap.SKIP and unfinished:
            fate, reason = FiringState.SKIPPED_OVERLAP, "a job of the schedule is unfinished"
        elif overlap is Overlap.QUEUE and unfinished:
            full = queued >= MAX_QUEUED
            fate = FiringState.SKIPPED_OVERLAP if full else FiringState.QUEUED
            reason = f"{MAX_QUEUED} firings are queued already" if full else "a job of the schedule is unfinished"
        unfinished += fate is FiringState.FIRED
        queued += fate is FiringState.QUEUED
        yield Firing(instant, fate, reason, instant)
