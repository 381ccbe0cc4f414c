"""How many jobs of one key may run at once: permits, who has one, and who waits for one (protocol B4, rules R17, R18).

The keys are named tasks (`task:` and the task's id), whose limit is their `concurrency`. What holds, for each limit:

- no job is fed to the queue service without a permit, and there are `most` permits; a job keeps its permit until its
  attempt's outcome is committed, so that whoever may run it counts;
- while it is not known what runs, after a takeover, nobody gets a permit (`open`);
- a job that waits for a permit takes no room in its lane: it stands here, and beyond a depth in Postgres alone.

A limit that was lowered takes no permit away from a job that a worker has; those that still wait in the queue service
yield. Pure: permits.py applies it to the table, and `tests/unit/test_limits_model.py` drives both by random events.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping

from taskflow_server.core.dispatch.records import FIRST, Entry, Limit, order_of

MOST_ABSENT = 10_000  # keys that are remembered; one that is forgotten is asked for once more


class Limits:
    def __init__(self, wake: Callable[[], None], ask: Callable[[], None]) -> None:
        """`wake` is called when a permit may be given, or a job waits for one; `ask`, when a job was made under a limit
        that is not known: the limits are to be read."""
        self._wake = wake
        self._ask = ask
        self._limits: dict[str, Limit] = {}
        self.changed: set[Limit] = set()  # with something to decide
        self.unknown: set[str] = set()  # keys of limits that are asked for; they have no permit until they are read
        self._absent: set[str] = set()  # that were asked for, and are there no more
        self.open = False  # it is known what runs
        self.blocked = 0  # jobs in memory that wait for a permit

    # No `__len__`: limits without any would be false, and `limits or …` replace them.
    def __iter__(self) -> Iterator[Limit]:
        return iter(self._limits.values())

    @property
    def count(self) -> int:
        return len(self._limits)

    @property
    def most(self) -> dict[str, int]:
        return {limit.key: limit.most for limit in self._limits.values()}

    def attach(self, entry: Entry) -> None:
        """Finds a job's limit."""
        key = entry.limit_key
        entry.limit = self._limits.get(key)
        if entry.limit is None and entry.limited and key not in self._absent:
            entry.limit = self._limits[key] = Limit(key, 0)
            self.unknown.add(key)
            self._ask()

    def change(self, most: Mapping[str, int], asked: Iterable[str]) -> tuple[list[Limit], set[Limit]]:
        """The limits are these, as of a reading that began when `asked` were unknown. Returns those that are gone and
        those that are new."""
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
        """Whether it has a permit and may go on with it: not where the limit was lowered meanwhile."""
        limit = entry.limit
        return limit is None or (self.open and entry in limit.holders and limit.free >= 0)

    def hold(self, entry: Entry) -> None:
        """It gets a permit, or has one by what a worker says, whether or not one is free."""
        limit = entry.limit
        if limit is not None:
            self._unblock(limit, entry)
            limit.give(entry)

    def block(self, entry: Entry) -> None:
        """It waits for a permit."""
        limit = entry.limit
        assert limit is not None
        limit.take(entry)
        if entry not in limit.blocked:
            self.blocked += 1
            entry.blocked_at = 0.0
        limit.blocked[entry] = order_of(entry)
        self._note(limit)

    def leave(self, entry: Entry) -> None:
        """It has ended, waits for a time, or leaves memory."""
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
        """It leaves memory unfinished: its row in Postgres is to be found once more."""
        if entry.limit is not None:
            entry.limit.stored = FIRST
            self._note(entry.limit)

    # -- takeovers ---------------------------------------------------------------------------
    def shut(self) -> None:
        """A takeover begins: what runs is to be learned anew, and so is what waits in Postgres."""
        self.open = False
        for limit in self._limits.values():
            limit.stored = FIRST

    def begin(self) -> None:
        """It is known what runs: permits may be given."""
        self.open = True
        for limit in self._limits.values():
            self._note(limit)


def yielding(limit: Limit, waits: Callable[[Entry], bool], *, known: bool) -> list[Entry]:
    """Which holders are to give their permits back, of those that no worker has as far as is known (`waits`).

    All of them where the limit was lowered, for one that is asked may have been taken already, and where the limit is
    new and it is not `known` yet what runs; else one of a lower priority than a job that waits.
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
    """Which of those that wait are to stand in Postgres alone, and which there as well: those that have waited since
    before `since` would hold their lane's mark (B3)."""
    alone: Iterable[Entry] = ()
    if len(limit.blocked) > 2 * depth:
        alone = heapq.nlargest(len(limit.blocked) - depth, limit.blocked, key=order_of)
    elif limit.stored is not None and limit.stored is not FIRST:
        alone = [entry for entry, order in limit.blocked.items() if order > limit.stored]
    out = {entry for entry in alone if entry.may_leave}
    long = [entry for entry in limit.blocked if not entry.due and entry.blocked_at <= since and entry not in out]
    return list(out), long
