"""Who has which job: the owner's memory of what is handed out, and what may be handed out (protocol A5-A8).

What holds, for every job of a shard that this table has open:

- it is in two live workers never: a task that a worker was given comes back only by that worker's consent (it confirms
  a void), by its return, or by the end of its lease (of an executor, which has no session, of a timeout:
  executor_leases.py);
- what was committed before the takeover and may run somewhere is in doubt until every worker registered then has
  confirmed the new epoch together with what it has, or is over;
- an outcome is accepted once, for the present exec_id alone;
- a job of a limited key is fed only with one of its limit's permits (limits.py).

Pure: times are arguments, tokens come from a function. `tests/unit/test_epoch_model.py` drives it with random
messages, deaths and takeovers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from taskflow_server.core.dispatch.limits import Limits
from taskflow_server.core.dispatch.records import Claim, Entry, Phase, Shard, WorkerRecord
from taskflow_server.core.dispatch.waiting import Waiting
from taskflow_server.core.ids import shard_and_epoch
from taskflow_server.core.lanes import Lane, LaneKey

MOST_GONE = 1000  # names of workers that are over
VOID_AFTER = 2.0  # seconds since a hand-out: a poll's answer is normally there long before


class DispatchTable:
    def __init__(self, token: Callable[[int, int], bytes], *, depth: int, limits: Limits | None = None) -> None:
        """`token(shard, epoch)` makes an exec_id; `depth`: jobs of one lane that may wait in the queue service."""
        self._token = token
        self.limits = Limits(lambda: None, lambda: None) if limits is None else limits
        self.depth = depth
        self.shards: dict[int, Shard] = {}
        self.lanes: dict[LaneKey, Lane] = {}
        self.by_exec: dict[bytes, Entry] = {}
        self.by_job: dict[bytes, Entry] = {}
        self.workers: dict[bytes, WorkerRecord] = {}
        self._gone: dict[bytes, str] = {}  # names of the last workers that are over
        self.waiting = Waiting()  # in doubt or queued
        self.outbox: list[Entry] = []  # to be fed
        self.adopted: list[Entry] = []  # claimed by workers, facts not loaded
        self.cancel_taken = False  # a worker was given a job that is to be cancelled
        self._departures: list[set[bytes]] = []

    # -- ownership ---------------------------------------------------------------------------
    def open(self, shard: Shard) -> None:
        """This shard is ours, under a new epoch; nothing of an older one remains.

        Every worker with a seat must confirm: those registered before the takeover, and those that have registered
        with this coordinator while it read them (A5).
        """
        self.shut(shard.number)
        self.limits.shut()
        shard.unconfirmed = {worker for worker, seat in self.workers.items() if not seat.sessionless}
        if shard.unconfirmed and not shard.clean:
            shard.suspects = Counter()
        self.shards[shard.number] = shard

    def shut(self, number: int) -> None:
        """The shard is another's, or about to be opened anew: forget it."""
        if self.shards.pop(number, None) is None:
            return
        for entry in [e for e in self.by_job.values() if e.shard == number]:
            if entry.phase in (Phase.IN_DOUBT, Phase.QUEUED):
                self.waiting.remove(entry)
            self._forget(entry)
        for key in [k for k, lane in self.lanes.items() if lane.shard == number]:
            del self.lanes[key]
        self.outbox = [e for e in self.outbox if e.shard != number]
        self.adopted = [e for e in self.adopted if e.shard != number]

    # -- what comes in -----------------------------------------------------------------------
    def room(self, key: LaneKey) -> int:
        return self.depth - self.waiting[key]

    def admit(self, entry: Entry, *, in_doubt: bool) -> None:
        """A job that a page, an offer or a due time brought. In doubt, it is held while its shard is unsettled.

        After an unclean takeover so is one that a worker may have had, however soon its shard has settled: the proof
        that its worker is dead may be quicker than the reading of lanes, and its lease row is to be written first.
        """
        self.by_job[entry.job_id] = entry
        self.waiting.add(entry)
        if entry.limit_key:
            self.limits.attach(entry)
        shard = self.shards[entry.shard]
        entry.lease_first = in_doubt and self._is_suspect(shard, entry.key)
        if entry.lease_first or (in_doubt and not shard.settled):
            entry.phase = Phase.IN_DOUBT
            shard.in_doubt[entry.job_id] = entry
        else:
            self._queue(entry)

    def _is_suspect(self, shard: Shard, key: LaneKey) -> bool:
        """The former owner had no more than the first jobs of a lane in memory: `depth` of it, and as many due ones."""
        if shard.suspects is None or shard.suspects[key] >= 2 * self.depth:
            return False
        shard.suspects[key] += 1
        return True

    def restore(self, entry: Entry) -> None:
        """A row of `leases`, read at a takeover: some worker may have it."""
        entry.leased, entry.lease_first, entry.phase = True, True, Phase.IN_DOUBT
        self.limits.attach(entry)
        self.by_job[entry.job_id] = entry
        self.waiting.add(entry)
        self.shards[entry.shard].in_doubt[entry.job_id] = entry

    def hand_out(self, entry: Entry) -> None:
        """Feeds an entry that waited: new token, same attempt."""
        if entry.phase is Phase.TAKEN:
            self._leave_seat(entry)
            self.waiting.add(entry)
        self._queue(entry)

    def _queue(self, entry: Entry) -> None:
        shard = self.shards[entry.shard]
        shard.in_doubt.pop(entry.job_id, None)
        if entry.exec_id:
            self.by_exec.pop(entry.exec_id, None)
        entry.worker, entry.started, entry.void_asked = b"", False, False
        entry.executor_lease, entry.expiring, entry.leaving, entry.yielding = None, False, False, False
        if entry.limit is not None and not self.limits.keeps(entry):
            entry.phase, entry.exec_id = Phase.BLOCKED, b""
            self.waiting.remove(entry)
            self.limits.block(entry)
            return
        entry.phase, entry.exec_id = Phase.QUEUED, self._token(shard.number, shard.epoch)
        self.by_exec[entry.exec_id] = entry
        self.outbox.append(entry)

    # -- workers -----------------------------------------------------------------------------
    def took(self, worker: bytes, exec_ids: Iterable[bytes], now: float) -> list[Entry]:
        """The queue service gave these to `worker`. Returns those whose worker is over already: lost."""
        seat = self.workers.get(worker)
        orphans = []
        for exec_id in exec_ids:
            entry = self.by_exec.get(exec_id)
            if entry is None or entry.phase is not Phase.QUEUED:
                continue  # its outcome was quicker than this message
            entry.phase, entry.worker, entry.taken_at = Phase.TAKEN, worker, now
            self.waiting.remove(entry)
            if entry.cancelling:
                self.cancel_taken = True
            if seat is None:
                orphans.append(entry)
            else:
                seat.entries[exec_id] = entry
        return orphans

    def hear(
        self, worker: bytes, confirmed: dict[int, int], claims: Iterable[Claim], voided: Iterable[bytes], now: float
    ) -> tuple[list[bytes], list[Entry], list[bytes]]:
        """A heartbeat. Returns what to void, the entries that come back by consent, and what to revoke."""
        seat = self.workers[worker]
        seat.confirmed = confirmed
        have = {}
        for claim in claims:
            have[claim.exec_id] = claim
            self._claim(seat, claim, now)
        revoked = [exec_id for exec_id, claim in have.items() if self._is_stale(claim)]
        for number, epoch in confirmed.items():
            shard = self.shards.get(number)
            if shard is not None and epoch == shard.epoch:
                shard.unconfirmed.discard(worker)
        back = []
        for exec_id in voided:
            entry = seat.entries.get(exec_id)
            if entry is not None and entry.void_asked and exec_id not in have and entry.phase is Phase.TAKEN:
                back.append(entry)
        void = []
        for exec_id, entry in seat.entries.items():
            if exec_id in have:
                entry.started = entry.started or have[exec_id].started
                if not entry.started:
                    entry.taken_at = now  # a prefetched attempt may wait: `LeaseRows` must not take it for started
            elif (
                entry.phase is Phase.TAKEN
                and entry.spec is not None
                and entry not in back
                and (now - entry.taken_at >= VOID_AFTER)
            ):
                entry.void_asked = True
                void.append(exec_id)
        return void, back, revoked

    def _claim(self, seat: WorkerRecord, claim: Claim, now: float) -> None:
        """A worker has this. In doubt until now, or unknown and of an older epoch of ours: it is the worker's."""
        shard = self.shards.get(claim.shard)
        if shard is None or claim.exec_id in self.by_exec:
            return
        if seat.worker not in shard.unconfirmed:
            return  # it has confirmed this epoch before, without this
        if self.in_doubt(claim.job_id, claim.attempt):
            self.adopt(claim, now, seat)

    def in_doubt(self, job_id: bytes, attempt: int) -> bool:
        """Whether this attempt may be a worker's under an older epoch. One below the present number is recorded."""
        entry = self.by_job.get(job_id)
        if entry is None:
            return True
        if entry.phase is Phase.IN_DOUBT:
            return entry.attempt == attempt
        # Adopted by the word of a worker alone. Somebody has a later attempt, so that one's end is recorded.
        return entry.phase is Phase.TAKEN and entry.spec is None and entry.attempt < attempt

    def _is_stale(self, claim: Claim) -> bool:
        """Whether a claimed attempt is known not to be its job's present one.

        Nothing is known of a shard that has not settled, nor under a higher epoch than ours, which another owner
        has. A finished one is answered when it is reported.
        """
        shard = self.shards.get(claim.shard)
        if shard is None or not shard.settled or claim.finished or claim.exec_id in self.by_exec:
            return False
        number, epoch = shard_and_epoch(claim.exec_id)
        return number == claim.shard and epoch <= shard.epoch

    def adopt(self, claim: Claim, now: float, seat: WorkerRecord | None = None) -> Entry:
        """Takes over an attempt of an older epoch. Its facts are loaded before its outcome is decided."""
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
        entry.phase, entry.exec_id, entry.attempt = Phase.TAKEN, claim.exec_id, claim.attempt
        entry.taken_at, entry.started, entry.lease_first = now, claim.started, False
        self.limits.hold(entry)
        self.by_exec[claim.exec_id] = entry
        if seat is not None:
            entry.worker = seat.worker
            seat.entries[claim.exec_id] = entry
        return entry

    def over(self, worker: bytes) -> list[Entry]:
        """The worker is dead, has left, or its lease is over. Returns what it had: lost."""
        seat = self.workers.pop(worker, None)
        for shard in self.shards.values():
            shard.unconfirmed.discard(worker)
        if seat is None:
            return []
        if len(self._gone) >= MOST_GONE:
            del self._gone[next(iter(self._gone))]
        self._gone[worker] = seat.name
        return [e for e in seat.entries.values() if e.phase is Phase.TAKEN]

    def worker_of(self, entry: Entry) -> str:
        """The name of the worker that has this attempt, or had it when it was lost; empty where nobody knows."""
        seat = self.workers.get(entry.worker)
        return seat.name if seat is not None else self._gone.get(entry.worker, entry.leased_to)

    def settle(self, number: int) -> list[Entry]:
        """All have confirmed: what is still held is with nobody."""
        shard = self.shards[number]
        if shard.unconfirmed:
            return []
        entries = list(shard.in_doubt.values())
        shard.in_doubt.clear()
        return entries

    def stand_in(self, entry: Entry, exec_id: bytes, worker: bytes) -> None:
        """A waiting attempt that nobody was given ends by the late outcome of the one before, under its exec_id."""
        self.by_exec.pop(entry.exec_id, None)
        entry.exec_id, entry.worker, entry.started = exec_id, worker, True
        self.by_exec[exec_id] = entry

    # -- outcomes ----------------------------------------------------------------------------
    def end(self, entry: Entry) -> None:
        """Its outcome is being committed: from here on nothing else may happen to it."""
        if entry.phase in (Phase.IN_DOUBT, Phase.QUEUED):
            self.waiting.remove(entry)
            self.shards[entry.shard].in_doubt.pop(entry.job_id, None)
        elif entry.phase is Phase.BLOCKED:
            self.limits.leave(entry)
        entry.phase = Phase.ENDING

    def finish(self, entry: Entry) -> None:
        """Committed: final, or in `deferred`."""
        lane = self.lanes.get(entry.key)
        if lane is not None:
            if (lane.catching_up or entry.unread) and not lane.holds(entry.job_id):
                lane.drop(entry.job_id)  # a page read before the commit may still bring it
            lane.close((entry.job_id,))
        self._forget(entry)

    def leased(self, entry: Entry) -> None:
        """It has a row in `leases` now, and no longer holds its lane's mark."""
        entry.leased = True
        lane = self.lanes.get(entry.key)
        if lane is not None:
            lane.close((entry.job_id,))

    def stored(self, entry: Entry, *, leaves: bool) -> None:
        """It waits for a permit, and has a row in `deferred` now. `leaves`: it waits there alone."""
        entry.due = True
        lane = self.lanes.get(entry.key)
        if lane is not None and not leaves:
            lane.close((entry.job_id,))
        if leaves:
            self.finish(entry)

    def withdraw(self, entry: Entry) -> None:
        """It waited, and leaves memory unfinished: its lane, or its row in `deferred`, will be read again."""
        self.waiting.remove(entry)
        self._forget(entry)

    def discard(self, entry: Entry) -> None:
        """An adopted attempt that turned out to be recorded: nothing is left to do for it."""
        self._forget(entry)

    def _leave_seat(self, entry: Entry) -> None:
        seat = self.workers.get(entry.worker)
        if seat is not None:
            seat.entries.pop(entry.exec_id, None)
            if seat.sessionless and not seat.entries:
                del self.workers[entry.worker]

    @contextmanager
    def departures(self) -> Iterator[set[bytes]]:
        """The jobs that leave memory meanwhile: a row of theirs that was read before is of an attempt that has ended,
        and must not run again (A3)."""
        left: set[bytes] = set()
        self._departures.append(left)
        try:
            yield left
        finally:
            # Not `remove`, which compares: an empty set of another reading that has not ended is equal to this one.
            self._departures = [each for each in self._departures if each is not left]

    def _forget(self, entry: Entry) -> None:
        for departed in self._departures:
            departed.add(entry.job_id)
        self._leave_seat(entry)
        if entry.limit is not None:
            self.limits.leave(entry)
        if self.by_exec.get(entry.exec_id) is entry:
            del self.by_exec[entry.exec_id]
        if self.by_job.get(entry.job_id) is entry:
            del self.by_job[entry.job_id]
