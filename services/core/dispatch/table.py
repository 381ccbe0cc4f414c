"""The owner's memory of the jobs that are handed out, and of those that may be handed out (protocol A5 to A8).

Events are calls that return `Effects`, which the coordinator performs. Invariants for every job of an open shard:

- it is never in two live workers: an attempt that a worker was given returns only by that worker's consent (it confirms
a void), by its return, or by the end of its lease (for an executor: of a timeout, executor_leases.py);
- a job that was committed before the takeover and may be running is in doubt until every worker that was registered
then has confirmed the new epoch with the list of its attempts, or is lost;
- an outcome is accepted once, and only for the present exec_id;
- a job of a limited key is fed only with one of its limit's permits (limits.py).

Pure: times are arguments, tokens come from a function. `tests/unit/test_epoch_model.py` drives it with random
messages, deaths and takeovers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from taskflow._policy import Outcome
from taskflow_server.core.dispatch.effects import Effects, End
from taskflow_server.core.dispatch.jobs import JobTable
from taskflow_server.core.dispatch.records import Claim, Entry, WorkerRecord
from taskflow_server.core.dispatch.transitions import Event, Phase
from taskflow_server.core.ids import shard_and_epoch
from taskflow_server.core.lanes import LaneKey

MOST_GONE = 1000  # limit of the remembered names of lost workers
VOID_AFTER = 2.0  # seconds since the hand-out; the answer to a poll normally arrives long before


class DispatchTable(JobTable):
    """The jobs in memory, and the events of workers."""

    # -- hand-outs and returns ---------------------------------------------------------------
    def took(self, worker: bytes, exec_ids: Iterable[bytes], now: float) -> Effects:
        """Records attempts that the queue service gave to `worker`. If that is lost already, they return."""
        record = self.workers.get(worker)
        orphans = []
        for exec_id in exec_ids:
            entry = self.by_exec.get(exec_id)
            if entry is None or entry.phase is not Phase.QUEUED:
                continue  # its outcome arrived before this message
            self.move(entry, Event.TAKEN, Phase.TAKEN)
            entry.worker, entry.taken_at = worker, now
            self.waiting.remove(entry)
            if entry.cancelling:
                self.cancel_taken = True
            if record is None:
                orphans.append(entry)
            else:
                record.entries[exec_id] = entry
        return self.returned(orphans) if orphans else Effects()

    def returned(self, entries: Iterable[Entry], *, counted: bool = True) -> Effects:
        """Returns attempts that were handed out and never started to the queue, without a try used, up to a cap (R4).

        Not `counted`: the worker had prefetched the attempt, so its return says nothing about the job, which keeps its
        place in its lane (R13).
        """
        effects = Effects()
        for entry in entries:
            if entry.fenced:
                # Its start may be on disk, where transactions rely on it: only a row of `attempts` ends it (A17).
                effects.ends.append(End(entry, Outcome.RETURNED, "returned"))
                continue
            entry.handouts += counted
            entry.first = not counted
            entry.started = False  # it counts as started when its worker has had it for long
            if entry.cancelling:
                effects.ends.append(End(entry, Outcome.CANCELLED, "cancelled"))
            elif entry.handouts >= self.max_handouts:
                effects.ends.append(End(entry, Outcome.FAILED, "never_started", final=True))
            else:
                self.enqueue(entry)
        return effects

    # -- what workers report -----------------------------------------------------------------
    def start(self, exec_id: bytes, worker: bytes) -> bool:
        """Whether a worker may start an attempt: if it is the present one of its job, and not cancelled."""
        entry = self.by_exec.get(exec_id)
        overtook = entry is not None and entry.phase is Phase.QUEUED  # the queue service's message is on its way
        taken = entry is not None and entry.phase is Phase.TAKEN and entry.worker == worker
        if entry is None or not (taken or overtook) or entry.cancelling:
            return False
        entry.started = True
        return True

    def running(self, entry: Entry) -> None:
        """Marks an attempt as started: its worker has reported on it, or has had it for longer than a heartbeat."""
        entry.started = True

    def fence(self, entries: Iterable[Entry]) -> None:
        """Their starts are about to be put on disk, for transactions of their handlers to rely on (A17)."""
        for entry in entries:
            entry.fenced = True

    def progressed(self, entry: Entry, progress: Any) -> None:
        entry.progress = progress

    def count_start(self, entry: Entry) -> None:
        """Marks its start as counted in the metrics."""
        entry.counted = True

    def reported(self, entry: Entry, worker: bytes) -> None:
        """Assigns an attempt to the worker that reports its outcome: the report can overtake the message `took`."""
        entry.worker = entry.worker or worker

    def end_by_late_outcome(self, entry: Entry, exec_id: bytes, worker: bytes) -> None:
        """Ends a waiting attempt that no worker was given by the late outcome of the former one, under its exec_id."""
        self.by_exec.pop(entry.exec_id, None)
        entry.exec_id, entry.worker, entry.started = exec_id, worker, True
        self.by_exec[exec_id] = entry

    # -- heartbeats --------------------------------------------------------------------------
    def heartbeat(
        self, worker: bytes, confirmed: dict[int, int], claims: Iterable[Claim], voided: Iterable[bytes], now: float
    ) -> Effects:
        """Applies a heartbeat: the epochs that a worker confirms, its attempts, and voided ones that it never got."""
        record = self.workers[worker]
        record.confirmed = confirmed
        have = {claim.exec_id: claim for claim in claims}
        unknown = [claim for claim in have.values() if claim.exec_id not in self.by_exec]  # mostly none
        for claim in unknown:
            self._claim(record, claim, now)
        stale = [claim.exec_id for claim in unknown if self._is_stale(claim)]
        for number, epoch in confirmed.items():
            shard = self.shards.get(number)
            if shard is not None and epoch == shard.epoch:
                shard.unconfirmed.discard(worker)
        back = []
        for exec_id in voided:
            entry = record.entries.get(exec_id)
            if entry is not None and entry.void_asked and exec_id not in have and entry.phase is Phase.TAKEN:
                back.append(entry)
        void = self._missing(record, have, back, now)
        effects = self.returned(back)
        effects.void, effects.revoke = void, stale
        effects.cancel = [e for e in record.entries.values() if e.cancelling and e.phase is Phase.TAKEN]
        return effects

    def _missing(
        self, record: WorkerRecord, have: dict[bytes, Claim], back: Collection[Entry], now: float
    ) -> list[bytes]:
        """The attempts that the worker was given and does not list: it must confirm that it never got them."""
        void = []
        for exec_id, entry in record.entries.items():
            if exec_id in have:
                entry.started = entry.started or have[exec_id].started
                if not entry.started:
                    entry.taken_at = now  # a prefetched attempt may wait: time does not make it started
            elif (
                entry.phase is Phase.TAKEN
                and entry.spec is not None
                and entry not in back
                and (now - entry.taken_at >= VOID_AFTER)
            ):
                entry.void_asked = True
                void.append(exec_id)
        return void

    def _claim(self, record: WorkerRecord, claim: Claim, now: float) -> None:
        """Applies a claim to an attempt in doubt, or to an unknown one of an older epoch of this owner."""
        shard = self.shards.get(claim.shard)
        if shard is None or claim.exec_id in self.by_exec:
            return
        if record.worker not in shard.unconfirmed:
            return  # it has confirmed this epoch before, without this attempt
        if self.in_doubt(claim.job_id, claim.attempt):
            self.adopt(claim, now, record)

    def in_doubt(self, job_id: bytes, attempt: int) -> bool:
        """Whether a worker may have this attempt under an older epoch. One below the present number is recorded."""
        entry = self.by_job.get(job_id)
        if entry is None:
            return True
        if entry.phase is Phase.IN_DOUBT:
            return entry.attempt == attempt
        # Adopted only by a worker's claim. Another worker has a later attempt, so the end of this one is recorded.
        return entry.phase is Phase.TAKEN and entry.spec is None and entry.attempt < attempt

    def _is_stale(self, claim: Claim) -> bool:
        """Whether a claimed attempt is known not to be the present one of its job.

        It is unknown for a shard that has not settled, and for a higher epoch, which belongs to another owner. A
        finished attempt is answered when it is reported.
        """
        shard = self.shards.get(claim.shard)
        if shard is None or not shard.settled or claim.finished or claim.exec_id in self.by_exec:
            return False
        number, epoch = shard_and_epoch(claim.exec_id)
        return number == claim.shard and epoch <= shard.epoch

    def adopt(self, claim: Claim, now: float, record: WorkerRecord | None = None) -> Entry:
        """Adopts an attempt of an older epoch. Its facts are loaded before its outcome is decided."""
        shard = self.shards[claim.shard]
        entry = self.by_job.get(claim.job_id)
        if entry is not None and entry.phase is not Phase.IN_DOUBT:
            self.discard(entry)
            entry = None
        if entry is None:
            entry = Entry(claim.job_id, LaneKey("", "", 0), claim.shard, claim.attempt, 0)
            self.by_job[claim.job_id] = entry
            self.adopted.append(entry)
        else:
            self.waiting.remove(entry)
            shard.in_doubt.pop(claim.job_id, None)
        self.move(entry, Event.TAKEN, Phase.TAKEN)
        entry.exec_id, entry.attempt = claim.exec_id, claim.attempt
        entry.taken_at, entry.started, entry.lease_first = now, claim.started, False
        self.limits.hold(entry)
        self.by_exec[claim.exec_id] = entry
        if record is not None:
            entry.worker = record.worker
            record.entries[claim.exec_id] = entry
        return entry

    # -- lost workers ------------------------------------------------------------------------
    def worker_lost(self, worker: bytes, *, left: bool = False) -> Effects:
        """Loses the attempts of a worker that is dead, whose lease has ended, or that has `left` with a goodbye.

        A worker that left has no more attempts: one that it has not started is returned. An attempt whose facts are not
        loaded ends as soon as they are.
        """
        record = self.workers.pop(worker, None)
        for shard in self.shards.values():
            shard.unconfirmed.discard(worker)
        if record is None:
            return Effects()
        if len(self._gone) >= MOST_GONE:
            del self._gone[next(iter(self._gone))]
        self._gone[worker] = record.name
        taken = [entry for entry in record.entries.values() if entry.phase is Phase.TAKEN]
        effects = self.returned([e for e in taken if left and not e.started and e.spec is not None])
        effects.lost = [entry for entry in taken if entry.phase is Phase.TAKEN and not _ends(effects, entry)]
        self.adopted += [entry for entry in effects.lost if entry.spec is None]
        effects.ends += [End(entry, Outcome.LOST, "lost") for entry in effects.lost if entry.spec is not None]
        return effects

    def worker_of(self, entry: Entry) -> str:
        """The name of the worker that has this attempt, or had it when it was lost; empty if unknown."""
        record = self.workers.get(entry.worker)
        return record.name if record is not None else self._gone.get(entry.worker, entry.leased_to)

    # -- cancels -----------------------------------------------------------------------------
    def cancel(self, entries: Sequence[tuple[Entry, str]]) -> Effects:
        """Cancels jobs, each with its reason (R7, A13)."""
        effects, waiting = Effects(), []
        for entry, reason in entries:
            entry.cancelling, entry.cancel_reason = True, reason
            if entry.phase in (Phase.QUEUED, Phase.BLOCKED):
                waiting.append(entry)
            elif entry.phase is not Phase.TAKEN:
                # ENDING: its outcome respects the cancel unless it is too late; then the next sweep finds it waiting.
                # IN_DOUBT: a worker may have it. Once that is known, it ends in one of the other ways.
                continue
            elif entry.executor_lease is not None:
                # An executor has no session: its next message is refused as stale.
                reason = "cancelled_running" if entry.started else "cancelled"
                effects.ends.append(End(entry, Outcome.CANCELLED, reason))
            else:
                effects.cancel.append(entry)
        out = self._take_out(waiting)
        effects.ends += out.ends
        effects.take_out += out.take_out
        return effects

    # -- after a takeover --------------------------------------------------------------------
    def settle(self) -> Effects:
        """Settles shards. Once every worker has confirmed, no worker has an attempt that is still in doubt: a started
        one is lost, a job that had not started is handed out again."""
        effects = Effects()
        for shard in self.shards.values():
            if shard.settled and shard.in_doubt:
                entries = list(shard.in_doubt.values())
                shard.in_doubt.clear()
                for entry in entries:
                    self._settle(entry, effects)
        return effects

    def _settle(self, entry: Entry, effects: Effects) -> None:
        if entry.leased and entry.started:
            effects.ends.append(End(entry, Outcome.LOST, "lost"))
        elif entry.cancelling:
            effects.ends.append(End(entry, Outcome.CANCELLED, "cancelled"))
        elif entry.handouts + entry.leased >= self.max_handouts:
            effects.ends.append(End(entry, Outcome.FAILED, "never_started", final=True))
        elif entry.limit is not None and entry not in entry.limit.holders:
            self.enqueue(entry)  # blocked until it has a permit; then it gets here again
        elif entry.leased or entry.lease_first:
            effects.lease_first.append(entry)
        else:
            self.enqueue(entry)

    def lease_first_writing(self, entries: Iterable[Entry]) -> list[Entry]:
        """Call before their lease rows are written (A12). Returns the entries whose hand-outs are counted once more."""
        counted = [entry for entry in entries if entry.leased]
        for entry in counted:
            entry.handouts += 1
        return counted

    def lease_first_failed(self, entries: Iterable[Entry], counted: Iterable[Entry]) -> None:
        """The rows were not written: the entries stay in doubt and are settled again."""
        for entry in counted:
            entry.handouts -= 1
        for entry in entries:
            shard = self.shards.get(entry.shard)
            if shard is not None and entry.phase is Phase.IN_DOUBT and self.has(entry):
                shard.in_doubt[entry.job_id] = entry

    def lease_first_written(self, entries: Iterable[Entry]) -> None:
        """Hands out the entries: a job that takes its machine down now leaves a trace."""
        for entry in entries:
            entry.lease_first = False
            if entry.phase is Phase.IN_DOUBT and self.has(entry):
                self.enqueue(entry)


def _ends(effects: Effects, entry: Entry) -> bool:
    return any(end.entry is entry for end in effects.ends)
