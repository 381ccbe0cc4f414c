"""A step of the database's clock is told from a query that took long."""

from __future__ import annotations

import time

import pytest

from taskflow_server.runtime.clock import SystemClock

NOW_US = 1_800_000_000_000_000


@pytest.mark.feature("S1.5", "M.11")
@pytest.mark.parametrize(
    ("passed", "took", "jump"),
    [
        (0.0, 0.0, 0.0),
        (3600.0, 0.0, 3600.0),  # the clock was put forward by an hour
        (-3600.0, 0.0, -3600.0),
        (-4.0, 4.0, 0.0),  # the query was sent 4 s ago, and the clock read at once
        (-10.0, 4.0, -6.0),
    ],
)
def test_a_jump_is_what_the_time_of_the_two_queries_does_not_explain(passed: float, took: float, jump: float) -> None:
    clock = SystemClock()

    first = clock.set_now_us(NOW_US, time.monotonic())
    second = clock.set_now_us(NOW_US + int(passed * 1e6), time.monotonic() - took)

    assert first == 0.0
    assert second == pytest.approx(jump, abs=0.5)


def test_a_first_reading_far_from_the_machine_s_own_clock_is_no_step() -> None:
    assert SystemClock().set_now_us(NOW_US * 2, time.monotonic()) == 0.0
