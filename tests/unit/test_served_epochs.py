"""The owner whose jobs the queue service dispatches, by epochs and validities alone (A7).

The test is a coroutine since what is fed wakes the polls that wait, in a turn of the loop.
"""

from __future__ import annotations

import pytest

from taskflow.v1.queue_pb2 import Assignment, LaneTasks, PollRequest, ShardValidity
from taskflow_server.queue.coordinator_link import CoordinatorLink
from taskflow_server.queue.pending import Aging, Pending

QUEUE = "q"


class MovedClock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def now_us(self) -> int:
        return int(self.now * 1e6)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds


def opened(pending: Pending, epoch: int, valid_ms: int = 1000) -> bool:
    return pending.open(ShardValidity(shard=1, epoch=epoch, valid_ms=valid_ms), CoordinatorLink())


def fed(pending: Pending, epoch: int, *names: bytes) -> None:
    tasks = [Assignment(exec_id=name * 16) for name in names]
    pending.feed(LaneTasks(queue=QUEUE, priority=5, shard=1, epoch=epoch, tasks=tasks))


def taken(pending: Pending) -> list[bytes]:
    """The jobs of a poll that has room for all."""
    answer = pending.take(PollRequest(worker_id=bytes(16), queue_handlers=[QUEUE], max=100), 100)
    return [task.exec_id[:1] for lane in answer.lanes for task in lane.tasks] if answer else []


@pytest.mark.feature("A7")
async def test_only_the_highest_epoch_of_a_shard_is_served_and_nothing_past_its_validity() -> None:
    clock = MovedClock()
    pending = Pending(clock, Aging(0, 5))
    fed(pending, 3, b"0")
    assert taken(pending) == [], "no epoch is open"

    assert opened(pending, 3)
    fed(pending, 3, b"a", b"b")
    clock.now += 1.0
    assert taken(pending) == [], "the validity is over"
    assert opened(pending, 3)
    assert taken(pending) == [b"a", b"b"], "it was renewed"

    fed(pending, 3, b"c")
    assert opened(pending, 4)
    assert taken(pending) == [], "what an older epoch fed is gone"
    fed(pending, 3, b"d")
    assert (taken(pending), opened(pending, 3)) == ([], False), "its owner is superseded"
    fed(pending, 4, b"e")
    assert taken(pending) == [b"e"]
