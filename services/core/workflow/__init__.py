"""Workflows: what a document means, and what follows from an event. Pure: no I/O, no clock, no chance.

definition = Definition.parse(document)             # keep it, by workflow and version
new = advance(definition, run, state, event, now)   # new.state is to be stored, new.changes to be done
"""

from services.core.workflow.changes import (
    CancelJob,
    CancelTimer,
    Change,
    CreateJob,
    Note,
    RunChanged,
    RunFinished,
    SetTimer,
    StartRun,
    StepChanged,
)
from services.core.workflow.decisions import decision_task
from services.core.workflow.definition import Definition
from services.core.workflow.document import BadDocument, Problem
from services.core.workflow.engine import Advance, WrongDefinition, advance, broken
from services.core.workflow.events import (
    CancelRequested,
    Event,
    JobFinished,
    RetryRequested,
    Signal,
    Started,
    TimerDue,
)
from services.core.workflow.planning import Limits
from services.core.workflow.registry import KINDS, register
from services.core.workflow.schema import json_schema
from services.core.workflow.signals import unfit
from services.core.workflow.state import FINAL_RUNS, FINAL_STEPS, Run, RunState, RunStatus, StepState, StepStatus

__all__ = [
    "FINAL_RUNS",
    "FINAL_STEPS",
    "KINDS",
    "Advance",
    "BadDocument",
    "CancelJob",
    "CancelRequested",
    "CancelTimer",
    "Change",
    "CreateJob",
    "Definition",
    "Event",
    "JobFinished",
    "Limits",
    "Note",
    "Problem",
    "RetryRequested",
    "Run",
    "RunChanged",
    "RunFinished",
    "RunState",
    "RunStatus",
    "SetTimer",
    "Signal",
    "StartRun",
    "Started",
    "StepChanged",
    "StepState",
    "StepStatus",
    "TimerDue",
    "WrongDefinition",
    "advance",
    "broken",
    "decision_task",
    "json_schema",
    "register",
    "unfit",
]
