"""The jobs in memory: they are admitted, wait, are fed to the queue service, end and leave.

Every change of a phase is an event of transitions.py. `DispatchTable` adds the events of workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from taskflow._policy import Outcome
from taskflow_server.core.dispatch.effects import Effects, End
from taskflow_server.core.dispatch.limits import Limits
from taskflow_server.core.dispatch.records import Entry, Facts, Shard, WorkerRecord
from taskflow_server.core.dispatch.transitions import ALLOWED, Event, Phase, check
from taskflow_server.core.dispatch.waiting import Waiting
from taskflow_server.core.lanes import Lane, LaneKey

_IN_WAITING = (Phase.IN_DOUBT, Phase.QUEUED)  # phases in which a job counts as waiting


class JobTable:
    def __init__(
        self,
        token: Callable[[int, int], bytes],
        *,
        depth: int,
        limits: Limits | None = None,
        max_handouts: int = 1 << 30,
        damaged: Callable[[], None] = lambda: None,
    ) -> None:
        """`token(shard, epoch)` makes an exec_id; `depth`: limit of the jobs of one lane in the queue service;
        `max_handouts`: limit of hand-outs without a start, after which the job fails (R4); `damaged` is called when the
        table is found to be wrong, and must be built anew by a takeover."""
        self._token = token
        self.limits = Limits(lambda: None, lambda: None) if limits is None else limits
        self.depth = depth
        self.max_handouts = max_handouts
        self._damaged = damaged
        self.shards: dict[int, Shard] = {}
        self.lanes: dict[LaneKey, Lane] = {}
        self.by_exec: dict[bytes, Entry] = {}
        self.by_job: dict[bytes, Entry] = {}
        self.workers: dict[bytes, WorkerRecord] = {}
        self.waiting = Waiting()  # jobs in doubt or queued
        self.outbox: list[Entry] = []  # entries to feed
        self.adopted: list[Entry] = []  # claimed by workers; their facts must be loaded
        self.due_left: set[tuple[int, LaneKey]] = set()  # lanes whose due rows have left memory unfinished
        self.cancel_taken = False  # a worker was given a job with an open cancel
        self._gone: dict[bytes, str] = {}  # names of the latest lost workers
        self._departures: list[set[bytes]] = []

    def move(self, entry: Entry, event: Event, phase: Phase) -> None:
        """Makes every change of a phase. Raises ImpossibleTransition."""
        if not ALLOWED[event][entry.phase] >> phase & 1:  # looked up here: it is done four times per job
            self._damaged()
            check(event, entry.phase, phase)
        entry.phase = phase

    def has(self, entry: Entry) -> bool:
        """Whether it is still the present entry of its job: a takeover or a later claim may have replaced it."""
        return self.by_job.get(entry.job_id) is entry

    # -- shards ------------------------------------------------------------------------------
    def open_shard(self, shard: Shard) -> None:
        """Opens a shard that was taken over, under a new epoch. Nothing of an older epoch remains in memory.

        Every registered worker must confirm: those registered before the takeover, and those that have registered
        with this coordinator while it read them (A5).
        """
        self.close_shard(shard.number)
        self.limits.shut()
        shard.unconfirmed = {worker for worker, record in self.workers.items() if not record.sessionless}
        if shard.unconfirmed and not shard.clean:
            shard.suspects = Counter()
        self.shards[shard.number] = shard

    def close_shard(self, number: int) -> None:
        """Forgets a shard that has another owner, or that is about to be opened again."""
        if self.shards.pop(number, None) is None:
            return
        for entry in [e for e in self.by_job.values() if e.shard == number]:
            if entry.phase in _IN_WAITING:
                self.waiting.remove(entry)
            self._forget(entry, Event.FORGOTTEN)
        for key in [k for k, lane in self.lanes.items() if lane.shard == number]:
            del self.lanes[key]
        self.outbox = [e for e in self.outbox if e.shard != number]
        self.adopted = [e for e in self.adopted if e.shard != number]

    # -- admission ---------------------------------------------------------------------------
    def admit(self, entry: Entry, *, in_doubt: bool) -> None:
        """Admits a job from a page, an offer or a due row. `in_doubt`: it stays in doubt until its shard has settled.

        After an unclean takeover the first jobs of each lane stay in doubt even if their shard has settled: a worker
        may be proved dead before the lanes are read, and their lease rows must be written first (A12).
        """
        self.by_job[entry.job_id] = entry
        self.waiting.add(entry)
        if entry.limit_key:
            self.limits.attach(entry)
        shard = self.shards[entry.shard]
        entry.lease_first = in_doubt and self._is_suspect(shard, entry.key)
        if entry.lease_first or (in_doubt and not shard.settled):
            self.move(entry, Event.ADMITTED, Phase.IN_DOUBT)
            shard.in_doubt[entry.job_id] = entry
        else:
            self._queue(entry, Event.ADMITTED)

    def _is_suspect(self, shard: Shard, key: LaneKey) -> bool:
        """Whether the former owner can have had the job in memory: only the first `depth` jobs of a lane, and the first
        `depth` due ones."""
        if shard.suspects is None or shard.suspects[key] >= 2 * self.depth:
            return False
        shard.suspects[key] += 1
        return True

    def admit_unread(self, entry: Entry, *, cancel_reason: str | None = None) -> None:
        """Admits a job that is not in memory and must end at once. If its lane reads it later, the lane ignores it.

        `cancel_reason`: it ends by a cancel with this reason, which may be empty.
        """
        if cancel_reason is not None:
            entry.cancelling, entry.cancel_reason = True, cancel_reason
        self.move(entry, Event.ADMITTED, Phase.QUEUED)
        lane = self.lanes.get(entry.key)
        if entry.unread and lane is not None:
            lane.drop(entry.job_id)
        self.by_job[entry.job_id] = entry
        self.waiting.add(entry)

    def restore(self, entry: Entry) -> None:
        """Admits a job from a row of `leases` that a takeover read: a worker may have the attempt."""
        self.move(entry, Event.RESTORED, Phase.IN_DOUBT)
        entry.leased, entry.lease_first = True, True
        self.limits.attach(entry)
        self.by_job[entry.job_id] = entry
        self.waiting.add(entry)
        self.shards[entry.shard].in_doubt[entry.job_id] = entry

    def complete(self, entry: Entry, facts: Facts) -> None:
        """Adds the facts of an adopted attempt."""
        entry.key, entry.spec, entry.tries = facts.key, facts.spec, facts.tries
        entry.due, entry.due_us, entry.run_at_us, entry.leased = facts.due, facts.due_us, facts.run_at_us, facts.leased
        entry.fenced = facts.fenced
        entry.limit_key, entry.limited = facts.limit_key, facts.limited

    def read_once_more(self, lane: Lane, entry: Entry) -> None:
        """Adds the place in its lane to a job that was admitted by a worker's claim or a lease row."""
        if not entry.key.queue:
            entry.key = lane.key
        if entry.leased or entry.due:
            lane.close((entry.job_id,))

    # -- to the queue service ----------------------------------------------------------------
    def enqueue(self, entry: Entry) -> None:
        """Feeds an attempt that no worker has, under a new exec_id; blocks it if its limit has no permit."""
        if entry.phase is Phase.TAKEN:
            self._unassign(entry)
            self.waiting.add(entry)
        self._queue(entry, Event.ENQUEUED)

    def _queue(self, entry: Entry, event: Event) -> None:
        shard = self.shards[entry.shard]
        shard.in_doubt.pop(entry.job_id, None)
        if entry.exec_id:
            self.by_exec.pop(entry.exec_id, None)
        entry.worker, entry.started, entry.void_asked = b"", False, False
        entry.executor_lease, entry.expiring, entry.leaving, entry.yielding = None, False, False, False
        if entry.limit is not None and not self.limits.keeps(entry):
            self.move(entry, event, Phase.BLOCKED)
            entry.exec_id = b""
            self.waiting.remove(entry)
            self.limits.block(entry)
            return
        self.move(entry, event, Phase.QUEUED)
        entry.exec_id = self._token(shard.number, shard.epoch)
        self.by_exec[entry.exec_id] = entry
        self.outbox.append(entry)

    def fed(self, entries: Iterable[Entry]) -> None:
        """The queue service now has the payloads. One is loaded again if its job is fed once more."""
        for entry in entries:
            entry.first = False
            entry.fed = bool(entry.spec.payload)
            entry.spec.ClearField("payload")

    def drop_payload(self, entry: Entry) -> None:
        """Drops the payload of a job that may wait for long; it is loaded again, as after a return."""
        entry.spec.ClearField("payload")
        entry.fed = True

    def payload_loaded(self, entry: Entry, payload: bytes) -> None:
        """Feeds an entry once more, with its payload."""
        entry.spec.payload, entry.fed = payload, False
        self.outbox.append(entry)

    # -- removal from the queue service ------------------------------------------------------
    def make_room(self, keys: Collection[LaneKey]) -> Effects:
        """Removes the waiting jobs of these lanes from memory; they wait in Postgres. Entries with facts that only
        memory has stay."""
        leaving = [entry for entry in self.by_job.values() if entry.key in keys and self._can_leave(entry)]
        if leaving:
            for key in keys:  # a later sweep finds the lanes again, and reads from their marks
                self.lanes.pop(key, None)
            for entry in leaving:
                entry.leaving = True
        return self._take_out(leaving)

    def _can_leave(self, entry: Entry) -> bool:
        known = entry.leased or entry.handouts or entry.cancelling or entry.leaving
        known = known or (entry.due_tried and not entry.due)  # whether it has a row in `deferred`
        return entry.phase is Phase.QUEUED and not known and self.shards[entry.shard].settled

    def expire(self, entries: Iterable[Entry]) -> Effects:
        """Ends jobs whose `start_by` has passed, unless a worker has taken them before (R7)."""
        expiring = [entry for entry in entries if entry.phase in (Phase.QUEUED, Phase.BLOCKED)]
        for entry in expiring:
            entry.expiring = True
        return self._take_out(expiring)

    def _take_out(self, entries: Collection[Entry]) -> Effects:
        """Removes at once the entries that the queue service does not have. It is asked for the others, and answers
        `removed`, or reports which worker took them."""
        if not entries:
            return Effects()
        here = {id(entry) for entry in self.outbox}
        here.update(id(entry) for entry in entries if entry.phase is Phase.BLOCKED)
        if any(entry.leaving for entry in entries):
            self.outbox = [entry for entry in self.outbox if not entry.leaving]
        effects = self.removed([entry for entry in entries if id(entry) in here])
        effects.take_out += [entry.exec_id for entry in entries if id(entry) not in here]
        return effects

    def removed(self, entries: Iterable[Entry]) -> Effects:
        """Handles entries that the queue service has removed, and that no worker took."""
        effects = Effects()
        for entry in entries:
            if entry.expiring:
                effects.ends.append(End(entry, Outcome.CANCELLED, "expired"))
            elif entry.cancelling:
                effects.ends.append(End(entry, Outcome.CANCELLED, "cancelled"))
            elif entry.yielding:
                self.yielded(entry)
            elif entry.leaving:
                self._withdraw(entry)
            else:
                self.enqueue(entry)  # its cancel was revoked meanwhile
        return effects

    def yielded(self, entry: Entry) -> None:
        """Frees the permit of an entry that the queue service does not have."""
        if entry.phase is Phase.QUEUED:  # else a takeover came between
            self.limits.leave(entry)
            self.enqueue(entry)

    def _withdraw(self, entry: Entry) -> None:
        """Removes an entry to make room: its lane, or its row in `deferred`, will be read again."""
        lane = self.lanes.get(entry.key)
        if not entry.due and lane is not None and lane.holds(entry.job_id):
            self.enqueue(entry)  # its lane has read past it meanwhile
            return
        self.waiting.remove(entry)
        self._forget(entry, Event.LEFT)
        self.limits.read_again(entry)
        if entry.due:
            self.due_left.add((entry.shard, entry.key))

    # -- rows in Postgres --------------------------------------------------------------------
    def writing_lease(self, entries: Iterable[Entry]) -> None:
        """Call before their rows of `leases` are written: after a commit in doubt, their outcomes delete the rows."""
        for entry in entries:
            entry.lease_tried = True

    def leased(self, entry: Entry, progress: Any = None) -> None:
        """Its row of `leases` is committed, with this progress: the attempt no longer holds its lane's mark."""
        entry.leased, entry.lease_written = True, progress
        lane = self.lanes.get(entry.key)
        if lane is not None:
            lane.close((entry.job_id,))

    def writing_deferred(self, entries: Iterable[Entry]) -> None:
        """As `writing_lease`, for rows of `deferred`."""
        for entry in entries:
            entry.due_tried = True

    def deferred(self, entry: Entry, *, leaves: bool) -> None:
        """A blocked job has its row in `deferred`. `leaves`: it leaves memory and waits only there."""
        entry.due = True
        lane = self.lanes.get(entry.key)
        if leaves:
            self.finish(entry)
        elif lane is not None:
            lane.close((entry.job_id,))

    # -- ends --------------------------------------------------------------------------------
    def end(self, entry: Entry, commit: Any = None) -> None:
        """Its outcome is decided. `commit` is done once it is written; until then no event changes the entry."""
        before = entry.phase
        self.move(entry, Event.ENDED, Phase.ENDING)
        entry.commit = commit
        if before in _IN_WAITING:
            self.waiting.remove(entry)
            self.shards[entry.shard].in_doubt.pop(entry.job_id, None)
        elif before is Phase.BLOCKED:
            self.limits.leave(entry)

    def finish(self, entry: Entry) -> None:
        """Its outcome is committed: the job is final, or waits in `deferred`."""
        if entry.phase is Phase.GONE:
            return  # a takeover came between
        lane = self.lanes.get(entry.key)
        if lane is not None:
            if (lane.catching_up or entry.unread) and not lane.holds(entry.job_id):
                lane.drop(entry.job_id)  # a page read before the commit may still bring it
            lane.close((entry.job_id,))
        self._forget(entry, Event.LEFT)

    def discard(self, entry: Entry) -> None:
        """Drops an adopted attempt that turned out to be recorded."""
        if entry.phase is not Phase.GONE:
            self._forget(entry, Event.FORGOTTEN)

    @contextmanager
    def departures(self) -> Iterator[set[bytes]]:
        """Collects the jobs that leave memory during a read: a row of theirs that was read before belongs to an attempt
        that has ended, and must not run again (A3)."""
        left: set[bytes] = set()
        self._departures.append(left)
        try:
            yield left
        finally:
            # Not `remove`, which compares by value: the empty set of another read in progress is equal to this one.
            self._departures = [each for each in self._departures if each is not left]

    def _forget(self, entry: Entry, event: Event) -> None:
        self.move(entry, event, Phase.GONE)
        for departed in self._departures:
            departed.add(entry.job_id)
        self._unassign(entry)
        if entry.limit is not None:
            self.limits.leave(entry)
        if self.by_exec.get(entry.exec_id) is entry:
            del self.by_exec[entry.exec_id]
        if self.by_job.get(entry.job_id) is entry:
            del self.by_job[entry.job_id]

    def _unassign(self, entry: Entry) -> None:
        """Removes an entry from its worker's record."""
        record = self.workers.get(entry.worker)
        if record is not None:
            record.entries.pop(entry.exec_id, None)
            if record.sessionless and not record.entries:
                del self.workers[entry.worker]
