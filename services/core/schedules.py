"""Decides the firings of a schedule (R17-R19): each nominal instant gets one firing in the ledger, with its reason.

Decisions are pure: the leader reads a schedule's state, decides, and writes the decision in one transaction. They are
bounded: a decision makes at most `limit` firings and leaves the rest to the next one. The cursor is the last nominal
instant that was decided. It moves back in one case only: when it is ahead of the clock, because the clock was ahead and
has been corrected. The rows of the ledger prevent instants that have fired from firing again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import islice

from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.timing import Timing

MISFIRE_AFTER = timedelta(seconds=60)  # a firing that is later than this was missed
MAX_CAUGHT_UP = 1000  # limit of missed instants of one schedule that `catch_up` fires
MAX_QUEUED = 1000  # limit of firings of one schedule that wait for an unfinished job
MAX_SKIPPED_ROWS = 100  # skipped instants of one decision with a row each; earlier ones share a row
QUEUE_CHECK = timedelta(seconds=1)  # interval of the checks whether a queued firing may start
MAX_BACKFILL = 1000  # limit of instants of one backfill
AHEAD = timedelta(seconds=5)  # a cursor less than this ahead of the clock is no sign of a step, and soon reached
_TICK = timedelta(microseconds=1)


class Misfire(StrEnum):
    """The policy for missed instants."""

    SKIP = "skip"
    FIRE_ONCE = "fire_once"  # the latest of them fires
    CATCH_UP = "catch_up"  # the latest 1,000 of them fire


class Overlap(StrEnum):
    """The policy for a firing while a job of the same schedule is unfinished."""

    SKIP = "skip"
    ALLOW = "allow"
    QUEUE = "queue"  # waits until none is
    REPLACE = "replace"  # cancels them


class FiringState(StrEnum):
    """The result for a nominal instant. Final, except for QUEUED."""

    FIRED = "fired"
    QUEUED = "queued"
    SKIPPED_MISFIRE = "skipped_misfire"
    SKIPPED_OVERLAP = "skipped_overlap"
    SKIPPED_OFF = "skipped_off"  # the schedule was inactive, or its times were changed


@dataclass(frozen=True, slots=True)
class Policy:
    """The defaults are R17's."""

    misfire: Misfire = Misfire.FIRE_ONCE
    overlap: Overlap = Overlap.SKIP
    misfire_after: timedelta = MISFIRE_AFTER
    ahead: timedelta = AHEAD

    @classmethod
    def of(cls, misfire: Misfire | None, overlap: Overlap | None, misfire_after: timedelta = MISFIRE_AFTER) -> Policy:
        """The user's policy with defaults. `catch_up` without an overlap policy gets QUEUE: with SKIP, the first missed
        firing would run and all others would be skipped.
        """
        misfire = misfire or Misfire.FIRE_ONCE
        overlap = overlap or (Overlap.QUEUE if misfire is Misfire.CATCH_UP else Overlap.SKIP)
        return cls(misfire, overlap, misfire_after)


@dataclass(frozen=True, slots=True)
class ScheduleState:
    """A schedule as stored. `unfinished`: its jobs that are not final, without those run by hand (R18); `queued`: its
    firings in state QUEUED. `known`: the first row of the ledger beyond the cursor, from its first to its last instant;
    only a clock that was ahead leaves one.
    """

    timing: Timing
    cursor: datetime
    active: bool = True
    unfinished: int = 0
    queued: int = 0
    oldest_queued: datetime | None = None
    known: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Firing:
    """A row of the ledger. If `count` is not 1, it stands for all nominal instants from `first` to `instant`."""

    instant: datetime
    state: FiringState
    reason: str
    first: datetime
    count: int = 1


@dataclass(frozen=True, slots=True)
class Firings:
    """A decision, written in one transaction: new rows, the result of the oldest queued one, jobs, cursor and times."""

    rows: tuple[Firing, ...]
    dequeued: Firing | None
    cancel_unfinished: bool
    cursor: datetime
    next_at: datetime | None  # the next nominal instant, which users see as next_run_at
    wake_at: datetime | None  # when to decide again; None: never by itself
    more: bool = False  # there is more to decide now
    taken_back: bool = False  # the cursor was ahead of the clock: skipped instants in the future are undone

    @property
    def fired(self) -> tuple[datetime, ...]:
        """The nominal instants of the jobs to make, oldest first."""
        rows = (self.dequeued, *self.rows) if self.dequeued else self.rows
        return tuple(row.instant for row in rows if row.state is FiringState.FIRED)


