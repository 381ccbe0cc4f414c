"""Workflows: what a document means, and what follows from an event. Pure: no I/O, no clock, no chance.

definition = Definition.parse(document)             # keep it, by workflow and version
new = advance(definition, run, state, event, now)   # new.state is to be stored, new.changes to be done

What is named here is imported when it is first used: reading documents takes 75 ms and some MB, which a cluster
without workflows need not have.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
        decision_task,
    )
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

_MODULES = {
    "changes": (
        "CancelJob CancelTimer Change CreateJob Note RunChanged RunFinished SetTimer StartRun StepChanged decision_task"
    ),
    "definition": "Definition",
    "document": "BadDocument Problem",
    "engine": "Advance WrongDefinition advance broken",
    "events": "CancelRequested Event JobFinished RetryRequested Signal Started TimerDue",
    "planning": "Limits",
    "registry": "KINDS register",
    "schema": "json_schema",
    "signals": "unfit",
    "state": "FINAL_RUNS FINAL_STEPS Run RunState RunStatus StepState StepStatus",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
