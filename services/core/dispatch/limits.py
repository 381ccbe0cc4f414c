"""Limits of concurrency by key: permits, the jobs that have one, and the jobs that wait (protocol B4, rules R17, R18).

The keys are named tasks (`task:` and the task's id), whose limit is their `concurrency`. Invariants of each limit:

- no job is fed to the queue service without a permit, and there are `most` permits; a job keeps its permit until its
  attempt's outcome is committed, so that every attempt that may run counts;
- while it is unknown, after a takeover, which jobs run, no job gets a permit (`open`);
- a job that waits for a permit takes no room in its lane: it is here, and beyond a depth only in Postgres.

A lowered limit takes no permit from a job that a worker has; jobs that still wait in the queue service yield theirs.
Pure: permits.py applies it to the table, and `tests/unit/test_limits_model.py` drives both with random events.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

from taskflow_server.core.dispatch.records import FIRST, Entry, Limit, order_of

MOST_ABSENT = 10_000  # remembered keys without a limit; a forgotten one is read again


class Limits:
    def __init__(self, wake: Callable[[], None], ask: Callable[[], None]) -> None:
        """`wake` is called when a permit may be given, or a job waits for one; `ask` when a job was submitted under an
        unknown limit, so that the limits must be read."""
        self._wake = wake
        self._ask = ask
        self._limits: dict[str, Limit] = {}
        self.changed: set[Limit] = set()  # limits to decide about
        self.unknown: set[str] = set()  # keys of limits to read; their jobs get no permit before
        self._absent: set[str] = set()  # keys that were read and have no limit
        self.open = False  # whether it is known which jobs run
        self.blocked = 0  # jobs in memory that wait for a permit

    # No `__len__`: an empty object would be false, and `limits or …` would replace it.
    def __iter__(self) -> Iterator[Limit]:
        return iter(self._limits.values())

    @property
    def count(self) -> int:
        return len(self._limits)

    @property
    def most(self) -> dict[str, int]:
        return {limit.key: limit.most for limit in self._limits.values()}

    def attach(self, entry: Entry) -> None:
        """Sets the limit of a job."""
        key = entry.limit_key
        entry.limit = self._limits.get(key)
        if entry.limit is None and entry.limited and key not in self._absent:
            entry.limit = self._limits[key] = Limit(key, 0)
            self.unknown.add(key)
            self._ask()

    def change(self, most: Mapping[str, int], asked: Iterable[str]) -> tuple[list[Limit], set[Limit]]:
        """Applies the limits of a read that began when `asked` were unknown. Returns the removed and the new limits."""
        self._absent = (self._absent | self.unknown.intersection(asked)).difference(most)
        self.unknown.difference_update(asked, most)
        gone = [limit for key, limit in self._limits.items() if key not in most and key not in self.unknown]
        for limit in gone:
            del self._limits[limit.key]
            self.changed.discard(limit)
        new: set[Limit] = set()
        for key, count in most.items():
            if key not in self._limits:
                self._limits[key] = Limit(key, count)
                new.add(self._limits[key])
            self._limits[key].most = count
            self._note(self._limits[key])
        if len(self._absent) > MOST_ABSENT:
            self._absent.clear()
        return gone, new

    # -- permits ------------------------------------------------------------------------------
    def keeps(self, entry: Entry) -> bool:
        """Whether it has a permit that it may keep: not if the limit was lowered meanwhile."""
        limit = entry.limit
        return limit is None or (self.open and entry in limit.holders and limit.free >= 0)

    def hold(self, entry: Entry) -> None:
        """Gives it a permit, even if none is free: a worker may have claimed the job."""
        limit = entry.limit
        if limit is not None:
            self._unblock(limit, entry)
            limit.give(entry)

    def block(self, entry: Entry) -> None:
        """Makes it wait for a permit."""
        limit = entry.limit
        assert limit is not None
        limit.take(entry)
        if entry not in limit.blocked:
            self.blocked += 1
            entry.blocked_at = 0.0
        limit.blocked[entry] = order_of(entry)
        self._note(limit)

    def leave(self, entry: Entry) -> None:
        """Removes an entry that has ended, waits for a time, or leaves memory."""
        limit = entry.limit
        if limit is not None:
            limit.take(entry)
            self._unblock(limit, entry)
            self._note(limit)

    def _unblock(self, limit: Limit, entry: Entry) -> None:
        if limit.blocked.pop(entry, None) is not None:
            self.blocked -= 1

    def _note(self, limit: Limit) -> None:
        if self._limits.get(limit.key) is limit:
            self.changed.add(limit)
            self._wake()

    def read_again(self, entry: Entry) -> None:
        """Call when it leaves memory unfinished: its row in Postgres must be read again."""
        if entry.limit is not None:
            entry.limit.stored = FIRST
            self._note(entry.limit)

    # -- takeovers ---------------------------------------------------------------------------
    def shut(self) -> None:
        """Call when a takeover begins: the running jobs, and those that wait in Postgres, are unknown again."""
        self.open = False
        for limit in self._limits.values():
            limit.stored = FIRST

    def begin(self) -> None:
        """Call when the running jobs are known: permits may be given."""
        self.open = True
        for limit in self._limits.values():
            self._note(limit)


def yielding(limit: Limit, waits: Callable[[Entry], bool], *, known: bool) -> list[Entry]:
    """The holders that must give their permits back, among those that no worker is known to have (`waits`).

    All of them if the limit was lowered, because some may have been taken already, or if the limit is new and the
    running jobs are not `known` yet; else one of a lower priority than a job that waits.
    """
    if limit.free < 0 or not known:
        return [entry for entry in limit.holders if waits(entry) and not entry.yielding]
    best = min(limit.blocked.values(), default=None) if not limit.free else None
    if best is None or best.priority >= max(limit.ranks, default=best.priority):
        return []
    there = [entry for entry in limit.holders if waits(entry)]
    last = max(there, key=order_of, default=None)
    if last is None or best.priority >= -last.key.priority or any(entry.yielding for entry in there):
        return []
    return [last]


def beyond(limit: Limit, depth: int, since: float) -> tuple[list[Entry], list[Entry]]:
    """The waiting jobs to move to Postgres, and those to write there as well: jobs that have waited since before
    `since` would hold back their lane's mark (B3)."""
    alone: Iterable[Entry] = ()
    if len(limit.blocked) > 2 * depth:
        alone = heapq.nlargest(len(limit.blocked) - depth, limit.blocked, key=order_of)
    elif limit.stored is not None and limit.stored is not FIRST:
        alone = [entry for entry, order in limit.blocked.items() if order > limit.stored]
    out = {entry for entry in alone if entry.may_leave}
    long = [entry for entry in limit.blocked if not entry.due and entry.blocked_at <= since and entry not in out]
    return list(out), long
