"""Which lane a poll is answered from: that of the highest priority, and none waits for ever (R13).

The tests are coroutines since what is fed wakes the polls that wait, in a turn of the loop.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import count

import pytest

from taskflow.v1.queue_pb2 import Assignment, LaneTasks, PollRequest, ShardValidity
from taskflow_server.core.lanes import LaneKey
from taskflow_server.queue.coordinator_link import CoordinatorLink
from taskflow_server.queue.pending import Aging, Pending

SECONDS, ONE_IN = 2.0, 5
WORKER = bytes(16)


@dataclass
class Line:
    """A queue service whose clock the test moves, and a worker that serves every queue."""

    seconds: float = SECONDS
    now: float = 0.0
    fed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.pending = Pending(self, Aging(self.seconds, ONE_IN))
        self.pending.open(ShardValidity(shard=1, epoch=1, valid_ms=10**9), CoordinatorLink())
        self._ids = count(1)

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def feed(self, priority: int, jobs: int, queue: str = "q") -> None:
        self.fed.add(queue)
        tasks = [Assignment(exec_id=next(self._ids).to_bytes(16, "big")) for _ in range(jobs)]
        self.pending.feed(LaneTasks(queue=queue, priority=priority, shard=1, epoch=1, tasks=tasks))

    def take(self, most: int = 1) -> list[LaneKey]:
        """The lane of each job of a poll's answer, in order."""
        request = PollRequest(worker_id=WORKER, queue_handlers=sorted(self.fed), max=most)
        answer = self.pending.take(request, most)
        return [LaneKey(p.queue, p.task, p.priority) for p in answer.lanes for _ in p.tasks] if answer else []

    def busy(self, high: int, jobs: int, each: float, most: int = 1, queue: str = "q") -> list[LaneKey]:
        """The jobs dispatched to a worker while there are always more of priority `high`, `each` seconds apart."""
        taken: list[LaneKey] = []
        while len(taken) < jobs:
            self.feed(high, most, queue)
            taken += self.take(most)
            self.now += each
        return taken


@pytest.mark.feature("X.2", "R13", "B14")
@pytest.mark.parametrize(("high", "low"), [(6, 5), (9, 0)])
@pytest.mark.parametrize("queue", ["q", "another"])
async def test_a_low_job_runs_under_a_stream_of_higher_ones(high: int, low: int, queue: str) -> None:
    line = Line()
    line.feed(high, 50)
    line.feed(low, 1, queue)
    taken = line.busy(high, 2000, each=0.015)
    place = [key.priority for key in taken].index(low)
    waited = place * 0.015
    assert (high - low) * SECONDS <= waited <= (high - low) * SECONDS + (ONE_IN + 1) * 0.015


@pytest.mark.feature("X.2", "R13", "B14")
@pytest.mark.parametrize("most", [1, 3, 100])
async def test_old_jobs_of_a_low_priority_get_a_bounded_share(most: int) -> None:
    line = Line()
    line.feed(9, most)
    for number in range(4):
        line.feed(2, 2000, f"old-{number}")
    line.now = 3600.0
    shares = Counter((key.queue, key.priority) for key in line.busy(9, 6000, each=0.0, most=most))
    old = [shares[f"old-{number}", 2] for number in range(4)]
    assert shares["q", 9] >= 6000 * (1 - 1 / ONE_IN) - most
    assert min(old) >= 6000 / ONE_IN / 4 * 0.6 and max(old) - min(old) <= max(1, most // ONE_IN)


@pytest.mark.feature("R13", "X.2")
@pytest.mark.parametrize(("seconds", "after"), [(SECONDS, 3 * SECONDS - 0.1), (0.0, 10_000.0)])
async def test_higher_priorities_go_first_until_a_job_has_waited_for_each_step(seconds: float, after: float) -> None:
    line = Line(seconds)
    line.feed(8, 100)
    line.feed(5, 100)
    line.now = after
    assert [key.priority for key in line.take(100)] == [8] * 100
    line.feed(8, 10)
    assert [key.priority for key in line.take(20)] == [8] * 10 + [5] * 10


@pytest.mark.feature("R13", "B14")
async def test_jobs_that_go_before_their_turn_stay_in_their_order() -> None:
    line = Line()
    line.feed(9, 100)
    line.feed(5, 30)
    line.now = 100.0
    request = PollRequest(worker_id=WORKER, queue_handlers=["q"], max=200)
    answer = line.pending.take(request, 200)
    assert answer is not None
    low = [task.exec_id for part in answer.lanes if part.priority == 5 for task in part.tasks]
    assert low == sorted(low) and len(low) == 30
    assert line.take() == []


@pytest.mark.feature("R13")
async def test_lanes_of_one_priority_take_turns() -> None:
    line = Line()
    for queue in ("a", "b", "c"):
        line.feed(5, 4, queue)
    line.feed(4, 4, "lower")

    turns = [line.take()[0].queue for _ in range(12)]

    assert [sorted(turns[n : n + 3]) for n in range(0, 12, 3)] == [["a", "b", "c"]] * 4
