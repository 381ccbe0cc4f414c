"""Workflows and runs as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from taskflow._values import checks
from taskflow._values.jobs import ErrorInfo, JobState, JobWarning, _time, warnings_of
from taskflow.errors import InvalidArgument
from taskflow.v1 import jobs_pb2
from taskflow.v1 import workflows_pb2 as pb


class RunState(StrEnum):
    """Where a run stands. The last three are final."""

    NEW = "new"
    RUNNING = "running"
    CANCELLING = "cancelling"
    ENDING = "ending"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


class StepState(StrEnum):
    """Where a step of a run stands. The last four are final."""

    PENDING = "pending"
    RUNNING = "running"
    WAITING = "waiting"
    HELD = "held"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class WorkflowInfo:
    """A version of a workflow. Lists leave the document out."""

    name: str
    version: int
    document: dict[str, Any] | None
    digest: str
    title: str
    create_time: datetime | None
    cron: str
    """Its own schedule's; empty without one."""
    next_run_at: datetime | None
    last_run_at: datetime | None
    warnings: tuple[JobWarning, ...] = ()
    """Why nobody runs jobs of its steps; at most 20, none in lists."""


@dataclass(frozen=True, slots=True)
class RunJobInfo:
    """A job of a step, or a run that it has started."""

    job_id: str
    run_id: str
    iteration: int
    index: int
    task: str
    """Or the started run's workflow."""
    state: JobState | RunState | None
    """None: it could not be made, or is gone."""


@dataclass(frozen=True, slots=True)
class StepInfo:
    """A step of a run, as it stood last."""

    name: str
    kind: str
    state: StepState
    iteration: int
    """How often it began."""
    error: ErrorInfo | None
    start_time: datetime | None
    finish_time: datetime | None
    due_time: datetime | None
    """Until when it waits."""
    jobs: tuple[RunJobInfo, ...]
    """All its iterations, oldest first."""


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as it stood when it was asked for. Lists leave input, output, steps and logs out."""

    id: str
    workflow: str
    version: int
    state: RunState
    input: Any
    output: Any
    error: ErrorInfo | None
    metadata: dict[str, str]
    label: str
    trigger: str
    schedule_id: str
    parent_run_id: str
    create_time: datetime | None
    start_time: datetime | None
    finish_time: datetime | None
    steps: tuple[StepInfo, ...]
    signals: tuple[str, ...]
    """That its steps wait for."""
    waiting: bool
    """Nothing of it is under way: it waits for a time or a signal, or to begin."""
    sla_missed: bool
    logs: tuple[tuple[datetime, str], ...]
    """The omitted part, and why."""

    def step(self, name: str) -> StepInfo:
        """The step of this name. KeyError when there is none."""
        return {step.name: step for step in self.steps}[name]


_RUN_STATES = {pb.RunState.Value(f"RUN_STATE_{state.name}"): state for state in RunState}
_STEP_STATES = {pb.StepState.Value(f"STEP_STATE_{state.name}"): state for state in StepState}
_JOB_STATES = {getattr(jobs_pb2, f"JOB_STATE_{state.name}"): state for state in JobState}


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
        create_time=_time(message, "create_time"),
        cron=message.cron,
        next_run_at=_time(message, "next_run_time"),
        last_run_at=_time(message, "last_run_time"),
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
        create_time=_time(message, "create_time"),
        start_time=_time(message, "start_time"),
        finish_time=_time(message, "finish_time"),
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
        start_time=_time(message, "start_time"),
        finish_time=_time(message, "finish_time"),
        due_time=_time(message, "due_time"),
        jobs=tuple(map(_job, message.jobs)),
    )


def _job(message: pb.RunJob) -> RunJobInfo:
    state = _JOB_STATES.get(message.job_state) or _RUN_STATES.get(message.run_state)
    return RunJobInfo(message.job_id, message.run_id, message.iteration, message.index, message.task, state)


def _error(message: pb.Run | pb.RunStep) -> ErrorInfo | None:
    return ErrorInfo(message.error.type, message.error.message) if message.HasField("error") else None