def due(state: ScheduleState, now: datetime, policy: Policy, limit: int = MAX_CAUGHT_UP) -> Firings:
    """Decides the nominal instants after the cursor, up to `now`, and the oldest queued firing: at most `limit`
    firings, not counting those skipped as missed. 20 µs for one firing in time.
    """
    if not state.active:
        return Firings((), None, False, state.cursor, None, None)
    if state.cursor > now + policy.ahead:
        next_at = state.timing.next_after(now)
        wake_at = _wake_at(now, next_at, queued=state.queued > 0)
        return Firings((), None, False, now, next_at, wake_at, taken_back=True)
    known = state.known if state.known is not None and state.known[0] <= now else None
    until = known[0] if known is not None else now + _TICK  # the instants before it are decided below
    skipped, wanted = _wanted(state, now, until, policy)
    head = state.oldest_queued if policy.overlap is not Overlap.QUEUE or not state.unfinished else None
    if head is not None:
        wanted.firings = _with_head(head, wanted.firings)
    decided = list(islice(_by_overlap(wanted, state, policy.overlap), limit + 1 + (head is not None)))
    dequeued = decided.pop(0) if head is not None else None
    cut = len(decided) > limit
    rows = (*skipped, *decided[:limit])
    cursor = rows[-1].instant if rows else state.cursor
    if known is not None and not cut:
        cursor = known[1]
    more = cut or known is not None
    queued = state.queued - (head is not None) + sum(row.state is FiringState.QUEUED for row in rows)
    fires = any(row.state is FiringState.FIRED for row in (dequeued, *rows) if row is not None)
    next_at = state.timing.next_after(cursor)
    return Firings(
        rows=rows,
        dequeued=dequeued,
        cancel_unfinished=policy.overlap is Overlap.REPLACE and state.unfinished > 0 and fires,
        cursor=cursor,
        next_at=next_at,
        wake_at=now if more else _wake_at(now, next_at, queued=queued > 0),
        more=more,
    )


def _wake_at(now: datetime, next_at: datetime | None, *, queued: bool) -> datetime | None:
    looks = [at for at in (next_at, now + QUEUE_CHECK if queued else None) if at is not None]
    return min(looks, default=None)


def count_from_now(
    state: ScheduleState, now: datetime, *, timing: Timing | None = None, active: bool = True
) -> Firings:
    """The decision when a schedule is activated again, or given another `timing`: nothing is caught up (R19).

    Instants of the old timing since the cursor get one row. Queued firings stay queued.
    """
    new = state.timing if timing is None else timing
    reason = "the schedule's times were changed" if state.active else "the schedule was inactive"
    rows: list[Firing] = []
    if state.cursor <= now:
        passed = state.cursor + _TICK, now + _TICK
        rows = _skipped(state.timing, *passed, state.timing.count(*passed), FiringState.SKIPPED_OFF, reason, singly=0)
    next_at = new.next_after(now) if active else None
    queued = now if active and state.queued else None
    ahead = state.cursor > now
    return Firings(tuple(rows), None, False, now, next_at, wake_at=queued or next_at, taken_back=ahead)


def remaining(timing: Timing, now: datetime, rows: Iterable[Firing]) -> list[Firing]:
    """The part up to `now` of the rows that were written while the clock was ahead and are taken back."""
    kept = []
    for row in rows:
        before = timing.latest(1, row.first, now + _TICK) if row.first <= now else []
        if before:
            count = timing.count(row.first, now + _TICK)
            kept.append(Firing(before[0], row.state, row.reason, row.first, count))
    return kept


@dataclass(frozen=True, slots=True)
class Backfill:
    """The writes of a backfill: instants that fire now, and rows for instants that shared a row with them and stay
    skipped. `existing`: number of instants that have a job or wait for one.
    """

    fired: tuple[Firing, ...]
    kept: tuple[Firing, ...]
    existing: int


def backfill(timing: Timing, start: datetime, end: datetime, ledger: Iterable[Firing]) -> Backfill:
    """Makes a job for each nominal instant of [start, end) without one. `ledger`: the rows of that time, in any order.

    InvalidArgument when there are more than `MAX_BACKFILL` instants.
    """
    count = timing.count(start, end)
    if count > MAX_BACKFILL:
        said = f"end_time: {count:,} instants exceed the limit of {MAX_BACKFILL:,} for a call; split it"
        raise InvalidArgument(said, "end_time", "TOO_MANY")
    there = {row.instant: row for row in ledger}
    fired, kept, existing = [], [], 0
    for instant in timing.instants(start, end):
        row = there.get(instant)
        if row is not None and row.state in (FiringState.FIRED, FiringState.QUEUED):
            existing += 1
            continue
        fired.append(Firing(instant, FiringState.FIRED, "requested by hand", instant))
        if row is not None and row.first < start and (before := timing.latest(1, row.first, start)):
            kept.append(Firing(before[0], row.state, row.reason, row.first, timing.count(row.first, start)))
    return Backfill(tuple(fired), tuple(kept), existing)


