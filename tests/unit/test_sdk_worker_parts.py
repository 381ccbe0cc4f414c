"""The parts of the worker that hold without a cluster: timers on a moved clock, epochs, mailboxes, claims."""

import asyncio
import os
import threading
from collections import deque
from datetime import UTC, datetime

from taskflow import FailedPrecondition
from taskflow._transport.io_thread import IoThread, Mailbox
from taskflow._worker.epochs import Epochs
from taskflow._worker.timers import Timers, Wakeup
from taskflow.v1.worker_pb2 import ShardEpoch


class MovedClock:
    """Advances when told to."""

    def __init__(self) -> None:
        self.time = 100.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        return self.time

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.time, UTC)

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.time + seconds, future))
        await future

    async def advance(self, seconds: float) -> None:
        self.time += seconds
        for _ in range(10):
            for when, future in self._sleepers:
                if when <= self.time and not future.done():
                    future.set_result(None)
            await asyncio.sleep(0)


async def test_timers_fire_in_order_when_the_clock_passes_them() -> None:
    clock, fired = MovedClock(), []
    timers = Timers(clock)
    for delay in (5, 1, 3):
        timers.after(delay, lambda delay=delay: fired.append(delay))
    timers.after(2, lambda: fired.append("never")).cancel()
    await clock.advance(0)

    await clock.advance(0.5)
    assert fired == []
    await clock.advance(3)
    assert fired == [1, 3]
    await clock.advance(60)
    assert fired == [1, 3, 5]
    timers.close()


async def test_a_timer_may_set_another_and_a_failing_one_stops_nobody() -> None:
    clock, fired = MovedClock(), []
    timers = Timers(clock)

    def first() -> None:
        fired.append("first")
        timers.after(1, lambda: fired.append("second"))
        raise RuntimeError

    timers.after(1, first)
    await clock.advance(0)
    await clock.advance(1)
    await clock.advance(1)

    assert fired == ["first", "second"]
    timers.close()


async def test_forgotten_timers_take_no_room() -> None:
    timers = Timers(MovedClock())

    for _ in range(20_000):
        timers.after(3600, lambda: None).cancel()

    assert len(timers._heap) < 2_500
    timers.close()


async def test_a_wake_up_that_nobody_waits_for_is_not_lost() -> None:
    wakeup = Wakeup()

    wakeup.wake()
    await asyncio.wait_for(wakeup.wait(), 1)
    waiting = [asyncio.create_task(wakeup.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    wakeup.wake()

    await asyncio.wait_for(asyncio.gather(*waiting), 1)


def announced(*pairs: tuple[int, int]) -> list[ShardEpoch]:
    return [ShardEpoch(shard=s, epoch=e) for s, e in pairs]


def test_outcomes_go_to_the_coordinator_with_the_highest_epoch() -> None:
    epochs = Epochs()

    assert epochs.announce("a", announced((1, 5), (2, 5))) == [1, 2]
    assert epochs.announce("b", announced((1, 6))) == [1]
    assert epochs.announce("a", announced((1, 5), (2, 5))) == []

    assert epochs.owner == {1: "b", 2: "a"}
    assert epochs.is_stale(1, 5)
    assert not epochs.is_stale(1, 6)


def test_an_epoch_seen_in_a_poll_outdates_older_tasks_before_its_owner_is_heard() -> None:
    epochs = Epochs()
    epochs.announce("a", announced((1, 5)))

    assert epochs.see(1, 7)
    assert not epochs.see(1, 6)

    assert epochs.is_stale(1, 6)
    assert [(e.shard, e.epoch) for e in epochs.owned_by("a")] == [(1, 7)]


def test_a_shard_that_its_owner_no_longer_names_has_none() -> None:
    epochs = Epochs()
    epochs.announce("a", announced((1, 5), (2, 5)))

    epochs.announce("a", announced((2, 5)))

    assert epochs.owner == {2: "a"}
    assert epochs.is_stale(1, 4)


async def test_a_mailbox_hands_over_everything_in_order_and_in_batches() -> None:
    loop, seen, calls = asyncio.get_running_loop(), [], []
    done = asyncio.Event()

    def take(items: deque[int]) -> None:
        calls.append(len(items))
        while items:
            seen.append(items.popleft())
        if len(seen) == 4_000:
            done.set()

    box: Mailbox[int] = Mailbox(loop, take)
    threads = [threading.Thread(target=lambda: [box.put(n) for n in range(1_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    await asyncio.wait_for(done.wait(), 10)

    assert sorted(seen) == sorted(list(range(1_000)) * 4)
    assert len(calls) < 4_000


def test_a_forked_process_is_told_that_grpc_does_not_survive() -> None:
    io = IoThread()

    async def nothing() -> None: ...

    io.call(nothing)
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            io.call(nothing)
        except FailedPrecondition as error:
            os.write(write, error.reason.encode())
        os._exit(0)
    os.waitpid(pid, 0)

    assert os.read(read, 100) == b"FORKED"
    io.close()


def test_the_io_thread_runs_calls_and_passes_errors_on() -> None:
    io = IoThread()

    async def name() -> str:
        return threading.current_thread().name

    async def fail() -> None:
        raise KeyError("x")

    assert io.call(name) == "taskflow-io"
    try:
        io.call(fail)
    except KeyError:
        pass
    else:
        raise AssertionError
    io.close()
