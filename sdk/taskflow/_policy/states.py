"""The life of a job: every state, every event, every transition. Nothing else changes a job's state."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum


class JobState(IntEnum):
    """Numbers are those of the proto enum `JobState`."""

    SCHEDULED = 1
    READY = 2
    REQUESTED = 3
    RUNNING = 4
    RETRYING = 5
    SUCCEEDED = 6
    FAILED = 7
    CANCELLED = 8


class Outcome(IntEnum):
    """How an attempt ended. Numbers are those of the proto enum `Outcome` and of `attempts.outcome`."""

    SUCCEEDED = 1
    FAILED = 2
    TIMED_OUT = 3
    LOST = 4
    CANCELLED = 5
    SNOOZED = 6
    RETURNED = 7


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