@dataclass(slots=True)
class _Wanted:
    """Nominal instants that fire unless an unfinished job prevents it, oldest first, each with its reason. They are as
    many as a schedule has missed, so they are iterated and never all in memory.
    """

    firings: Iterator[tuple[datetime, str]]
    last: datetime | None  # the latest of them; known only for REPLACE


def _wanted(state: ScheduleState, now: datetime, until: datetime, policy: Policy) -> tuple[list[Firing], _Wanted]:
    """The instants after the cursor and before `until`: the rows of those skipped as missed, and those to fire."""
    timing, first = state.timing, state.cursor + _TICK
    before = min(now - policy.misfire_after, until)
    next_at = timing.next_after(state.cursor)
    skipped: list[Firing] = []
    why = ""
    if next_at is not None and next_at < before:
        skipped, first, why = _missed(timing, first, before, policy)
    if next_at is None or first >= until:
        return skipped, _Wanted(iter(()), None)
    firings = ((at, why if at < before else "in time") for at in timing.instants(first, until))
    latest = timing.latest(1, first, until) if policy.overlap is Overlap.REPLACE else []
    return skipped, _Wanted(firings, latest[0] if latest else None)


def _with_head(head: datetime, firings: Iterator[tuple[datetime, str]]) -> Iterator[tuple[datetime, str]]:
    yield head, "waited for the job before it"
    yield from firings


def _missed(timing: Timing, after: datetime, before: datetime, policy: Policy) -> tuple[list[Firing], datetime, str]:
    """For the missed instants from `after` until before `before`: the rows of the skipped ones, the instant from which
    the others fire, and the reason.
    """
    total = timing.count(after, before)
    keep = {Misfire.SKIP: 0, Misfire.FIRE_ONCE: 1, Misfire.CATCH_UP: MAX_CAUGHT_UP}[policy.misfire]
    kept = min(keep, total)
    first = before if not kept else after if kept == total else timing.start_of_latest(kept, after, before)
    reason = f"more than {policy.misfire_after.total_seconds():g} s late"
    if kept:
        reason += ", and not the latest" if kept == 1 else f", and not among the latest {kept}"
    rows = _skipped(timing, after, first, total - kept, FiringState.SKIPPED_MISFIRE, reason, singly=MAX_SKIPPED_ROWS)
    why = f"the latest of {total} missed" if policy.misfire is Misfire.FIRE_ONCE else "missed, and caught up"
    return rows, first, why


def _skipped(
    timing: Timing, start: datetime, end: datetime, count: int, state: FiringState, reason: str, *, singly: int
) -> list[Firing]:
    """Rows for the `count` instants of [start, end): one for each of the last `singly`, and one for all before them."""
    alone = timing.latest(min(singly, count), start, end)
    rows = [Firing(instant, state, reason, instant) for instant in alone]
    if len(alone) < count:
        end = alone[0] if alone else end
        last, first = timing.latest(1, start, end)[0], next(timing.instants(start, end))
        rows.insert(0, Firing(last, state, reason, first, count - len(alone)))
    return rows


def _by_overlap(wanted: _Wanted, state: ScheduleState, overlap: Overlap) -> Iterator[Firing]:
    """The result for each instant: a firing of this decision also counts as unfinished for the next one."""
    unfinished, queued = state.unfinished, state.queued
    for instant, reason in wanted.firings:
        fate = FiringState.FIRED
        if overlap is Overlap.REPLACE and wanted.last is not None and instant != wanted.last:
            fate, reason = FiringState.SKIPPED_OVERLAP, f"replaced by {wanted.last.isoformat()}"
        elif overlap is Overlap.SKIP and unfinished:
            fate, reason = FiringState.SKIPPED_OVERLAP, "a job of the schedule is unfinished"
        elif overlap is Overlap.QUEUE and unfinished:
            full = queued >= MAX_QUEUED
            fate = FiringState.SKIPPED_OVERLAP if full else FiringState.QUEUED
            reason = f"{MAX_QUEUED} firings are already queued" if full else "a job of the schedule is unfinished"
        unfinished += fate is FiringState.FIRED
        queued += fate is FiringState.QUEUED
        yield Firing(instant, fate, reason, instant)
