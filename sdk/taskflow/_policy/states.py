"""The life of a job: every state, every event, every transition. Nothing else changes a job's state.

No table holds a state: `state_of` derives it from facts. SQL has the same derivation for lists and views, the function
`taskflow.job_state`; `tests/store/test_states.py` compares both.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, StrEnum


class JobState(StrEnum):
    """Where a job stands. `succeeded`, `failed` and `cancelled` are final."""

    SCHEDULED = "scheduled"
    READY = "ready"
    REQUESTED = "requested"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def number(self) -> int:
        """That of the proto enum `JobState`: its place here, from 1. A new state goes to the end."""
        return _NUMBERS[self]

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self in FINAL_STATES


class Outcome(IntEnum):
    """How an attempt ended. Numbers are those of the proto enum `Outcome` and of `attempts.outcome`."""

    SUCCEEDED = 1
    FAILED = 2
    TIMED_OUT = 3
    LOST = 4
    CANCELLED = 5
    SNOOZED = 6
    RETURNED = 7


class Deferral(IntEnum):
    """Why a job waits for a time. Numbers are those of `deferred.reason`."""

    SCHEDULED = 1
    RETRYING = 2
    SNOOZED = 3
    RETURNED = 4
    BY_HAND = 5
    BLOCKED = 6  # due, and waiting for a permit under a limit


class Event(Enum):
    """Events of a job."""

    DUE = "due"  # its time has come
    HAND_OUT = "hand_out"  # a worker was given it
    START = "start"
    SUCCEED = "succeed"
    FAIL_WITH_TRIES = "fail_with_tries"  # failed, timed out or lost, tries left
    FAIL = "fail"  # the same, none left or none wanted
    SNOOZE = "snooze"
    RETURN = "return"  # given back: drained, voided, requested for too long
    CANCEL = "cancel"
    RETRY_BY_HAND = "retry_by_hand"


FINAL_STATES = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
STATES: Mapping[int, JobState] = dict(enumerate(JobState, 1))
_NUMBERS: Mapping[JobState, int] = {state: number for number, state in STATES.items()}

# The state after a final attempt; every other outcome makes the job `failed`.
_ENDS: Mapping[int, JobState] = {Outcome.SUCCEEDED: JobState.SUCCEEDED, Outcome.CANCELLED: JobState.CANCELLED}

_S, _E = JobState, Event

TRANSITIONS: Mapping[tuple[JobState, Event], JobState] = {
    (_S.SCHEDULED, _E.DUE): _S.READY,
    (_S.SCHEDULED, _E.CANCEL): _S.CANCELLED,
    (_S.READY, _E.HAND_OUT): _S.REQUESTED,
    (_S.READY, _E.CANCEL): _S.CANCELLED,
    (_S.READY, _E.FAIL): _S.FAILED,  # handed out too often without a start: R4
    (_S.REQUESTED, _E.START): _S.RUNNING,
    (_S.REQUESTED, _E.RETURN): _S.READY,
    (_S.REQUESTED, _E.CANCEL): _S.CANCELLED,
    (_S.RUNNING, _E.SUCCEED): _S.SUCCEEDED,
    (_S.RUNNING, _E.FAIL): _S.FAILED,
    (_S.RUNNING, _E.FAIL_WITH_TRIES): _S.RETRYING,
    (_S.RUNNING, _E.SNOOZE): _S.SCHEDULED,
    (_S.RUNNING, _E.RETURN): _S.READY,
    (_S.RUNNING, _E.CANCEL): _S.CANCELLED,
    (_S.RETRYING, _E.DUE): _S.READY,
    (_S.RETRYING, _E.CANCEL): _S.CANCELLED,
    (_S.SUCCEEDED, _E.RETRY_BY_HAND): _S.READY,
    (_S.FAILED, _E.RETRY_BY_HAND): _S.READY,
    (_S.CANCELLED, _E.RETRY_BY_HAND): _S.READY,
}


def next_state(state: JobState, event: Event) -> JobState | None:
    """The state that follows, or None when the event cannot happen in `state`."""
    return TRANSITIONS.get((state, event))


def state_of(
    *,
    started: bool | None = None,
    due: bool | None = None,
    reason: int | None = None,
    final: bool | None = None,
    outcome: int | None = None,
) -> JobState:
    """The state by the first fact that there is: a lease, else a row of `deferred`, else the last attempt.

    `started` is that of the lease and None without one; `due` and `reason` are those of the row of `deferred`, and
    None without one; `final` and `outcome` are those of the last attempt, and None without one.
    """
    if started is not None:
        return JobState.RUNNING if started else JobState.REQUESTED
    if due is not None:
        waiting = JobState.RETRYING if reason == Deferral.RETRYING else JobState.SCHEDULED
        return JobState.READY if due else waiting
    if final and outcome is not None:
        return _ENDS.get(outcome, JobState.FAILED)
    return JobState.READY
