"""The real table with limits under random jobs, workers, takeovers and changes of a limit (protocol B4).

A world of one queue service, a few workers and owners that follow each other. Checked whenever a handler starts: no
more jobs of a limited task run at once than its limit allows, or than ran when it was lowered. In each state: what is
handed out has a permit, and nothing else has one; a job without a limit never waits for a permit; a job that a former
owner may have handed out has its lease row before it is handed out again (A12). The limit comes and goes. When the
faults stop, every job ends.

Each rule can be broken (`Rules`); the model then has to find a fault, or it could not see the rule.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core import ids
from taskflow_server.core.dispatch.limits import Limits, beyond
from taskflow_server.core.dispatch.permits import Permits
from taskflow_server.core.dispatch.records import FIRST, Claim, Entry, Shard, WorkerRecord, order_of
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.lanes import LaneKey

NARROW = "task:narrow"
DEPTH = 2


@dataclass(frozen=True)
class Rules:
    awaits: bool = True  # after a takeover no permit is given until it is known what runs
    counts: bool = True  # a job that a worker claims has a permit
    yields: bool = True  # a lowered limit takes back what no worker has


@dataclass
class Worker:
    name: bytes
    epoch: int = 0
    running: dict[bytes, bytes] = field(default_factory=dict)  # exec_id -> job


class World:
    def __init__(self, seed: int, rules: Rules) -> None:
        self.rng, self.rules = random.Random(seed), rules
        self.numbers = itertools.count(1)
        self.limit: int | None = self.rng.choice([1, 2, 3])
        self.allowed = self.limit or 0
        self.jobs: dict[bytes, LaneKey] = {}
        self.limited: set[bytes] = set()
        self.attempt: Counter[bytes] = Counter()
        self.done: set[bytes] = set()
        self.unread: list[bytes] = []
        self.stored: set[bytes] = set()  # rows that name the limit
        self.suspects: set[bytes] = set()  # to be handed out once their lease rows are written
        self.queue: dict[bytes, bytes] = {}
        self.told: list[tuple[Worker, bytes]] = []  # who took what, on its way to the owner
        self.workers = [self.new_worker() for _ in range(3)]
        self.epoch = 0
        self.take_over()

    def new_worker(self) -> Worker:
        return Worker(bytes([next(self.numbers) % 256, 1]))

    # -- the owner ---------------------------------------------------------------------------
    def take_over(self) -> None:
        self.epoch += 1
        self.table = DispatchTable(
            lambda shard, epoch: ids.exec_id(shard, epoch, next(self.numbers), 7),
            depth=1000, limits=Limits(lambda: None, lambda: None),
        )  # fmt: skip
        self.permits = Permits(self.table)
        self.permits.change({NARROW: self.limit} if self.limit else {})
        for worker in self.workers:
            self.table.workers[worker.name] = WorkerRecord(worker.name, 0.0)
        self.table.open_shard(Shard(0, self.epoch, 0, clean=self.rng.random() < 0.3))
        self.suspects.clear()
        self.before = set(self.jobs)
        self.unread = [job for job in self.jobs if job not in self.done and job not in self.stored]
        self.rng.shuffle(self.unread)
        self.queue.clear()
        self.told.clear()
        if not self.rules.awaits:
            self.table.limits.begin()
        self.pump()

    def entry(self, job: bytes) -> Entry:
        entry = Entry(job, self.jobs[job], 0, self.attempt[job] + 1, 0, spec="")
        entry.limit_key = NARROW if job in self.limited else ""
        return entry

    def read(self) -> None:
        for _ in range(min(len(self.unread), self.rng.randint(1, 4))):
            job = self.unread.pop()
            if job not in self.table.by_job and job not in self.done:
                self.admit(self.entry(job))
        self.pump()

    def admit(self, entry: Entry) -> None:
        self.table.admit(entry, in_doubt=entry.job_id in self.before)
        if entry.lease_first:
            self.suspects.add(entry.job_id)

    def settle(self) -> None:
        effects = self.table.settle()
        assert not effects.ends
        self.suspects.difference_update(entry.job_id for entry in effects.lease_first)
        self.table.lease_first_written(effects.lease_first)

    def pump(self) -> None:
        """Does the work of all loops of a coordinator at once."""
        table, limits = self.table, self.table.limits
        for entry in table.adopted:
            entry.key, entry.spec = self.jobs[entry.job_id], ""
            entry.limit_key = NARROW if entry.job_id in self.limited else ""
            if self.rules.counts:
                self.permits.count(entry)
            if entry.phase is Phase.TAKEN and entry.worker not in table.workers:  # lost before its facts were known
                self.lose(entry)
        table.adopted.clear()
        self.settle()
        self.permits.begin()
        limits.changed.clear()
        for limit in limits:
            if limits.open and (limit.stored is FIRST or (limit.stored and 2 * len(limit.blocked) < DEPTH)):
                self.fill(limit)
            _, back = self.permits.give(limit)
            for entry in back if self.rules.yields else ():
                if self.queue.pop(entry.exec_id, None) is not None:
                    self.table.yielded(entry)
            self.store(limit)
        self.settle()
        entries, table.outbox = table.outbox, []
        for entry in entries:
            if entry.phase is Phase.QUEUED and entry.yielding:
                self.table.yielded(entry)
            elif entry.phase is Phase.QUEUED:
                self.queue[entry.exec_id] = entry.job_id
        self.check()

    def fill(self, limit) -> None:  # type: ignore[no-untyped-def]
        most = DEPTH + len(limit.blocked) + len(limit.holders)
        rows = sorted(self.stored, key=lambda job: (-self.jobs[job].priority, job))
        for job in rows[:most]:
            if job not in self.table.by_job:
                entry = self.entry(job)
                entry.due = True
                self.admit(entry)
        limit.stored = None if len(rows) < most else order_of(self.entry(rows[most - 1]))

    def store(self, limit) -> None:  # type: ignore[no-untyped-def]
        alone, also = beyond(limit, DEPTH, float("inf") if self.rng.random() < 0.3 else -1.0)
        for entry in (*alone, *also):
            self.stored.add(entry.job_id)
            if entry in alone and limit.stored is not FIRST:
                limit.stored = min(limit.stored or order_of(entry), order_of(entry))
            self.table.deferred(entry, leaves=entry in alone)

    def check(self) -> None:
        handed_out = (Phase.QUEUED, Phase.TAKEN, Phase.ENDING)
        narrow = next(iter(self.table.limits), None)
        for entry in self.table.by_job.values():
            if entry.job_id not in self.limited:
                assert entry.phase is not Phase.BLOCKED, "without a limit, and it waits for a permit"
            elif narrow is None:
                assert entry.limit is None and entry.phase is not Phase.BLOCKED, "its limit is gone"
            elif self.rules.counts:
                has = entry in narrow.holders
                assert has == (entry.phase in handed_out) or entry.phase is Phase.IN_DOUBT, "a permit and no hand-out"
                assert (entry in narrow.blocked) == (entry.phase is Phase.BLOCKED)
            if entry.phase is Phase.TAKEN:
                self.suspects.discard(entry.job_id)  # its worker has claimed it
            elif entry.phase is Phase.QUEUED:
                assert entry.job_id not in self.suspects, "handed out without its lease row"
        with_limit = (*narrow.holders, *narrow.blocked) if narrow is not None else ()
        assert all(self.table.by_job.get(e.job_id) is e for e in with_limit), "a permit kept"
        assert self.table.limits.blocked == (len(narrow.blocked) if narrow is not None else 0)
        if self.limit is not None and self.running() <= self.limit:
            self.allowed = self.limit

    def running(self) -> int:
        return len(self.limited.intersection(job for w in self.workers for job in w.running.values()))

    # -- events ------------------------------------------------------------------------------
    def submit(self) -> None:
        job = next(self.numbers).to_bytes(16, "big")
        self.jobs[job] = LaneKey("q", "t", self.rng.choice([3, 5]))
        if self.rng.random() < 0.7:
            self.limited.add(job)
        self.table.admit(self.entry(job), in_doubt=False)
        self.pump()

    def poll(self) -> None:
        if self.queue:
            worker = self.rng.choice(self.workers)
            exec_id = self.rng.choice(sorted(self.queue))
            job = self.queue.pop(exec_id)
            if worker.epoch > ids.shard_and_epoch(exec_id)[1]:
                return
            worker.running[exec_id] = job
            self.told.append((worker, exec_id))
            if job in self.limited and self.limit is not None:
                assert self.running() <= self.allowed, "more than the limit run at once"

    def hear_took(self) -> None:
        if self.told:
            worker, exec_id = self.told.pop(0)
            self.table.took(worker.name, [exec_id], 0.0)
            self.pump()

    def beat(self) -> None:
        worker = self.rng.choice(self.workers)
        worker.epoch = self.epoch
        claims = [Claim(e, j, self.attempt[j] + 1, 0, started=True, finished=False) for e, j in worker.running.items()]
        self.table.heartbeat(worker.name, {0: self.epoch}, claims, (), 0.0)
        self.pump()

    def end(self) -> None:
        worker = self.rng.choice(self.workers)
        for exec_id, job in list(worker.running.items())[:1]:
            entry = self.table.by_exec.get(exec_id)
            if entry is None or entry.spec is None:
                return  # it keeps its outcome
            while any(told == exec_id for _, told in self.told):
                self.hear_took()
            del worker.running[exec_id]
            self.table.end(entry)
            self.check()
            self.attempt[job] += 1
            self.stored.discard(job)
            self.suspects.discard(job)
            if self.rng.random() < 0.8:
                self.done.add(job)
            else:
                self.unread.append(job)  # a retry, after its time
            self.table.finish(entry)
            self.pump()

    def cancel(self) -> None:
        waiting = [e for e in self.table.by_job.values() if e.phase is Phase.BLOCKED]
        if waiting:
            entry = self.rng.choice(waiting)
            self.table.end(entry)
            self.table.finish(entry)
            self.done.add(entry.job_id)
            self.stored.discard(entry.job_id)
            self.pump()

    def lose(self, entry: Entry) -> None:
        self.attempt[entry.job_id] += 1
        entry.attempt += 1
        self.table.enqueue(entry)

    def worker_dies(self) -> None:
        worker = self.rng.choice(self.workers)
        self.workers.remove(worker)
        while self.told:
            self.hear_took()
        for end in self.table.worker_lost(worker.name).ends:
            self.lose(end.entry)
        self.workers.append(self.new_worker())
        self.table.workers[self.workers[-1].name] = WorkerRecord(self.workers[-1].name, 0.0)
        self.workers[-1].epoch = self.epoch
        self.pump()

    def change(self) -> None:
        self.limit = self.rng.choice([1, 2, 3, None])
        self.allowed = max(self.running(), self.limit or 0)
        self.permits.change({NARROW: self.limit} if self.limit else {})
        if self.limit is None:  # the rows are due like others
            self.unread += [job for job in self.stored if job not in self.table.by_job]
            self.stored.clear()
        self.pump()

    def run(self, steps: int) -> None:
        events = {
            self.submit: 10, self.poll: 20, self.hear_took: 15, self.beat: 15, self.end: 15, self.read: 10,
            self.cancel: 2, self.worker_dies: 2, self.change: 2, self.take_over: 2,
        }  # fmt: skip
        for event in self.rng.choices(list(events), weights=list(events.values()), k=steps):
            event()
        for _ in range(200 * len(self.jobs)):
            if self.done == set(self.jobs):
                break
            self.rng.choice([self.poll, self.hear_took, self.beat, self.end, self.read])()
        assert self.done == set(self.jobs), "a job never ends"


@pytest.mark.feature("B4")
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_a_limit_holds_whatever_happens_and_every_job_ends(seed: int) -> None:
    World(seed, Rules()).run(120)


@pytest.mark.parametrize("broken", ["awaits", "counts", "yields"])
def test_the_model_sees_each_rule(broken: str) -> None:
    with pytest.raises(AssertionError):
        for seed in range(300):
            World(seed, Rules(**{broken: False})).run(120)
