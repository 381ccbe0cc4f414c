"""Rules without I/O, shared by SDK, `taskflow.testing` and services: states, backoff, what follows an outcome."""

from taskflow._policy.backoff import DEFAULT_BACKOFF, Backoff
from taskflow._policy.decide import Change, Defer, Deferral, decide
from taskflow._policy.names import BUILTIN_TASKS, RUN_OF_JOB, STEP_OF_JOB
from taskflow._policy.states import FINAL_STATES, TRANSITIONS, Event, JobState, Outcome, next_state

__all__ = [
    "BUILTIN_TASKS",
    "DEFAULT_BACKOFF",
    "FINAL_STATES",
    "RUN_OF_JOB",
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
    "next_state",
]
