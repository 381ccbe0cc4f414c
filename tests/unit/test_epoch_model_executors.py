"""The real table with executors beside workers: without sessions, held by timeouts (`ExecutorLeases`).

As test_epoch_model.py, and here: an executor is given tasks by answers that may be lost, must say Start, runs from the
answer to it on and no longer than it was told that it may, and is heard of or not. Checked besides:

- no job runs in an executor whose time is not over, and somewhere else;
- a job starts again only if whoever had it died, or its time was over;
- what was started goes on through takeovers under its exec_id; what was only requested does not start after one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from taskflow_server.core.dispatch.executor_leases import ExecutorLeases
from taskflow_server.core.dispatch.records import Entry, ExecutorLease
from taskflow_server.core.dispatch.transitions import Phase
from tests.support.tier import size
from tests.unit.test_epoch_model import KEY, ModelWorker, World

REQUESTED, SILENCE = 5.0, 9.0  # seconds


@dataclass
class ModelExecutor:
    name: str
    requested: dict[bytes, bytes] = field(default_factory=dict)  # exec_id -> job
    running: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)  # exec_id -> job, until when it may


class ExecutorWorld(World):
    def __init__(self, seed: int) -> None:
        self.executors = [ModelExecutor("one"), ModelExecutor("two")]
        self.leases: dict[bytes, bytes] = {}  # on disk: job -> exec_id of a started one
        super().__init__(seed)

    @property
    def executor_leases(self) -> ExecutorLeases:
        return ExecutorLeases(self.table)

    # -- the owner ---------------------------------------------------------------------------
    def take_over(self) -> None:
        super().take_over()
        self.unread -= set(self.leases)
        for job, exec_id in self.leases.items():
            entry = Entry(job, KEY, 0, 1, 0, spec="", exec_id=exec_id)
            self.executor_leases.restore(entry, "whoever", ExecutorLease(REQUESTED, SILENCE), self.now, self.now)

    def accept(self, entry: Entry, exec_id: bytes) -> None:
        super().accept(entry, exec_id)
        self.leases.pop(entry.job_id, None)

    def time_outs_end(self) -> None:
        for end in self.executor_leases.expire(self.now).ends:
            self.leases.pop(end.entry.job_id, None)
            self.table.enqueue(end.entry)
        self.feed()

    # -- what arrives ------------------------------------------------------------------------
    def on_poll_of(self, executor: ModelExecutor) -> None:
        if self.queue:
            exec_id = self.rng.choice(sorted(self.queue))
            job = self.queue.pop(exec_id)
            self.send(lambda: executor.requested.update({exec_id: job}))
            epoch = self.epoch
            self.send(lambda: self.on_requested(epoch, executor.name, exec_id), reliable=True)

    def on_requested(self, epoch: int, name: str, exec_id: bytes) -> None:
        if epoch == self.epoch:
            self.executor_leases.request(name, [exec_id], lambda entry: ExecutorLease(REQUESTED, SILENCE), self.now)

    def present(self, executor: ModelExecutor, exec_id: bytes) -> Entry | None:
        self.executor_leases.request(
            executor.name, [exec_id], lambda entry: ExecutorLease(REQUESTED, SILENCE), self.now
        )
        entry = self.table.by_exec.get(exec_id)
        return entry if entry is not None and entry.executor_lease is not None and entry.phase is Phase.TAKEN else None

    def on_start(self, executor: ModelExecutor, exec_id: bytes) -> None:
        entry = self.present(executor, exec_id)
        if entry is None:
            return
        if not entry.started:
            self.executor_leases.start(entry, self.now)
            self.leases[entry.job_id] = exec_id
            self.table.leased(entry)
        self.executor_leases.keepalive(entry, self.now)
        assert entry.executor_lease is not None
        until, job = entry.executor_lease.until, entry.job_id
        self.send(lambda: self.on_may_run(executor, exec_id, job, until))

    def on_may_run(self, executor: ModelExecutor, exec_id: bytes, job: bytes, until: float) -> None:
        """The answer to a start, or to a word."""
        if exec_id in executor.running:
            executor.running[exec_id] = job, max(until, executor.running[exec_id][1])
        elif executor.requested.pop(exec_id, None) is not None and until > self.now:
            self.begins(job)
            executor.running[exec_id] = job, until

    def on_task(self, worker: ModelWorker, exec_id: bytes, job: bytes) -> None:
        begun = self.starts.get(job, 0)
        super().on_task(worker, exec_id, job)
        if self.starts.get(job, 0) > begun:
            assert not self.runs_in_an_executor(job), "it runs in an executor, and in a worker"

    def begins(self, job: bytes) -> None:
        assert not [w for w in self.live() if job in w.running.values()], "it runs in a worker, and in an executor"
        assert not self.runs_in_an_executor(job), "it runs in two executors"
        self.starts[job] = self.starts.get(job, 0) + 1
        assert self.starts[job] <= 1 + self.excused.get(job, 0), "started again without a death"

    def runs_in_an_executor(self, job: bytes) -> bool:
        return any(j == job for e in self.executors for j, _ in e.running.values())

    def on_word(self, executor: ModelExecutor, exec_id: bytes) -> None:
        entry = self.present(executor, exec_id)
        if entry is not None and entry.started and entry.executor_lease is not None:
            self.executor_leases.keepalive(entry, self.now)
            until, job = entry.executor_lease.until, entry.job_id
            self.send(lambda: self.on_may_run(executor, exec_id, job, until))

    def on_outcome(self, executor: ModelExecutor, exec_id: bytes, job: bytes) -> None:
        entry = self.present(executor, exec_id)
        if entry is not None and entry.started:
            self.accept(entry, exec_id)
        self.send(lambda: self.on_recorded(executor, exec_id))

    def on_recorded(self, executor: ModelExecutor, exec_id: bytes) -> None:
        executor.running.pop(exec_id, None)

    # -- what happens ------------------------------------------------------------------------
    def executor_polls(self) -> None:
        executor = self.rng.choice(self.executors)
        self.send(lambda: self.on_poll_of(executor))

    def executor_starts(self) -> None:
        executor = self.rng.choice(self.executors)
        if executor.requested:
            exec_id = self.rng.choice(sorted(executor.requested))
            self.send(lambda: self.on_start(executor, exec_id))

    def executor_speaks(self) -> None:
        executor = self.rng.choice(self.executors)
        if executor.running:
            exec_id = self.rng.choice(sorted(executor.running))
            self.send(lambda: self.on_word(executor, exec_id))

    def executor_ends(self) -> None:
        executor = self.rng.choice(self.executors)
        if executor.running:
            exec_id = self.rng.choice(sorted(executor.running))
            job = executor.running[exec_id][0]
            self.send(lambda: self.on_outcome(executor, exec_id, job))

    def pass_time(self) -> None:
        super().pass_time()
        for executor in self.executors:
            for exec_id, (job, until) in list(executor.running.items()):
                if until <= self.now:  # it knows that it may run no longer
                    del executor.running[exec_id]
                    self.excused[job] = self.excused.get(job, 0) + 1

    def steps(self) -> list[tuple[Callable[[], None], float]]:
        return [
            *super().steps(), (self.executor_polls, 8), (self.executor_starts, 8), (self.executor_speaks, 4),
            (self.executor_ends, 4), (self.time_outs_end, 4),
        ]  # fmt: skip

    def quiesce(self) -> None:
        for executor in self.executors:
            executor.requested.clear()  # they leave
        for _ in range(10):
            self.pass_time()
        self.time_outs_end()
        super().quiesce()

    def leases_end(self) -> None:
        self.time_outs_end()
        super().leases_end()


@pytest.mark.feature("A6", "S2.3", "S2.6", "R2")
@pytest.mark.longer
@settings(max_examples=size(300, 5000), deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_beside_executors_no_job_runs_twice_and_each_ends_once(seed: int) -> None:
    world = ExecutorWorld(seed)
    world.run()
    world.quiesce()
