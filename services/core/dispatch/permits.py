"""Applies limits to the table: gives permits, takes them back, and counts them after a takeover (protocol B4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from taskflow_server.core.dispatch.limits import yielding
from taskflow_server.core.dispatch.records import Entry, Limit
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.transitions import Event, Phase

_RUNNING = (Phase.QUEUED, Phase.TAKEN, Phase.ENDING)


class Permits:
    def __init__(self, table: DispatchTable) -> None:
        self._table = table
        self.gone = True  # jobs may wait in Postgres for a permit of a removed limit

    def give(self, limit: Limit) -> tuple[list[Entry], list[Entry]]:
        """Gives the free permits of a limit to the next jobs.

        Returns the entries that stay in doubt until their lease rows are written (A12), and those to take back from the
        queue service.
        """
        table = self._table
        held = []
        for entry in limit.next(limit.free) if table.limits.open and limit.free > 0 else ():
            table.limits.hold(entry)
            if self._let_go(entry):
                held.append(entry)
        return held, self._yield(limit)

    def _let_go(self, entry: Entry) -> bool:
        """Hands out a blocked entry. True: it stays in doubt until its lease row is written (A12)."""
        table = self._table
        table.waiting.add(entry)
        if entry.lease_first:
            table.move(entry, Event.DELAYED, Phase.IN_DOUBT)
            table.shards[entry.shard].in_doubt[entry.job_id] = entry
        else:
            table.enqueue(entry)
        return entry.lease_first

    def begin_waiting(self, limit: Limit, now: float) -> list[Entry]:
        """The jobs that started to wait for a permit since the last call."""
        fresh = [entry for entry in limit.blocked if not entry.blocked_at]
        for entry in fresh:
            entry.blocked_at = now
        return fresh

    def lowered(self) -> list[Entry]:
        """The entries to take back from the queue service after a change of limits."""
        limits = self._table.limits
        return [entry for limit in limits if limit.free < 0 or not limits.open for entry in self._yield(limit)]

    def _yield(self, limit: Limit) -> list[Entry]:
        back = yielding(limit, lambda entry: entry.phase is Phase.QUEUED, known=self._table.limits.open)
        for entry in back:
            entry.yielding = True
        return back

    def count(self, entry: Entry) -> None:
        """Counts an entry that a worker has, even beyond its limit; its facts are known now."""
        self._table.limits.attach(entry)
        self._table.limits.hold(entry)

    def change(self, most: Mapping[str, int], asked: Iterable[str] = ()) -> None:
        """Applies new limits (Limits.change). Attempts that workers have are not taken from them."""
        table = self._table
        gone, new = table.limits.change(most, asked)
        if gone:
            self.gone = True
            freed = [entry for limit in gone for entry in limit.blocked]
            for entry in freed:
                table.limits.leave(entry)
            for entry in table.by_job.values():
                if entry.limit in gone:
                    entry.limit = None
            for entry in freed:
                self._let_go(entry)
        if new:
            for entry in table.by_job.values():
                if entry.limit is None and entry.limit_key:
                    table.limits.attach(entry)
                    if entry.phase in _RUNNING:
                        table.limits.hold(entry)

    def begin(self) -> bool:
        """Whether the running jobs are known: each worker has confirmed, and the facts of the claimed attempts are
        loaded."""
        table = self._table
        if table.limits.open or not table.shards or not all(shard.settled for shard in table.shards.values()):
            return table.limits.open
        if table.adopted or any(e.spec is None and e.phase is not Phase.ENDING for e in table.by_job.values()):
            return False
        table.limits.begin()
        return True
