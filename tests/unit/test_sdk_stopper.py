"""How the worker ends attempts from outside: the table of `taskflow._worker.stopper`, without a cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from taskflow._handlers import outcomes
from taskflow._handlers.outcomes import Verdict
from taskflow._handlers.task import make_handler
from taskflow._transport.clock import SYSTEM
from taskflow._transport.io_thread import Mailbox
from taskflow._worker.attempt import Attempt, AttemptPorts, HandlerSlot
from taskflow._worker.pool import Pool
from taskflow._worker.stopper import Stopper
from taskflow._worker.timers import Timers
from taskflow.v1 import queue_pb2

STOPS: dict[int, Callable[[Stopper, Attempt], None]] = {
    outcomes.TIMED_OUT: Stopper.time_out,
    outcomes.CANCELLED: lambda stopper, attempt: stopper.cancel(attempt, "enough"),
    outcomes.LOST: Stopper.lose,
    outcomes.RETURNED: Stopper.give_back,
}


@dataclass
class Executor:
    """Runs nothing; `stopped` has what it was asked to end, and whether gently."""

    stoppable: bool
    stopped: list[tuple[Attempt, bool]] = field(default_factory=list)

    def submit(self, attempts: list[Attempt]) -> None: ...

    def stop(self, attempt: Attempt, gently: bool) -> None:
        self.stopped.append((attempt, gently))

    async def close(self) -> None: ...


class Ends:
    """A stopper, and what it says of each attempt."""

    def __init__(self) -> None:
        self.timers = Timers(SYSTEM)
        self.settled: list[int] = []
        self.settled_once = asyncio.Event()
        self.released = self.dropped = 0
        self.stopper = Stopper(self.timers, 0.0, settle=self._settle, release=self._release, drop=self._drop)

    def _settle(self, attempt: Attempt, verdict: Verdict, at: float) -> None:
        attempt.verdict = verdict
        self.settled.append(verdict.outcome)
        self.settled_once.set()

    def _release(self, attempt: Attempt) -> None:
        self.released += 1

    def _drop(self, attempt: Attempt) -> None:
        self.dropped += 1


def attempt_for(executor: Executor) -> Attempt:
    loop = asyncio.get_running_loop()
    finished, noted, limited = (Mailbox(loop, lambda arrived: None) for _ in range(3))
    ports = AttemptPorts(
        SYSTEM, lambda shard, epoch, now: True, finished, noted, limited, lambda attempt: concurrent.futures.Future()
    )
    slot = HandlerSlot(make_handler("add", lambda: None, None), executor, Pool(1, ["add"], []))
    wire = queue_pb2.Assignment(exec_id=b"e" * 16, job_id=b"j" * 16, attempt=1)
    wire.options.timeout.FromSeconds(5)
    return Attempt(ports, slot, b"w" * 16, queue_pb2.LaneTasks(queue="q", task="add"), wire)


@pytest.mark.parametrize("outcome", [o for o in STOPS if o != outcomes.LOST])
async def test_an_attempt_that_has_not_started_ends_at_once_and_never_starts(outcome: int) -> None:
    ends, attempt = Ends(), attempt_for(Executor(stoppable=True))

    STOPS[outcome](ends.stopper, attempt)

    assert (ends.settled, ends.released, ends.dropped) == ([outcome], 1, 0)
    assert not attempt.start()


async def test_a_lost_attempt_that_has_not_started_has_no_outcome() -> None:
    ends, attempt = Ends(), attempt_for(Executor(stoppable=True))

    ends.stopper.lose(attempt)

    assert (ends.settled, ends.released, ends.dropped) == ([], 0, 1)
    assert not attempt.start()


@pytest.mark.parametrize("outcome", STOPS)
async def test_a_running_handler_is_told_and_a_thread_is_waited_for_unless_its_time_is_over(outcome: int) -> None:
    ends, executor = Ends(), Executor(stoppable=False)
    attempt = attempt_for(executor)
    assert attempt.start()

    STOPS[outcome](ends.stopper, attempt)

    assert executor.stopped == [(attempt, outcome == outcomes.CANCELLED)]
    assert attempt.cancelled
    assert attempt.forced is not None and attempt.forced.outcome == outcome
    assert ends.settled == ([outcome] if outcome in (outcomes.TIMED_OUT, outcomes.RETURNED) else [])


async def test_a_handler_that_ignores_its_end_is_settled_after_a_while() -> None:
    ends, executor = Ends(), Executor(stoppable=True)
    attempt = attempt_for(executor)
    assert attempt.start()

    ends.stopper.give_back(attempt)
    assert ends.settled == []
    async with asyncio.timeout(10):
        await ends.settled_once.wait()

    assert ends.settled == [outcomes.RETURNED]
    ends.timers.close()


async def test_a_cancel_does_not_replace_what_an_attempt_ends_as_already() -> None:
    ends, attempt = Ends(), attempt_for(Executor(stoppable=False))
    assert attempt.start()
    ends.stopper.lose(attempt)

    ends.stopper.cancel(attempt, "too late")
    ends.stopper.revoke(attempt)

    assert attempt.forced is not None and attempt.forced.outcome == outcomes.LOST
    assert attempt.forced.failure is not None and attempt.forced.failure.type == "WorkerCutOff"
