"""Workflows: the meaning of a document, and the effects of an event. Pure: no I/O, no clock, no randomness.

definition = Definition.parse(document)             # cache it, by workflow and version
new = advance(definition, run, state, event, now)   # store new.state, perform new.changes

Names are imported at their first use: the modules that read documents cost 75 ms and some MB, which a cluster without
workflows does not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskflow_server.core.workflow.changes import (
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
    from taskflow_server.core.workflow.definition import Definition
    from taskflow_server.core.workflow.document import BadDocument, Problem
    from taskflow_server.core.workflow.engine import Advance, WrongDefinition, advance, broken
    from taskflow_server.core.workflow.events import (
        CancelRequested,
        Event,
        JobFinished,
        RetryRequested,
        Signal,
        Started,
        TimerDue,
    )
    from taskflow_server.core.workflow.kinds import Jobs, JobSpec, Kind, Moment, Wait
    from taskflow_server.core.workflow.models import Strict
    from taskflow_server.core.workflow.planning import Limits
    from taskflow_server.core.workflow.registry import KINDS, register
    from taskflow_server.core.workflow.schema import json_schema
    from taskflow_server.core.workflow.signals import unfit
    from taskflow_server.core.workflow.state import (
        FINAL_RUNS,
        FINAL_STEPS,
        Run,
        RunState,
        RunStatus,
        StepState,
        StepStatus,
    )
    from taskflow_server.core.workflow.values import BadValue
    from taskflow_server.core.workflow.wanted import Wanted, wanted

__all__ = [
    "FINAL_RUNS",
    "FINAL_STEPS",
    "KINDS",
    "Advance",
    "BadDocument",
    "BadValue",
    "CancelJob",
    "CancelRequested",
    "CancelTimer",
    "Change",
    "CreateJob",
    "Definition",
    "Event",
    "JobFinished",
    "JobSpec",
    "Jobs",
    "Kind",
    "Limits",
    "Moment",
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
    "Strict",
    "TimerDue",
    "Wait",
    "Wanted",
    "WrongDefinition",
    "advance",
    "broken",
    "decision_task",
    "json_schema",
    "register",
    "unfit",
    "wanted",
]

_MODULES = {
    "changes": (
        "CancelJob CancelTimer Change CreateJob Note RunChanged RunFinished SetTimer StartRun StepChanged decision_task"
    ),
    "definition": "Definition",
    "document": "BadDocument Problem",
    "engine": "Advance WrongDefinition advance broken",
    "events": "CancelRequested Event JobFinished RetryRequested Signal Started TimerDue",
    "kinds": "JobSpec Jobs Kind Moment Wait",
    "models": "Strict",
    "planning": "Limits",
    "registry": "KINDS register",
    "schema": "json_schema",
    "signals": "unfit",
    "values": "BadValue",
    "wanted": "Wanted wanted",
    "state": "FINAL_RUNS FINAL_STEPS Run RunState RunStatus StepState StepStatus",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
