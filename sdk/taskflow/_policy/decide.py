"""The consequence of an outcome. Decides durations; SQL turns them into instants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from taskflow._policy.backoff import DEFAULT_BACKOFF, Backoff
from taskflow._policy.states import Deferral, Outcome


@dataclass(frozen=True, slots=True)
class Defer:
    """The job runs again, `delay` seconds from now."""

    delay: float
    reason: Deferral


@dataclass(frozen=True, slots=True)
class Change:
    """The decision: the attempt's outcome, the tries used with it, and the next step (None: the job is final)."""

    outcome: Outcome
    tries: int
    then: Defer | None

    @property
    def final(self) -> bool:
        return self.then is None


_USES_A_TRY = frozenset({Outcome.SUCCEEDED, Outcome.FAILED, Outcome.TIMED_OUT, Outcome.LOST, Outcome.CANCELLED})


def decide(
    outcome: Outcome,
    *,
    tries: int,
    retries: int,
    rng: Callable[[], float],
    backoff: Backoff = DEFAULT_BACKOFF,
    delay: float | None = None,
    final_error: bool = False,
    cancelling: bool = False,
) -> Change:
    """The change that `outcome` makes to a job of which `tries` were used before (R3, R4, R7).

    `delay`: seconds that the handler asked for. A cancelled job is not tried again, whatever its attempt
    came to; one that succeeded before the wish reached it did succeed. A lost attempt is queued again at once:
    what it waited for, its lease, is over.
    """
    if cancelling and outcome is not Outcome.SUCCEEDED:
        outcome = Outcome.CANCELLED
    used = tries + (outcome in _USES_A_TRY)
    if outcome is Outcome.SNOOZED:
        return Change(outcome, used, Defer(max(delay or 0.0, 0.0), Deferral.SNOOZED))
    if outcome is Outcome.RETURNED:
        return Change(outcome, used, Defer(0.0, Deferral.RETURNED))
    if outcome in (Outcome.SUCCEEDED, Outcome.CANCELLED) or final_error or used > retries:
        return Change(outcome, used, None)
    if outcome is Outcome.LOST:
        return Change(outcome, used, Defer(0.0, Deferral.RETRYING))
    wait = max(delay, 0.0) if delay is not None else backoff.delay(used, rng)
    return Change(outcome, used, Defer(wait, Deferral.RETRYING))
