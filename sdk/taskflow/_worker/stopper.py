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
from collections.abc import Callable

from taskflow._handlers import outcomes
from taskflow._handlers.outcomes import Failure, Verdict
from taskflow._messages import ids
from taskflow._worker.attempt import Attempt
from taskflow._worker.timers import Timers

log = logging.getLogger("taskflow")

_PATIENCE = 1.0  # from a handler's cancellation to its end


class Stopper:
    """On the I/O loop. `settle`: its outcome is known, since a moment; `release`: its slot is free; `drop`: it never
    started."""

    def __init__(
        self,
        timers: Timers,
        cancel_grace: float,
        *,
        settle: Callable[[Attempt, Verdict, float], None],
        release: Callable[[Attempt], None],
        drop: Callable[[Attempt], None],
    ) -> None:
        self._timers = timers
        self._clock = timers.clock
        self._cancel_grace = cancel_grace
        self._settle = settle
        self._release = release
        self._drop = drop

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

    def _after(self, attempt: Attempt, when: float, then: Callable[[Attempt], None]) -> None:
        attempt.timers.append(self._timers.after(max(0.0, when - self._clock.monotonic()), lambda: then(attempt)))

    def time_out(self, attempt: Attempt) -> None:
        message = f"still running {attempt.timeout:g} s after its start"
        self.stop(attempt, Verdict(outcomes.TIMED_OUT, failure=Failure("TimedOut", message)))

    def _listen(self, attempt: Attempt) -> None:
        limit = attempt.heartbeat_timeout
        assert limit is not None
        due = attempt.beat_at + limit
        if due > self._clock.monotonic():
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
        attempt.cancelled = True
        if attempt.claim():
            if verdict.outcome == outcomes.LOST:
                self._drop(attempt)  # never started: its owner knows what to do
            else:
                self._release(attempt)
                self._settle(attempt, verdict, self._clock.monotonic())
            return
        attempt.forced = verdict
        attempt.executor.stop(attempt, gently)
        if attempt.executor.stoppable:
            patience = self._cancel_grace + _PATIENCE if gently else _PATIENCE
            self._timers.after(patience, lambda: self._no_longer(attempt, verdict))
        elif verdict.outcome in (outcomes.TIMED_OUT, outcomes.RETURNED):
            self._settle(attempt, verdict, self._clock.monotonic())

    def _no_longer(self, attempt: Attempt, verdict: Verdict) -> None:
        """Its handler ignores its end, or its loop is blocked: the outcome need not wait."""
        if attempt.verdict is None and attempt.forced is verdict:
            self._settle(attempt, verdict, self._clock.monotonic())


def merged(forced: Verdict | None, own: Verdict) -> Verdict:
    """The attempt's outcome: see the table above."""
    if forced is None:
        return own
    if own.outcome == outcomes.SUCCEEDED and forced.outcome != outcomes.TIMED_OUT:
        return own
    return forced
