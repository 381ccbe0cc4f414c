"""Messages of workflows and runs as values, and arguments as parts of such messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from taskflow._messages import checks
from taskflow._messages.jobs import time_of, warnings_of
from taskflow._policy import STATES
from taskflow._values.jobs import ErrorInfo
from taskflow._values.workflows import RunInfo, RunJobInfo, RunState, StepInfo, StepState, WorkflowInfo
from taskflow.errors import InvalidArgument
from taskflow.v1 import workflows_pb2 as pb

_RUN_STATES = {pb.RunState.Value(f"RUN_STATE_{state.name}"): state for state in RunState}
_STEP_STATES = {pb.StepState.Value(f"STEP_STATE_{state.name}"): state for state in StepState}


def run_state(state: RunState | str) -> pb.RunState.ValueType:
    """The message's number of a state, or of its name."""
    try:
        return pb.RunState.Value(f"RUN_STATE_{RunState(state).name}")
    except Exception:  # the enum shows the value, whose own code may raise
        raise checks.wrong(state, "states", f"one of {', '.join(RunState)}") from None


def document_text(document: str | Mapping[str, Any]) -> str:
    """A document as it is sent."""
    if isinstance(document, str):
        return checks.text(document, "document")
    if not isinstance(document, Mapping):
        raise checks.wrong(document, "document", "the text of a JSON document, nor a mapping")
    try:
        return checks.text(json.dumps(document, ensure_ascii=False), "document")
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"document: no JSON: {error}", field="document") from None


def value_bytes(value: Any, field: str) -> bytes:
    """A run's input, or a signal's payload: any JSON value."""
    try:
        return b"" if value is None else json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{field}: no JSON value: {error}", field=field) from None


def workflow_info(message: pb.Workflow) -> WorkflowInfo:
    """The value of a Workflow message."""
    return WorkflowInfo(
        name=message.name,
        version=message.version,
        document=json.loads(message.document) if message.document else None,
        digest=message.digest,
        title=message.title,
        create_time=time_of(message, "create_time"),
        cron=message.cron,
        next_run_at=time_of(message, "next_run_time"),
        last_run_at=time_of(message, "last_run_time"),
        warnings=warnings_of(message.warnings),
    )


def run_info(message: pb.Run) -> RunInfo:
    """The value of a Run message."""
    return RunInfo(
        id=message.id,
        workflow=message.workflow,
        version=message.version,
        state=_RUN_STATES[message.state],
        input=json.loads(message.input) if message.input else None,
        output=json.loads(message.output) if message.output else None,
        error=_error(message),
        metadata=dict(message.metadata),
        label=message.label,
        trigger=message.trigger,
        schedule_id=message.schedule_id,
        parent_run_id=message.parent_run_id,
        create_time=time_of(message, "create_time"),
        start_time=time_of(message, "start_time"),
        finish_time=time_of(message, "finish_time"),
        steps=tuple(map(_step, message.steps)),
        signals=tuple(message.signals),
        waiting=message.waiting,
        sla_missed=message.sla_missed,
        logs=tuple((log.time.ToDatetime(tzinfo=UTC), log.message) for log in message.logs),
    )


def _step(message: pb.RunStep) -> StepInfo:
    return StepInfo(
        name=message.name,
        kind=message.kind,
        state=_STEP_STATES[message.state],
        iteration=message.iteration,
        error=_error(message),
        start_time=time_of(message, "start_time"),
        finish_time=time_of(message, "finish_time"),
        due_time=time_of(message, "due_time"),
        jobs=tuple(map(_job, message.jobs)),
    )


def _job(message: pb.RunJob) -> RunJobInfo:
    state = STATES.get(message.job_state) or _RUN_STATES.get(message.run_state)
    return RunJobInfo(message.job_id, message.run_id, message.iteration, message.index, message.task, state)


def _error(message: pb.Run | pb.RunStep) -> ErrorInfo | None:
    return ErrorInfo(message.error.type, message.error.message) if message.HasField("error") else None
