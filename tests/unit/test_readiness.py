"""A service is ready while none of its parts waits."""

from __future__ import annotations

import asyncio

from taskflow_server.core.errors import Unavailable
from taskflow_server.runtime import logs
from taskflow_server.runtime.readiness import Readiness

log = logs.get("test")
AWAY = Unavailable("away")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_service_is_ready_again_when_the_last_of_its_parts_is() -> None:
    readiness = Readiness(Clock())
    first, second = (readiness.outage(log, "first"), readiness.outage(log, "second"))

    ready = []
    for step in (first.over, lambda: first.failed(AWAY), lambda: second.failed(AWAY), first.over, first.over):
        step()
        ready.append(readiness.ready)
    second.over()

    assert ready == [True, False, False, False, False]
    assert readiness.ready


def test_a_failure_of_a_part_that_does_not_try_again_by_itself_is_over_after_its_time() -> None:
    clock = Clock()
    readiness = Readiness(clock)
    asked, tried = readiness.outage(log, "asked", lasts=5.0), readiness.outage(log, "tried")

    asked.failed(AWAY)
    clock.now += 4.9
    assert not readiness.ready
    asked.failed(AWAY)
    clock.now += 4.9
    assert not readiness.ready
    clock.now += 0.2
    assert readiness.ready

    tried.failed(AWAY)
    clock.now += 1e9
    assert not readiness.ready


async def test_each_change_is_passed_on_once() -> None:
    told: list[bool] = []
    changed = asyncio.Event()

    async def serving(ready: bool) -> None:
        told.append(ready)
        changed.set()

    readiness = Readiness(Clock())
    part = readiness.outage(log, "part")
    part.failed(AWAY)  # before anybody follows
    following = asyncio.create_task(readiness.follow(serving))
    for step in (lambda: None, part.over, lambda: part.failed(AWAY)):
        step()
        async with asyncio.timeout(5):
            await changed.wait()
        changed.clear()
    part.failed(AWAY)
    following.cancel()

    assert told == [False, True, False]
