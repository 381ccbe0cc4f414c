"""Ending attempts from outside: timeouts, cancels, a lost lease, the end of a drain's grace.

The outcome of an attempt that was stopped:

| stopped for   | its handler returned meanwhile | anything else |
|---------------|--------------------------------|---------------|
| its timeout   | timed out                      | timed out     |
| a cancel      | as it returned                 | cancelled     |
| a lost lease  | as it returned                 | lost          |
| a revoke      | as it returned                 | lost          |
| a drain       | as it returned                 | returned      |

A thread cannot be ended. Past its timeout or the drain's grace it is reported at once, and keeps its slot until
it ends; after a cancel or a lost lease it is waited for.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING

from taskflow._handlers import outcomes
from taskflow._handlers.outcomes import Failure, Verdict
from taskflow._messages import ids
from taskflow._worker.attempt import Attempt

if TYPE_CHECKING:
    from taskflow._worker.worker import Worker

log = logging.getLogger("taskflow")

_PATIENCE = 1.0  # from a handler's cancellation to its end


class Stops:
    """On the I/O loop."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def arm(self, started: deque[Attempt]) -> None:
        """Sets the alarms of attempts that have just started."""
        while started:
            attempt = started.popleft()
            if attempt.verdict is not None:
                continue
            if attempt.timeout is not None:
                self._after(attempt, attempt.started + attempt.timeout, self.time_out)
            if attempt.heartbeat_timeout is not None:
                self._after(attempt, attempt.started + attempt.heartbeat_timeout, self._listen)

    def _after(self, attempt: Attempt, when: float, then: object) -> None:
        timers = self._worker.timers
        assert callable(then)
        attempt.timers.append(timers.after(max(0.0, when - timers.clock.monotonic()), lambda: then(attempt)))

    def time_out(self, attempt: Attempt) -> None:
        message = f"still running {attempt.timeout:g} s after its start"
        self.stop(attempt, Verdict(outcomes.TIMED_OUT, failure=Failure("TimedOut", message)))

    def _listen(self, attempt: Attempt) -> None:
        limit = attempt.heartbeat_timeout
        assert limit is not None
        due = attempt.beat_at + limit
        if due > self._worker.clock.monotonic():
            attempt.timers.clear()
            self._after(attempt, due, self._listen)
            if attempt.timeout is not None:
                self._after(attempt, attempt.started + attempt.timeout, self.time_out)
            return
        message = f"no heartbeat or progress for {limit:g} s"
        self.stop(attempt, Verdict(outcomes.TIMED_OUT, failure=Failure("HeartbeatTimedOut", message)))

    def cancel(self, attempt: Attempt, reason: str) -> None:
        failure = Failure("Cancelled", reason or "cancelled")
        self.stop(attempt, Verdict(outcomes.CANCELLED, failure=failure), gently=True)

    def lose(self, attempt: Attempt) -> None:
        message = "the worker was cut off from its coordinator for two thirds of its lease"
        self.stop(attempt, Verdict(outcomes.LOST, failure=Failure("WorkerCutOff", message)))

    def revoke(self, attempt: Attempt) -> None:
        """Its job was started again elsewhere, or has ended."""
        if attempt.forced is not None and attempt.forced.outcome == outcomes.LOST:
            return  # it is being stopped already
        message = "the coordinator no longer counts on this attempt: it was declared lost, or its job has ended"
        log.warning("job %s, attempt %d: revoked; its handler is stopped", ids.show(attempt.job_id), attempt.number)
        self.stop(attempt, Verdict(outcomes.LOST, failure=Failure("AttemptRevoked", message)))

    def give_back(self, attempt: Attempt) -> None:
        self.stop(attempt, Verdict(outcomes.RETURNED))

    def stop(self, attempt: Attempt, verdict: Verdict, *, gently: bool = False) -> None:
        """Ends it with `verdict`, at once or as soon as its handler has ended."""
        if attempt.verdict is not None or (attempt.forced is not None and gently):
            return
        worker = self._worker
        attempt.cancelled = True
        if attempt.claim():
            if verdict.outcome == outcomes.LOST:
                worker.drop(attempt)  # never started: its owner knows what to do
            else:
                worker.release(attempt)
                worker.settle(attempt, verdict, worker.clock.monotonic())
            return
        attempt.forced = verdict
        attempt.executor.stop(attempt, gently)
        if attempt.executor.stoppable:
            patience = worker.options.cancel_grace + _PATIENCE if gently else _PATIENCE
            worker.timers.after(patience, lambda: self._no_longer(attempt, verdict))
        elif verdict.outcome in (outcomes.TIMED_OUT, outcomes.RETURNED):
            worker.settle(attempt, verdict, worker.clock.monotonic())

    def _no_longer(self, attempt: Attempt, verdict: Verdict) -> None:
        """Its handler ignores its end, or its loop is blocked: the outcome need not wait."""
        if attempt.verdict is None and attempt.forced is verdict:
            self._worker.settle(attempt, verdict, self._worker.clock.monotonic())


def merged(forced: Verdict | None, own: Verdict) -> Verdict:
    """The attempt's outcome: see the table above."""
    if forced is None:
        return own
    if own.outcome == outcomes.SUCCEEDED and forced.outcome != outcomes.TIMED_OUT:
        return own
    return forced
