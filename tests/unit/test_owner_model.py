"""The real table under owners that change and links that break, with time (protocol A5, A6, A7, A15, B1, B2, B13).

test_epoch_model.py has one owner at a time and no clock. Here owners have names and processes: they hand over in order,
to another name or their own, die, or stop while a standby takes over and then go on. Workers have a lease by their own
clock, links that break for a moment or for good, and a session with one owner, which they leave only as the SDK does.
Checked, at each start of a handler: no job runs in two living workers, nor again without a worker that lost it; and
when the faults stop, every job ends once.

Each rule can be broken (`Rules`); the model then has to find a fault, or it could not see the rule.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow._policy import SOFT
from taskflow._worker.session import UNANSWERED
from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.core import ids
from taskflow_server.core.dispatch.records import Claim, Entry, Shard, WorkerRecord
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.lanes import LaneKey

KEY = LaneKey("q", "", 5)
LEASE = 9.0
OWNER_TIMEOUT = 3.0
NOTICE = 1.0  # a stopped owner that goes on reads its epochs with its next beat
TOPOLOGY = 30.0  # a worker asks for the owners so often, whatever happens
ASKING = 1.0  # from a reason to ask for the owners to the answer
TICK = 0.5


@dataclass(frozen=True)
class Rules:
    awaits_all: bool = True  # a takeover waits for every registered worker; else for those of the former owner's name
    grace: float = CoordinatorSettings(database_url="postgresql://", lease=LEASE).grace
    dismisses: bool = True  # an owner that lost its shards ends its sessions
    looks: bool = True  # a worker asks for the owners when its heartbeats go unanswered


@dataclass(eq=False)
class ModelOwner:
    name: str
    epoch: int
    table: DispatchTable
    stopped_at: float | None = None
    went_on_at: float = 0.0

    @property
    def stopped(self) -> bool:
        return self.stopped_at is not None


@dataclass(eq=False)
class ModelWorker:
    id: bytes
    owner: ModelOwner | None = None  # with whom its session is, or was
    session: int = 0
    standing: bool = False
    linked: bool = True
    alive: bool = True
    epoch: int = 0
    soft: float = float("inf")  # until then its handlers run
    answered: float = 0.0  # when its last answered heartbeat was sent
    asked: float = 0.0
    running: dict[bytes, bytes] = field(default_factory=dict)  # exec_id -> job
    unacked: dict[bytes, bytes] = field(default_factory=dict)
    voided: set[bytes] = field(default_factory=set)


class World:
    def __init__(self, seed: int, rules: Rules) -> None:
        self.rng, self.rules = random.Random(seed), rules
        self.numbers = itertools.count(1)
        self.now = 0.0
        self.rows: set[tuple[bytes, str]] = set()  # the table of registered workers
        self.jobs: set[bytes] = set()
        self.unread: set[bytes] = set()
        self.outcome: dict[bytes, bytes] = {}
        self.lost_attempts: Counter[bytes] = Counter()  # recorded, by job: the next attempt has the next number
        self.number: dict[bytes, int] = {}  # of the attempt of an exec_id
        self.queue: dict[bytes, bytes] = {}
        self.queue_epoch = 0
        self.bag: list[Callable[[], None]] = []
        self.reliable: set[Callable[[], None]] = set()
        self.under_way: list[tuple[bytes, bytes]] = []  # (worker id, job) of polls' answers
        self.starts: Counter[bytes] = Counter()
        self.excused: Counter[bytes] = Counter()
        self.stale: list[ModelOwner] = []  # living processes whose shards are another's
        self.database_owner: str | None = None
        self.owner = self.take("a", None)
        self.workers = [ModelWorker(self.new_id()) for _ in range(self.rng.choice([2, 3]))]
        for worker in self.workers:
            self.meet(worker)

    def new_id(self) -> bytes:
        return bytes([next(self.numbers) % 256, next(self.numbers) % 256])

    def token(self, shard: int, epoch: int) -> bytes:
        return ids.exec_id(shard, epoch, next(self.numbers), 7)

    # -- owners ----------------------------------------------------------------------------------------------------

    def take(self, name: str, process: ModelOwner | None) -> ModelOwner:
        """A takeover, by a new process or by the present owner's."""
        former = {self.database_owner, name}
        epoch = self.queue_epoch + 1 if not hasattr(self, "owner") else self.owner.epoch + 1
        owner = process or ModelOwner(name, epoch, DispatchTable(self.token, depth=1000))
        owner.epoch = epoch
        for worker, coordinator in sorted(self.rows):
            if self.rules.awaits_all or coordinator in former:
                owner.table.workers.setdefault(worker, WorkerRecord(worker, self.now + LEASE))
        owner.table.outbox.clear()
        owner.table.open_shard(Shard(0, epoch, 0, False))
        self.owner, self.database_owner = owner, name
        self.unread = self.jobs - set(self.outcome)
        self.send(lambda: self.on_open(epoch), reliable=True)
        for worker in self.workers if process is not None else ():
            if worker.standing and worker.owner is owner:
                self.send(lambda w=worker: self.on_epochs(w, owner, epoch))
        self.settle(owner)
        return owner

    def depart(self) -> None:
        """The present owner's process is gone, and its streams with it."""
        for worker in self.workers:
            if worker.owner is self.owner:
                worker.standing = False

    def another(self) -> str:
        return self.rng.choice([n for n in "abc" if n != self.owner.name])

    def hand_over(self) -> None:
        if not self.owner.stopped:
            self.depart()
            self.database_owner = None
            self.take(self.rng.choice("abc"), None)

    def owner_dies(self) -> None:
        self.depart()
        self.take(self.rng.choice("abc"), None)

    def queue_service_dies(self) -> None:
        if not self.owner.stopped:
            self.queue.clear()
            self.take(self.owner.name, self.owner)

    def owner_stops(self) -> None:
        if not self.owner.stopped:
            self.owner.stopped_at = self.now

    def standby_takes(self) -> None:
        since = self.owner.stopped_at
        if since is not None and self.now - since >= OWNER_TIMEOUT:
            self.stale.append(self.owner)
            self.take(self.another(), None)

    def owner_goes_on(self) -> None:
        for owner in [self.owner, *self.stale]:
            if owner.stopped_at is not None:
                gap = self.now - owner.stopped_at
                for seat in owner.table.workers.values():
                    seat.deadline += gap
                owner.stopped_at, owner.went_on_at = None, self.now

    def stale_notice(self) -> None:
        """Its own beat tells a process that went on that its shards are another's."""
        for owner in list(self.stale):
            if not owner.stopped and self.now - owner.went_on_at >= NOTICE:
                if self.rules.dismisses:
                    self.stale.remove(owner)
                    for worker in self.workers:
                        if worker.owner is owner:
                            worker.standing = False
                elif owner.table.shards:
                    owner.table.close_shard(0)

    def read_some(self) -> None:
        for job in sorted(self.unread)[: self.rng.randint(1, 5)]:
            self.unread.discard(job)
            if job not in self.owner.table.by_job and job not in self.outcome:
                entry = Entry(job, KEY, 0, self.lost_attempts[job] + 1, 0, spec="")
                self.owner.table.admit(entry, in_doubt=True)
        self.settle(self.owner)

    def settle(self, owner: ModelOwner) -> None:
        if owner.stopped or 0 not in owner.table.shards:
            return
        effects = owner.table.settle()
        assert not effects.ends
        owner.table.lease_first_written(effects.lease_first)
        entries, owner.table.outbox = owner.table.outbox, []
        epoch = owner.epoch
        for entry in entries:
            if entry.phase is Phase.QUEUED:
                self.number[entry.exec_id] = entry.attempt
                self.send(lambda e=entry.exec_id, j=entry.job_id: self.on_feed(epoch, e, j), reliable=True)

    def complete(self, owner: ModelOwner) -> None:
        for entry in owner.table.adopted:
            if entry.job_id in self.outcome or self.lost_attempts[entry.job_id] >= entry.attempt:
                owner.table.discard(entry)  # its end is recorded
            entry.key, entry.spec = KEY, ""
        owner.table.adopted.clear()

    def lost(self, owner: ModelOwner, worker: bytes) -> None:
        """The lease of a worker is over at an owner that may judge."""
        for entry in owner.table.worker_lost(worker).lost:
            if entry.job_id not in self.outcome:
                self.lost_attempts[entry.job_id] = entry.attempt
                entry.attempt += 1
                owner.table.enqueue(entry)
        self.rows = {row for row in self.rows if row[0] != worker}
        self.settle(owner)

    # -- workers ---------------------------------------------------------------------------------------------------

    def live(self) -> list[ModelWorker]:
        return [w for w in self.workers if w.alive]

    def meet(self, worker: ModelWorker) -> None:
        """A session with the present owner: registered, welcomed, and a heartbeat on its way."""
        if self.owner.stopped or not worker.linked:
            return
        name = self.owner.name
        self.rows = {row for row in self.rows if row[0] != worker.id or row[1] == self.database_owner}
        self.rows.add((worker.id, name))
        seat = self.owner.table.workers.setdefault(worker.id, WorkerRecord(worker.id, 0.0))
        seat.deadline = self.now + LEASE
        worker.owner, worker.standing, worker.answered = self.owner, True, self.now
        worker.session += 1
        worker.soft = self.now + LEASE * SOFT
        self.on_epochs(worker, self.owner, self.owner.epoch)

    def on_epochs(self, worker: ModelWorker, owner: ModelOwner, epoch: int) -> None:
        if worker.alive and worker.owner is owner:
            worker.epoch = max(worker.epoch, epoch)
            self.beat(worker)

    def look(self, worker: ModelWorker) -> None:
        """Asks for the owners: without a session, when heartbeats go unanswered, and now and then."""
        silent = self.rules.looks and self.now - worker.answered > LEASE * UNANSWERED
        if not worker.standing or silent or self.now - worker.asked >= TOPOLOGY:
            worker.asked = worker.asked if not worker.standing or silent else self.now
            if worker.owner is not self.owner or not worker.standing:
                self.meet(worker)

    def beat(self, worker: ModelWorker) -> None:
        if not (worker.alive and worker.standing and worker.linked) or worker.owner is None:
            return
        number = self.number
        claims = [Claim(e, j, number[e], 0, started=True, finished=False) for e, j in worker.running.items()]
        claims += [Claim(e, j, number[e], 0, started=True, finished=True) for e, j in worker.unacked.items()]
        sent, owner, epoch, voided, session = self.now, worker.owner, worker.epoch, set(worker.voided), worker.session
        self.send(lambda: self.on_beat(worker, owner, session, sent, epoch, claims, voided))

    def on_beat(
        self, worker: ModelWorker, owner: ModelOwner, session: int, sent: float, epoch: int, claims: list[Claim],
        voided: set[bytes],
    ) -> None:  # fmt: skip
        living = owner is self.owner or owner in self.stale
        if not living or worker.session != session or worker.id not in owner.table.workers:
            return
        if owner.stopped:  # it reads that when it goes on
            self.send(lambda: self.on_beat(worker, owner, session, sent, epoch, claims, voided))
            return
        owner.table.workers[worker.id].deadline = self.now + LEASE
        effects = owner.table.heartbeat(worker.id, {0: epoch}, claims, voided, self.now)
        judges = owner is self.owner  # else it cannot write
        void, revoked = (effects.void, effects.revoke) if judges else ([], [])
        self.complete(owner)
        self.settle(owner)
        own = owner.epoch if owner is self.owner else 0
        self.send(lambda: self.on_answer(worker, session, sent, own, void, revoked))

    def on_answer(
        self, worker: ModelWorker, session: int, sent: float, epoch: int, void: list[bytes], revoked: list[bytes]
    ) -> None:
        if not worker.alive or not worker.linked or worker.session != session or not worker.standing:
            return
        worker.soft = max(worker.soft, sent + LEASE * SOFT)
        worker.answered = max(worker.answered, sent)
        worker.epoch = max(worker.epoch, epoch)
        worker.voided |= {v for v in void if v not in worker.running and v not in worker.unacked}
        for exec_id in revoked:
            if exec_id in worker.running:
                self.excused[worker.running.pop(exec_id)] += 1

    def may_run_again(self, worker: ModelWorker) -> None:
        self.excused.update([*worker.running.values(), *worker.unacked.values()])
        self.excused.update(job for name, job in self.under_way if name == worker.id)

    def cut_off(self, worker: ModelWorker) -> None:
        """Two thirds of the lease without an answer: it stops what runs, and registers under a new id. Outcomes that it
        keeps are refused if their jobs were handed out again meanwhile."""
        self.may_run_again(worker)
        worker.running.clear()
        worker.id, worker.standing, worker.soft = self.new_id(), False, float("inf")

    def on_poll(self, worker: ModelWorker, name: bytes) -> None:
        if not self.queue or not worker.alive:
            return
        exec_id = self.rng.choice(sorted(self.queue))
        job, epoch = self.queue.pop(exec_id), self.queue_epoch
        self.under_way.append((name, job))
        self.send(lambda: self.on_task(worker, name, exec_id, job))
        self.send(lambda: self.on_took(epoch, name, exec_id), reliable=True)

    def on_task(self, worker: ModelWorker, name: bytes, exec_id: bytes, job: bytes) -> None:
        self.under_way.remove((name, job))
        stale = ids.shard_and_epoch(exec_id)[1] < worker.epoch
        if not worker.alive or worker.id != name or not worker.standing or stale or exec_id in worker.voided:
            return
        others = [w for w in self.workers if w.alive and job in w.running.values()]
        assert not others, "it runs in two living workers"
        worker.running[exec_id] = job
        self.starts[job] += 1
        assert self.starts[job] <= 1 + self.excused[job], "started again, though no worker has lost it"

    def on_took(self, epoch: int, name: bytes, exec_id: bytes) -> None:
        if epoch == self.owner.epoch:
            self.owner.table.took(name, [exec_id], self.now)
            self.settle(self.owner)

    def on_open(self, epoch: int) -> None:
        if epoch > self.queue_epoch:
            self.queue_epoch, self.queue = epoch, {}

    def on_feed(self, epoch: int, exec_id: bytes, job: bytes) -> None:
        self.on_open(epoch)
        if epoch == self.queue_epoch:
            self.queue[exec_id] = job

    def report(self, worker: ModelWorker) -> None:
        if worker.unacked and worker.linked and worker.owner is self.owner and not self.owner.stopped:
            exec_id = self.rng.choice(sorted(worker.unacked))
            owner, job = self.owner, worker.unacked[exec_id]
            self.send(lambda: self.on_report(worker, owner, exec_id, job))

    def on_report(self, worker: ModelWorker, owner: ModelOwner, exec_id: bytes, job: bytes) -> None:
        if owner is not self.owner or owner.stopped:
            return  # not recorded, and not answered
        table, attempt = owner.table, self.number[exec_id]
        entry = table.by_exec.get(exec_id)
        recorded = job in self.outcome or self.lost_attempts[job] >= attempt
        older = ids.shard_and_epoch(exec_id)[1] < owner.epoch
        doubtful = older and not table.shards[0].settled and table.in_doubt(job, attempt)
        if entry is None and not recorded and doubtful:
            claim = Claim(exec_id, job, attempt, 0, started=True, finished=True)
            entry = table.adopt(claim, self.now, table.workers.get(worker.id))
            self.complete(owner)
        if entry is not None:
            assert job not in self.outcome, "a second outcome"
            self.outcome[job] = exec_id
            table.end(entry)
            table.finish(entry)
        self.send(lambda: worker.unacked.pop(exec_id, None) and None)

    # -- what happens ----------------------------------------------------------------------------------------------

    def send(self, message: Callable[[], None], *, reliable: bool = False) -> None:
        self.bag.append(message)
        if reliable:
            self.reliable.add(message)

    def deliver(self) -> None:
        if self.bag:
            message = self.bag.pop(self.rng.randrange(len(self.bag)))
            self.reliable.discard(message)
            message()

    def tick(self) -> None:
        """Time passes; what is due happens in the order of its time."""
        self.now += TICK
        due: list[tuple[float, int, Callable[[], None]]] = []
        for worker in self.live():
            if worker.soft <= self.now:
                due.append((worker.soft, 0, lambda w=worker: self.cut_off(w)))  # type: ignore[misc]
        if not self.owner.stopped:
            for name, seat in self.owner.table.workers.items():
                if seat.deadline <= self.now:
                    due.append((seat.deadline, 1, lambda n=name: self.lost(self.owner, n)))  # type: ignore[misc]
        for _, _, act in sorted(due, key=lambda each: each[:2]):
            act()
        self.stale_notice()
        for worker in self.live():
            if self.now - worker.asked >= ASKING:
                self.look(worker)

    def new_job(self) -> None:
        if not self.owner.stopped:
            job = len(self.jobs).to_bytes(2, "big")
            self.jobs.add(job)
            self.owner.table.admit(Entry(job, KEY, 0, 1, 0, spec=""), in_doubt=False)
            self.settle(self.owner)

    def poll(self) -> None:
        worker = self.rng.choice(self.live())
        if worker.standing and self.now < worker.soft:
            name = worker.id
            self.send(lambda: self.on_poll(worker, name))

    def finish(self) -> None:
        worker = self.rng.choice(self.live())
        if worker.running:
            exec_id = self.rng.choice(sorted(worker.running))
            worker.unacked[exec_id] = worker.running.pop(exec_id)

    def link_breaks(self) -> None:
        worker = self.rng.choice(self.live())
        if worker.linked:
            worker.linked = worker.standing = False
            owner = worker.owner
            seat = owner.table.workers.get(worker.id) if owner is not None and not owner.stopped else None
            if seat is not None:
                seat.deadline = min(seat.deadline, self.now + self.rules.grace)

    def link_mends(self) -> None:
        worker = self.rng.choice(self.live())
        worker.linked = True
        if worker.alive and not worker.standing:
            self.meet(worker)

    def worker_dies(self) -> None:
        if len(self.live()) > 1:
            worker = self.rng.choice(self.live())
            self.may_run_again(worker)
            worker.alive = worker.standing = False

    def run(self) -> None:
        live = self.live
        steps: list[tuple[Callable[[], None], float]] = [
            (self.new_job, 3), (self.deliver, 60), (self.tick, 8), (self.poll, 10), (self.finish, 2),
            (lambda: self.beat(self.rng.choice(live())), 14), (lambda: self.report(self.rng.choice(live())), 6),
            (self.read_some, 4), (self.hand_over, 0.3), (self.owner_dies, 0.3), (self.queue_service_dies, 0.2),
            (self.owner_stops, 0.4), (self.standby_takes, 2), (self.owner_goes_on, 0.6), (self.link_breaks, 0.5),
            (self.link_mends, 1.0), (self.worker_dies, 0.05),
        ]  # fmt: skip
        actions, weights = zip(*steps, strict=True)
        for _ in range(self.rng.randint(100, 1200)):
            self.rng.choices(actions, weights)[0]()

    def quiesce(self) -> None:
        for _ in range(300):
            if self.jobs == set(self.outcome):
                return
            self.owner_goes_on()
            self.tick()
            while self.unread:
                self.read_some()
            for worker in self.live():
                worker.linked = True
                worker.unacked.update(worker.running)
                worker.running.clear()
                self.beat(worker)
                if worker.standing:
                    self.send(lambda w=worker, n=worker.id: self.on_poll(w, n))
                for _ in worker.unacked:
                    self.report(worker)
            while self.bag:
                self.deliver()
        raise AssertionError(f"never ended: {len(self.jobs - set(self.outcome))} of {len(self.jobs)} jobs")


@pytest.mark.feature("A5", "A6", "A7", "A15", "B2", "B13", "M.4")
@settings(max_examples=400, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_no_job_runs_twice_and_each_ends_once_whoever_owns_and_whatever_link_breaks(seed: int) -> None:
    world = World(seed, Rules())
    world.run()
    world.quiesce()


BROKEN = {
    "a takeover waits for the workers of the former owner's name alone": {"awaits_all": False},
    "a worker is lost before its handlers have stopped": {"grace": LEASE / 3},
    "an owner without shards renews leases, and no worker looks for another": {"dismisses": False, "looks": False},
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_the_model_sees_each_rule_that_is_broken(broken: dict[str, float]) -> None:
    rules = replace(Rules(), **broken)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=r"two living workers|no worker has lost it"):
        for seed in range(3000):
            World(seed, rules).run()
