"""Rules without I/O, shared by SDK, `taskflow.testing` and services: states, backoff, what follows an outcome."""

from taskflow._policy.backoff import DEFAULT_BACKOFF, Backoff
from taskflow._policy.decide import Change, Defer, decide
from taskflow._policy.instants import EARLIEST, LATEST, LATEST_US, OUT_OF_RANGE, RANGE, is_instant
from taskflow._policy.leases import SOFT
from taskflow._policy.names import BUILTIN_TASKS, MAX_KEY, PRIORITIES, PRIORITY_OF_RUN, RUN_OF_JOB, STEP_OF_JOB
from taskflow._policy.states import (
    FINAL_STATES,
    STATES,
    TRANSITIONS,
    Deferral,
    Event,
    JobState,
    Outcome,
    next_state,
    state_of,
)

__all__ = [
    "BUILTIN_TASKS",
    "DEFAULT_BACKOFF",
    "EARLIEST",
    "FINAL_STATES",
    "LATEST",
    "LATEST_US",
    "MAX_KEY",
    "OUT_OF_RANGE",
    "PRIORITIES",
    "PRIORITY_OF_RUN",
    "RANGE",
    "RUN_OF_JOB",
    "SOFT",
    "STATES",
    "STEP_OF_JOB",
    "TRANSITIONS",
    "Backoff",
    "Change",
    "Defer",
    "Deferral",
    "Event",
    "JobState",
    "Outcome",
    "decide",
    "is_instant",
    "next_state",
    "state_of",
]
