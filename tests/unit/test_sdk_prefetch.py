"""How many attempts a worker prefetches, and which of them start: pure, with times as arguments."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from taskflow._worker.pool import Pool
from taskflow._worker.prefetch import MOST, MOST_PER_SLOT, Prefetch


def paced(prefetch: Prefetch, *, slots: int, run: float, pause: float = 0.0, seconds: float = 1.0) -> float:
    """Slots that are all busy, each with one handler after another; the time at the end."""
    now, turn = 100.0, run + pause
    while now < 100.0 + seconds:
        now += turn / slots
        prefetch.ended([run], now)
    return now


@pytest.mark.parametrize(
    ("slots", "run", "pause", "least", "most"),
    [
        (20, 0.0002, 0.0018, 80, 100),  # polls are slower than handlers: what has started in 10 ms
        (20, 0.0008, 0.0, 180, 200),  # 10 for each slot
        (1, 0.0002, 0.0, 0, 0),  # with one slot jobs start in the order of their lane
        (2, 0.0002, 0.0, 20, 20),
        (100, 0.01, 0.004, 60, 72),  # what has started in 10 ms
        (100, 0.01, 0.0, 90, 100),
        (200, 0.001, 0.0, 256, 256),
        (20, 0.1, 0.0, 1, 2),
        (20, 1.0, 0.0, 0, 0),
        (200, 10.0, 0.0, 0, 0),
    ],
)
def test_as_many_are_prefetched_as_start_within_the_time(
    slots: int, run: float, pause: float, least: int, most: int
) -> None:
    prefetch = Prefetch(slots, 0.01)

    now = paced(prefetch, slots=slots, run=run, pause=pause)

    assert least <= prefetch.allowed(now) <= most


def test_nothing_is_prefetched_before_a_handler_has_ended_or_where_it_is_turned_off() -> None:
    assert Prefetch(20, 0.01).allowed(100.0) == 0
    off = Prefetch(20, 0.0)
    assert off.allowed(paced(off, slots=20, run=0.001)) == 0


def test_nothing_is_prefetched_after_long_handlers_that_all_end_at_once() -> None:
    prefetch = Prefetch(20, 0.01)

    prefetch.ended([1.0] * 20, 100.0)

    assert prefetch.allowed(100.0) == 0


def test_nothing_is_prefetched_while_no_handler_ends() -> None:
    prefetch = Prefetch(20, 0.01)
    now = paced(prefetch, slots=20, run=0.001)
    assert prefetch.allowed(now) == 200

    assert prefetch.allowed(now + 0.5) < 2
    assert prefetch.allowed(now + 1.0) == 0


def test_after_a_stall_prefetching_begins_again_with_handlers_that_end() -> None:
    prefetch = Prefetch(20, 0.01)
    now = paced(prefetch, slots=20, run=0.001)

    prefetch.stalled()

    assert prefetch.allowed(now) == 0
    prefetch.ended([0.001] * 200, now)
    assert prefetch.allowed(now) == 20


@pytest.mark.parametrize("seed", range(20))
def test_never_more_are_prefetched_than_the_bounds_say(seed: int) -> None:
    rng = random.Random(seed)
    slots, seconds, now = rng.choice((1, 2, 20, 1_000)), rng.choice((0.001, 0.01, 1.0)), 0.0
    prefetch = Prefetch(slots, seconds)
    shortest = rng.choice((1e-6, 1e-3, 1.0))
    for _ in range(500):
        now += rng.expovariate(slots / shortest)
        prefetch.ended([shortest * rng.uniform(1, 10) for _ in range(rng.randint(1, 5))], now)
        if rng.random() < 0.05:
            prefetch.stalled()
        allowed = prefetch.allowed(now + rng.choice((0.0, 0.01, 10.0)))
        assert 0 <= allowed <= min(MOST, MOST_PER_SLOT * slots, slots * seconds / shortest)


@pytest.mark.parametrize("seed", range(20))
def test_attempts_start_in_order_and_never_more_than_there_are_slots(seed: int) -> None:
    rng = random.Random(seed)
    pool: Pool[Any] = Pool(rng.choice((1, 3, 20)), [], [], 0.01)
    received: list[Any] = []
    running: list[Any] = []
    started: list[Any] = []
    for number in range(300):
        act = rng.random()
        if act < 0.5:
            attempt = SimpleNamespace(exec_id=number.to_bytes(16, "big"), prefetched=False)
            received.append(attempt)
            pool.receive(attempt, float(number))
        elif act < 0.9 and running:
            pool.release(running.pop(rng.randrange(len(running))))
        elif standing := [a for a in received if a not in started]:  # cancelled, or given back
            attempt = rng.choice(standing)
            received.remove(attempt)
            pool.release(attempt)
            assert attempt.prefetched
        begun = pool.startable()
        started.extend(begun)
        running.extend(begun)
        assert len(running) == min(pool.capacity, pool.used)
        assert pool.prefetched == pool.used - len(running)
    assert started == received[: len(started)]
    assert not any(attempt.prefetched for attempt in started)


def test_a_prefetched_attempt_that_has_waited_for_too_long_is_overdue() -> None:
    pool: Pool[Any] = Pool(1, [], [], 0.01)
    attempts = [SimpleNamespace(exec_id=bytes([n]) * 16, prefetched=False) for n in range(4)]
    for when, attempt in zip((10.0, 10.0, 10.03, 10.04), attempts, strict=True):
        pool.receive(attempt, when)
    pool.startable()

    assert pool.overdue(10.049) == []
    assert pool.overdue(10.051) == [attempts[1]]
    assert pool.overdue(10.1) == attempts[1:]
