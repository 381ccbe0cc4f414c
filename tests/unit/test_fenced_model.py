"""The real table, and a model of Postgres, under random stops, takeovers and commits in doubt (protocol A17).

Handlers fence transactions at any time, also those whose workers were declared lost. Checked at each commit:

- the attempt has not ended;
- no later hand-out of its job was made.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core import ids
from taskflow_server.core.dispatch.effects import Effects
from taskflow_server.core.dispatch.records import Claim, Entry, Facts, Shard, WorkerRecord
from taskflow_server.core.dispatch.table import VOID_AFTER, DispatchTable
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.lanes import LaneKey
from tests.support.tier import size

KEY = LaneKey("q", "", 5)
JOBS = 3


@dataclass(frozen=True)
class LeaseRow:
    exec_id: bytes
    attempt: int
    started: bool
    fenced: bool | None


@dataclass
class ModelWorker:
    name: bytes
    epoch: int  # the highest that it has confirmed
    running: dict[bytes, tuple[bytes, int]] = field(default_factory=dict)  # exec_id -> job, attempt
    voided: set[bytes] = field(default_factory=set)
    beating: bool = True  # not stopped, and not cut off


class Postgres:
    """The tables, and users' transactions that hold rows of `leases`."""

    def __init__(self) -> None:
        self.leases: dict[bytes, LeaseRow] = {}
        self.attempts: set[tuple[bytes, int]] = set()
        self.in_flight: dict[bytes, LeaseRow] = {}  # commits of unknown fate, not visible yet
        self.open: list[tuple[bytes, bytes, int]] = []  # job, exec_id, attempt

    def put_lease(self, job: bytes, row: LeaseRow) -> None:
        if job in self.in_flight:  # the unique index makes the next one wait for it
            self.settle(job, applied=True)
        before = self.leases.get(job)
        if before is not None and before.exec_id == row.exec_id and before.fenced is not None:
            row = replace(row, fenced=before.fenced)
        self.leases[job] = row

    def settle(self, job: bytes, *, applied: bool) -> None:
        row = self.in_flight.pop(job)
        if applied:
            self.put_lease(job, row)

    def has_ended(self, job: bytes, attempt: int) -> bool:
        return any((job, number) in self.attempts for number in range(attempt, attempt + 50))

    def is_current(self, job: bytes, exec_id: bytes) -> bool:
        """As taskflow.assert_current."""
        row = self.leases.get(job)
        if row is None or row.exec_id != exec_id or not row.started or not row.fenced:
            return False
        return not self.has_ended(job, row.attempt)

    def is_held(self, job: bytes) -> bool:
        """By a user's transaction, or by a commit in doubt that has updated the row."""
        return job in self.leases and (job in self.in_flight or any(held == job for held, _, _ in self.open))


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbers = itertools.count(1)
        self.names = itertools.count(1)
        self.now, self.epoch = 0.0, 1
        self.db = Postgres()
        self.workers: list[ModelWorker] = []
        self.last: dict[bytes, bytes] = {}  # by job: the exec_id that a worker was given last
        self.answers: list[tuple[ModelWorker, bytes, bytes, int]] = []  # polls' answers on their way
        self.endings: list[Entry] = []  # decided, not written
        self.commits = 0
        self.table = self.new_table([])
        self.table.open_shard(Shard(0, 1, 0, clean=True))
        for _ in range(2):
            self.join()
        for number in range(JOBS):
            self.table.admit(Entry(bytes([number]), KEY, 0, 1, 0, spec=""), in_doubt=False)

    def new_table(self, registered: list[bytes]) -> DispatchTable:
        table = DispatchTable(lambda shard, epoch: ids.exec_id(shard, epoch, next(self.numbers), 7), depth=100)
        table.workers = {name: WorkerRecord(name, 0.0) for name in registered}
        return table

    # -- the coordinator ---------------------------------------------------------------------
    def perform(self, effects: Effects) -> None:
        for end in effects.ends:
            self.end(end.entry)
        if effects.lease_first:
            counted = self.table.lease_first_writing(effects.lease_first)
            assert len(counted) <= len(effects.lease_first)
            for entry in effects.lease_first:
                self.db.put_lease(entry.job_id, LeaseRow(entry.exec_id, entry.attempt, entry.started, None))
            self.table.writing_lease(effects.lease_first)
            self.table.lease_first_written(effects.lease_first)

    def end(self, entry: Entry) -> None:
        self.table.end(entry)
        self.endings.append(entry)

    def write(self) -> None:
        """One transaction; the ends that it cannot write are put off, and their fences closed."""
        endings, self.endings = self.endings, []
        for entry in endings:
            job = entry.job_id
            if (entry.leased or entry.lease_tried) and self.db.is_held(job):
                if job in self.db.in_flight:  # closing the fence waits for it
                    self.db.settle(job, applied=self.rng.random() < 0.8)
                self.db.leases[job] = replace(self.db.leases[job], fenced=False)
                self.endings.append(entry)
                continue
            if entry.lease_tried and not entry.leased and job in self.db.in_flight:
                self.db.settle(job, applied=self.rng.random() < 0.8)  # its own row of the same key waits for that one
            self.db.attempts.add((job, entry.attempt))
            if entry.leased or entry.lease_tried:
                self.db.leases.pop(job, None)
            self.table.finish(entry)
            self.table.admit(Entry(job, KEY, 0, entry.attempt + 1, 0, spec=""), in_doubt=False)

    def terminate(self) -> None:
        held = {entry.job_id for entry in self.endings}
        self.db.open = [each for each in self.db.open if each[0] not in held]

    def take_over(self) -> None:
        """Commits in doubt of the former owner are decided: its fence has waited, or fails."""
        self.epoch += 1
        for job in list(self.db.in_flight):
            self.db.settle(job, applied=self.rng.random() < 0.5)
        self.endings.clear()
        self.table = self.new_table(list(self.table.workers))
        self.table.open_shard(Shard(0, self.epoch, 0, clean=self.rng.random() < 0.5))
        for job, row in self.db.leases.items():
            fenced = row.fenced is not None
            self.table.restore(
                Entry(job, KEY, 0, row.attempt, 0, spec="", exec_id=row.exec_id, started=row.started, fenced=fenced)
            )
        for number in range(JOBS):
            job = bytes([number])
            if job not in self.db.leases:
                attempt = 1 + max((n for j, n in self.db.attempts if j == job), default=0)
                self.table.admit(Entry(job, KEY, 0, attempt, 0, spec=""), in_doubt=True)
        self.settle()

    def settle(self) -> None:
        for entry in self.table.adopted:
            if self.db.has_ended(entry.job_id, entry.attempt):
                self.table.discard(entry)
                continue
            row = self.db.leases.get(entry.job_id)
            fenced = row is not None and row.fenced is not None
            self.table.complete(entry, Facts(KEY, "", 0, False, 0, 0, row is not None, fenced, "", False))
            if entry.phase is Phase.TAKEN and entry.worker not in self.table.workers:
                self.end(entry)
        self.table.adopted.clear()
        self.perform(self.table.settle())

    # -- hand-outs ---------------------------------------------------------------------------
    def hand_out(self) -> None:
        waiting = [e for e in self.table.by_exec.values() if e.phase is Phase.QUEUED]
        if waiting and self.workers:
            entry, worker = self.rng.choice(waiting), self.rng.choice(self.workers)
            exec_id, attempt = entry.exec_id, entry.attempt
            self.last[entry.job_id] = exec_id
            self.answers.append((worker, exec_id, entry.job_id, attempt))
            self.perform(self.table.took(worker.name, [exec_id], self.now))  # it comes back where that is lost already

    def answer(self) -> None:
        if self.answers:
            worker, exec_id, job, attempt = self.answers.pop(self.rng.randrange(len(self.answers)))
            delivered = self.rng.random() < 0.9
            if delivered and ids.shard_and_epoch(exec_id)[1] >= worker.epoch and exec_id not in worker.voided:
                worker.running[exec_id] = (job, attempt)

    # -- handlers ----------------------------------------------------------------------------
    def handler(self) -> tuple[ModelWorker, bytes, bytes, int] | None:
        found = [(w, e, *what) for w in self.workers for e, what in w.running.items()]
        return self.rng.choice(found) if found else None

    def start(self) -> None:
        """A handler has its start put on disk; the conditions are those of `FencedStarts`."""
        if (chosen := self.handler()) is None:
            return
        worker, exec_id, job, attempt = chosen
        entry = self.table.by_exec.get(exec_id)
        registered = worker.name in self.table.workers
        if entry is None or entry.phase is not Phase.TAKEN or entry.worker != worker.name or not registered:
            return
        self.table.running(entry)
        self.table.writing_lease([entry])
        self.table.fence([entry])
        row = LeaseRow(exec_id, attempt, started=True, fenced=True)
        fate = self.rng.random()
        if fate < 0.8:
            self.db.put_lease(job, row)
            self.table.leased(entry)
        elif fate < 0.95 and job not in self.db.in_flight:
            self.db.in_flight[job] = row

    def decide_commit(self) -> None:
        if self.db.in_flight:
            job = self.rng.choice(sorted(self.db.in_flight))
            self.db.settle(job, applied=self.rng.random() < 0.8)

    def begin(self) -> None:
        if (chosen := self.handler()) is not None:
            _, exec_id, job, attempt = chosen
            if self.db.is_current(job, exec_id):
                self.db.open.append((job, exec_id, attempt))

    def commit(self) -> None:
        if self.db.open:
            job, exec_id, attempt = self.db.open.pop(self.rng.randrange(len(self.db.open)))
            assert not self.db.has_ended(job, attempt), "a stale write"
            assert self.last[job] == exec_id, "the job was handed out again meanwhile"
            self.commits += 1

    def report(self) -> None:
        if (chosen := self.handler()) is not None:
            worker, exec_id, _, _ = chosen
            entry = self.table.by_exec.get(exec_id)
            if entry is not None and entry.phase is Phase.TAKEN and entry.spec is not None:
                del worker.running[exec_id]
                if self.rng.random() < 0.2:  # it says that it has not started
                    self.perform(self.table.returned([entry]))
                else:
                    self.end(entry)

    # -- workers -----------------------------------------------------------------------------
    def beat(self) -> None:
        beating = [w for w in self.workers if w.beating and w.name in self.table.workers]
        if not beating:
            return
        worker = self.rng.choice(beating)
        claims = [Claim(e, job, n, 0, started=True, finished=False) for e, (job, n) in worker.running.items()]
        worker.epoch = self.epoch
        effects = self.table.heartbeat(worker.name, {0: self.epoch}, claims, set(worker.voided), self.now)
        worker.voided |= {exec_id for exec_id in effects.void if exec_id not in worker.running}
        self.perform(effects)
        self.settle()

    def fall_silent(self) -> None:
        self.rng.choice(self.workers).beating = False

    def lease_ends(self) -> None:
        for worker in [w for w in self.workers if not w.beating and w.name in self.table.workers]:
            self.perform(self.table.worker_lost(worker.name))
        self.settle()

    def join(self) -> None:
        """A worker; one that was lost is back under a new id, with the handlers of the old one still running."""
        if sum(w.name in self.table.workers for w in self.workers) < 3:
            worker = ModelWorker(bytes([next(self.names) % 250]), self.epoch)
            self.workers.append(worker)
            self.table.workers[worker.name] = WorkerRecord(worker.name, 0.0)

    def pass_time(self) -> None:
        self.now += VOID_AFTER

    def run(self, steps: int) -> None:
        events = [
            (self.hand_out, 10), (self.answer, 12), (self.start, 12), (self.begin, 14), (self.commit, 10),
            (self.report, 4), (self.write, 10), (self.terminate, 0.5), (self.take_over, 0.7), (self.beat, 10),
            (self.fall_silent, 0.8), (self.lease_ends, 2), (self.join, 1), (self.pass_time, 3), (self.decide_commit, 2),
        ]  # fmt: skip
        actions, weights = zip(*events, strict=True)
        for action in self.rng.choices(actions, weights, k=steps):
            action()


@pytest.mark.feature("A17", "M.8")
@pytest.mark.longer
@settings(max_examples=size(300, 5000), deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_a_fenced_transaction_commits_for_the_present_attempt_only(seed: int) -> None:
    World(seed).run(600)


@pytest.mark.feature("A17")
@pytest.mark.parametrize("part", ["is_held", "fence"])
def test_the_model_sees_when_a_part_of_the_rule_is_missing(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An end that does not wait for transactions; a return of a fenced attempt that leaves no row."""
    owner = Postgres if part == "is_held" else DispatchTable
    monkeypatch.setattr(owner, part, lambda *_: None)
    with pytest.raises(AssertionError, match=r"a stale write|handed out again"):
        for seed in range(100):
            World(seed).run(600)


def test_the_model_commits_many_transactions_and_records_many_attempts() -> None:
    worlds = [World(seed) for seed in range(20)]
    for world in worlds:
        world.run(600)
    assert sum(world.commits for world in worlds) > 200
    assert sum(len(world.db.attempts) for world in worlds) > 100
