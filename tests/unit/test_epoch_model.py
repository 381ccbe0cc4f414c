"""The real table under random messages, deaths and takeovers (protocol A5, A6, A7, A8).

Messages wait in a bag and arrive in any order, late, or never. Owners and the queue service are replaced, workers
die. A worker's list holds what it runs and what it has finished without an acknowledgement. Checked:

- no job runs in two live workers at once;
- a job starts again only if a worker that had it died;
- each job gets exactly one accepted outcome, and none after it;
- when the faults stop, every job ends.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core import ids
from taskflow_server.core.dispatch.records import Claim, Entry, Shard, WorkerRecord
from taskflow_server.core.dispatch.table import VOID_AFTER, DispatchTable
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.lanes import LaneKey
from tests.support.tier import size

KEY = LaneKey("q", "", 5)


@dataclass
class ModelWorker:
    name: bytes
    alive: bool = True
    epoch: int = 0  # the highest that it has confirmed
    running: dict[bytes, bytes] = field(default_factory=dict)  # exec_id -> job
    unacked: dict[bytes, bytes] = field(default_factory=dict)
    voided: set[bytes] = field(default_factory=set)

    def have(self) -> dict[bytes, bytes]:
        return {**self.running, **self.unacked}


class World:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbers = itertools.count(1)
        self.now = 0.0
        self.epoch = 1
        self.jobs: set[bytes] = set()
        self.unread: set[bytes] = set()  # committed, not yet read by the present owner
        self.outcome: dict[bytes, bytes] = {}
        self.workers = [ModelWorker(bytes([n])) for n in range(self.rng.choice([1, 2, 3]))]
        self.queue: dict[bytes, bytes] = {}
        self.queue_epoch = 1
        self.bag: list[Callable[[], None]] = []
        self.must_arrive: set[Callable[[], None]] = set()  # of one reliable stream: its loss is a takeover
        self.starts: dict[bytes, int] = {}
        self.excused: dict[bytes, int] = {}
        self.held_tasks: list[tuple[bytes, bytes]] = []  # (worker, job) of answers under way
        self.table = self.new_table({w.name for w in self.workers})
        self.open()

    def token(self, shard: int, epoch: int) -> bytes:
        return ids.exec_id(shard, epoch, next(self.numbers), 7)

    def new_table(self, registered: set[bytes]) -> DispatchTable:
        table = DispatchTable(self.token, depth=1000)
        table.workers = {worker: WorkerRecord(worker, 0.0) for worker in registered}
        return table

    def open(self) -> None:
        self.table.open_shard(Shard(0, self.epoch, 0, False))
        self.settle()

    # -- the owner ---------------------------------------------------------------------------
    def feed(self) -> None:
        entries, self.table.outbox = self.table.outbox, []
        epoch = self.epoch
        for entry in entries:
            if entry.phase is Phase.QUEUED:
                self.send(lambda e=entry.exec_id, j=entry.job_id: self.on_feed(epoch, e, j), reliable=True)

    def send(self, message: Callable[[], None], *, reliable: bool = False) -> None:
        self.bag.append(message)
        if reliable:
            self.must_arrive.add(message)

    def take_over(self) -> None:
        self.epoch += 1
        if self.rng.random() < 0.5:
            self.table = self.new_table({w for w, seat in self.table.workers.items() if not seat.sessionless})
        self.table.outbox.clear()
        self.unread = self.jobs - set(self.outcome)
        epoch = self.epoch
        self.send(lambda: self.on_open(epoch), reliable=True)
        self.open()

    def read_some(self) -> None:
        for job in sorted(self.unread)[: self.rng.randint(1, 5)]:
            self.unread.discard(job)
            if job not in self.table.by_job and job not in self.outcome:
                self.table.admit(Entry(job, KEY, 0, 1, 0, spec=""), in_doubt=True)
        self.settle()

    def settle(self) -> None:
        effects = self.table.settle()
        assert not effects.ends
        self.table.lease_first_written(effects.lease_first)
        self.feed()

    def complete(self) -> None:
        """The facts of what was adopted: what is recorded already is nobody's task any more."""
        for entry in self.table.adopted:
            if entry.job_id in self.outcome:
                self.table.discard(entry)
            entry.key, entry.spec = KEY, ""
        self.table.adopted.clear()

    def accept(self, entry: Entry, exec_id: bytes) -> None:
        assert entry.job_id not in self.outcome, "a second outcome"
        self.outcome[entry.job_id] = exec_id
        self.table.end(entry)
        self.table.finish(entry)

    # -- what arrives ------------------------------------------------------------------------
    def on_open(self, epoch: int) -> None:
        if epoch > self.queue_epoch:
            self.queue_epoch, self.queue = epoch, {}

    def on_feed(self, epoch: int, exec_id: bytes, job: bytes) -> None:
        self.on_open(epoch)
        if epoch == self.queue_epoch:
            self.queue[exec_id] = job

    def on_poll(self, worker: ModelWorker) -> None:
        if self.queue:
            exec_id = self.rng.choice(sorted(self.queue))
            job = self.queue.pop(exec_id)
            self.held_tasks.append((worker.name, job))
            self.send(lambda: self.on_task(worker, exec_id, job))
            epoch = self.epoch
            self.send(lambda: self.on_took(epoch, worker.name, exec_id), reliable=True)

    def on_took(self, epoch: int, worker: bytes, exec_id: bytes) -> None:
        if epoch == self.epoch:
            self.table.took(worker, [exec_id], self.now)
            self.feed()

    def on_task(self, worker: ModelWorker, exec_id: bytes, job: bytes) -> None:
        self.held_tasks.remove((worker.name, job))
        if worker.alive and ids.shard_and_epoch(exec_id)[1] >= worker.epoch and exec_id not in worker.voided:
            others = [w for w in self.workers if w.alive and job in w.running.values()]
            assert not others, "it runs in two live workers"
            worker.running[exec_id] = job
            self.starts[job] = self.starts.get(job, 0) + 1
            assert self.starts[job] <= 1 + self.excused.get(job, 0), "started again without a death"

    def on_beat(self, worker: bytes, epoch: int, have: dict[bytes, bytes], voided: set[bytes]) -> None:
        if worker not in self.table.workers:
            return
        claims = [Claim(e, j, 1, 0, started=True, finished=False) for e, j in have.items()]
        effects = self.table.heartbeat(worker, {0: epoch}, claims, voided, self.now)
        assert not effects.ends
        living = next((w for w in self.workers if w.name == worker and w.alive), None)
        # Where the worker before it has died, its late outcome may be there first: then the second run is to end.
        needed = {e for e, job in living.running.items() if job not in self.outcome} if living is not None else set()
        assert not needed & set(effects.revoke), "what a living worker runs is revoked"
        self.complete()
        self.settle()
        told = self.epoch
        self.send(lambda: self.on_beat_answer(worker, told, effects.void))

    def on_beat_answer(self, name: bytes, epoch: int, void: list[bytes]) -> None:
        worker = next(w for w in self.workers if w.name == name)
        if worker.alive:
            worker.epoch = max(worker.epoch, epoch)
            worker.voided |= {v for v in void if v not in worker.have()}

    def on_report(self, name: bytes, exec_id: bytes, job: bytes) -> None:
        shard = self.table.shards[0]
        entry = self.table.by_exec.get(exec_id)
        if self.outcome.get(job) == exec_id:
            pass
        elif entry is not None:
            self.accept(entry, exec_id)
        elif job not in self.outcome and not shard.settled and self.may_adopt(job, exec_id):
            claim = Claim(exec_id, job, 1, 0, started=True, finished=True)
            self.accept(self.table.adopt(claim, self.now, self.table.workers.get(name)), exec_id)
            self.complete()
        self.send(lambda: self.on_ack(name, exec_id))

    def may_adopt(self, job: bytes, exec_id: bytes) -> bool:
        entry = self.table.by_job.get(job)
        return ids.shard_and_epoch(exec_id)[1] < self.epoch and (entry is None or entry.phase is Phase.IN_DOUBT)

    def on_ack(self, name: bytes, exec_id: bytes) -> None:
        worker = next(w for w in self.workers if w.name == name)
        if worker.alive:
            worker.unacked.pop(exec_id, None)

    # -- what happens ------------------------------------------------------------------------
    def live(self) -> list[ModelWorker]:
        return [w for w in self.workers if w.alive]

    def new_job(self) -> None:
        job = len(self.jobs).to_bytes(2, "big")
        self.jobs.add(job)
        self.table.admit(Entry(job, KEY, 0, 1, 0, spec=""), in_doubt=False)
        self.feed()

    def deliver(self) -> None:
        if self.bag:
            message = self.bag.pop(self.rng.randrange(len(self.bag)))
            self.must_arrive.discard(message)
            message()

    def lose(self) -> None:
        if self.bag:
            message = self.bag[self.rng.randrange(len(self.bag))]
            if message not in self.must_arrive:
                self.bag.remove(message)

    def poll(self) -> None:
        worker = self.rng.choice(self.live())
        self.send(lambda: self.on_poll(worker))

    def beat(self, worker: ModelWorker | None = None) -> None:
        w = worker or self.rng.choice(self.live())
        name, epoch, have, voided = w.name, w.epoch, w.have(), set(w.voided)
        self.send(lambda: self.on_beat(name, epoch, have, voided))

    def finish(self) -> None:
        worker = self.rng.choice(self.live())
        if worker.running:
            exec_id = self.rng.choice(sorted(worker.running))
            worker.unacked[exec_id] = worker.running.pop(exec_id)

    def report(self, worker: ModelWorker | None = None) -> None:
        w = worker or self.rng.choice(self.live())
        if w.unacked:
            exec_id = self.rng.choice(sorted(w.unacked))
            job = w.unacked[exec_id]
            self.send(lambda: self.on_report(w.name, exec_id, job))

    def die(self) -> None:
        if len(self.live()) > 1:
            worker = self.rng.choice(self.live())
            worker.alive = False
            held = set(worker.have().values()) | {job for name, job in self.held_tasks if name == worker.name}
            for job in held:
                self.excused[job] = self.excused.get(job, 0) + 1

    def leases_end(self) -> None:
        for worker in self.workers:
            if not worker.alive and worker.name in self.table.workers:
                for entry in self.table.worker_lost(worker.name).lost:
                    if entry.job_id not in self.outcome:
                        self.table.enqueue(entry)
        self.complete()
        self.settle()

    def join(self) -> None:
        if len(self.workers) < 5:
            worker = ModelWorker(bytes([len(self.workers)]), epoch=self.epoch)
            self.workers.append(worker)
            self.table.workers[worker.name] = WorkerRecord(worker.name, 0.0)

    def pass_time(self) -> None:
        self.now += VOID_AFTER

    def steps(self) -> list[tuple[Callable[[], None], float]]:
        """The possible events, and how often."""
        return [
            (self.new_job, 4.0), (self.deliver, 40), (self.lose, 2), (self.poll, 10), (self.beat, 10), (self.finish, 8),
            (self.report, 8), (self.read_some, 3), (self.take_over, 1), (self.die, 0.3), (self.leases_end, 2),
            (self.join, 0.3), (self.pass_time, 3),
        ]  # fmt: skip

    def run(self) -> None:
        actions, weights = zip(*self.steps(), strict=True)
        for _ in range(self.rng.randint(50, 800)):
            self.rng.choices(actions, weights)[0]()

    def quiesce(self) -> None:
        for _ in range(400):
            if self.jobs == set(self.outcome):
                return
            self.pass_time()
            self.leases_end()
            while self.unread:
                self.read_some()
            for worker in self.live():
                worker.unacked.update(worker.running)
                worker.running.clear()
                self.send(lambda w=worker: self.on_poll(w))
                for exec_id, job in list(worker.unacked.items()):
                    self.send(lambda w=worker, e=exec_id, j=job: self.on_report(w.name, e, j))
                self.beat(worker)
            while self.bag:
                self.deliver()
        raise AssertionError(f"never ended: {len(self.jobs - set(self.outcome))} of {len(self.jobs)} jobs")


@pytest.mark.feature("A5", "A6", "A7", "A8", "M.4")
@pytest.mark.longer
@settings(max_examples=size(300, 5000), deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_no_job_runs_twice_and_each_ends_once_through_takeovers_and_deaths(seed: int) -> None:
    world = World(seed)
    world.run()
    world.quiesce()
