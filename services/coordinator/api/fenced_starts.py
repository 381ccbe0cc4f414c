"""Starts that workers with a session want on disk, so that their handlers can fence transactions (protocol A17).

Nothing else needs such a start: an attempt is handed out and ends without one. From the answer on the attempt ends only
by a row of `attempts`, written in the transaction that deletes its lease row; taskflow.assert_current relies on that.
"""

from __future__ import annotations

from collections.abc import Sequence

from taskflow.v1 import worker_pb2 as pb
from taskflow_server.coordinator.outcomes.writer import OutcomeWriter
from taskflow_server.coordinator.ownership.takeover import Takeover
from taskflow_server.coordinator.shared import Shared
from taskflow_server.coordinator.workers.lease_rows import LeaseRows, lease_row
from taskflow_server.core.dispatch.records import Entry
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.errors import FailedPrecondition, InvalidArgument, NotOwner, Unavailable
from taskflow_server.core.ids import shard_and_epoch
from taskflow_server.runtime.batcher import Batcher

NOT_SETTLED = "NOT_SETTLED"  # a takeover does not know yet who has what


class FencedStarts:
    def __init__(self, shared: Shared, outcomes: OutcomeWriter, takeover: Takeover, lease_rows: LeaseRows) -> None:
        self._shared = shared
        self._outcomes = outcomes
        self._takeover = takeover
        self._lease_rows = lease_rows
        self._batches: Batcher[Entry, None] = Batcher(self._write, limit=500)

    async def start(self, request: pb.StartRequest) -> None:
        """Returns once the start is on disk. FailedPrecondition: not the present attempt. Unavailable: ask again."""
        if len(request.exec_id) != 16:
            raise InvalidArgument("exec_id: must be the 16 bytes that were handed out", "exec_id")
        entry = self._present(request)
        if entry.spec is None and entry in await self._takeover.complete([entry]):  # adopted, its facts not loaded
            raise _stale()
        try:
            await self._batches.submit([self._present(request)])
        except NotOwner:
            raise _moved() from None
        self._present(request)

    def _present(self, request: pb.StartRequest) -> Entry:
        """The attempt, if it is its job's present one and this worker's."""
        table = self._shared.table
        entry = table.by_exec.get(request.exec_id)
        if entry is None:
            raise self._unknown(request.exec_id)
        if entry.phase is Phase.QUEUED and request.worker_id in table.workers:
            # The queue service's message that says who took it is still on its way.
            table.took(request.worker_id, [request.exec_id], self._shared.clock.monotonic())
        is_its = entry.worker == request.worker_id and request.worker_id in table.workers
        if entry.phase is not Phase.TAKEN or not is_its or (request.job_id and request.job_id != entry.job_id):
            raise _stale()
        return entry

    def _unknown(self, exec_id: bytes) -> FailedPrecondition | Unavailable:
        number, epoch = shard_and_epoch(exec_id)
        shard = self._shared.table.shards.get(number)
        if shard is None or epoch > shard.epoch:
            return _moved()
        if epoch < shard.epoch and not shard.settled:
            return Unavailable("a takeover is being settled; send the start again", NOT_SETTLED)
        return _stale()

    async def _write(self, entries: list[Entry]) -> Sequence[None]:
        """One transaction for all that wait. Those that came to an end meanwhile are passed over."""
        shared, table = self._shared, self._shared.table
        async with self._outcomes.exclusive:
            now, now_us = shared.clock.monotonic(), shared.clock.now_us()
            good = [e for e in dict.fromkeys(entries) if table.by_exec.get(e.exec_id) is e and e.phase is Phase.TAKEN]
            rows = []
            for entry in good:
                table.running(entry)
                began = now_us - int((now - entry.taken_at) * 1e6)
                worker = table.worker_of(entry) or None
                rows.append(lease_row(entry, started_at=began, worker=worker, fenced=True))
            table.fence(good)  # before the commit, whose fate may be unknown
            await self._lease_rows.write(good, rows)
        return [None] * len(entries)


def _stale() -> FailedPrecondition:
    return FailedPrecondition("exec_id: not the present attempt of its job", "STALE_EXEC_ID")


def _moved() -> Unavailable:
    return Unavailable("its queue has another owner now; ask for the topology", "NOT_OWNER")
