"""Applies the events of a run and collects its changes: pure, except for a log line when the engine fails."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from taskflow._policy import Outcome
from taskflow_server.coordinator.runs.inputs import Heard
from taskflow_server.core.workflow import (
    FINAL_RUNS,
    FINAL_STEPS,
    CancelJob,
    CancelTimer,
    Change,
    CreateJob,
    Definition,
    Event,
    JobFinished,
    Note,
    RunFinished,
    RunState,
    RunStatus,
    SetTimer,
    Started,
    StartRun,
    StepChanged,
    StepStatus,
    advance,
    broken,
)
from taskflow_server.runtime import logs
from taskflow_server.store.runs import RunChanges, RunJobKey, RunRow, StepRow, TimerKey, TimerRow

log = logs.get("runs")

_OUTCOMES = {
    RunStatus.SUCCEEDED: Outcome.SUCCEEDED,
    RunStatus.FAILED: Outcome.FAILED,
    RunStatus.CANCELLED: Outcome.CANCELLED,
}
_NOT_BEGUN = (StepStatus.PENDING, StepStatus.SKIPPED)


@dataclass(slots=True)
class Worked:
    """The result of the events of a run."""

    heard: Heard
    state: RunState
    held: bool
    sla_missed: bool
    changes: list[Change] = field(default_factory=list)

    @property
    def begun(self) -> bool:
        return self.heard.state.status is RunStatus.NEW and self.state.status is not RunStatus.NEW

    @property
    def ended(self) -> bool:
        return self.state.status in FINAL_RUNS and any(isinstance(c, RunFinished) for c in self.changes)


def work_out(run: Heard, active: Counter[str]) -> Worked:
    """Applies the events of a run. `active` counts the active runs of its workflow, and is updated."""
    worked = Worked(run, run.state, run.held, run.sla_missed)
    for event in run.events():
        before = worked.state
        if isinstance(event, Started) and before.status is RunStatus.NEW:
            worked.held = run.concurrency is not None and active[run.workflow] >= run.concurrency
            if worked.held:
                continue
            if isinstance(run.definition, Definition) and run.definition.sla is not None:
                worked.sla_missed |= run.age > run.definition.sla
        found = _applied(run, before, event)
        worked.state = found[0]
        worked.changes += found[1]
        active[run.workflow] += _under_way(worked.state) - _under_way(before)
        if worked.state.status is not RunStatus.NEW:
            worked.held = False
    return worked


def _under_way(state: RunState) -> int:
    return state.status is not RunStatus.NEW and state.status not in FINAL_RUNS


def _applied(run: Heard, state: RunState, event: Event | str) -> tuple[RunState, Sequence[Change]]:
    if run.fault or isinstance(event, str) or isinstance(run.definition, str):
        found = broken(state, run.fault or str(event))
    else:
        try:
            found = advance(run.definition, run.run, state, event, run.now, run.limits)
        except Exception as error:  # a fault in TaskFlow, or a bad document: it fails only this run
            log.error("a run cannot go on, and fails", run=run.run.id, exc_info=error)
            found = broken(state, f"its events could not be applied ({type(error).__name__})")
    return found.state, found.changes


def changes_of(worked: Sequence[Worked]) -> RunChanges:
    """All rows except those of new jobs and new runs."""
    found = RunChanges()
    for run in worked:
        found.turns[run.heard.id] = run.heard.turn
        found.heard += [row["seq"] for row in run.heard.rows]
        if run.heard.unreadable and run.state is not run.heard.state:
            found.abandoned.append(run.heard.id)
        _row(run, found)
        _parts(run, found)
    return found


def _row(run: Worked, found: RunChanges) -> None:
    heard = run.heard
    if run.state is heard.state and (run.held, run.sla_missed) == (heard.held, heard.sla_missed):
        return
    if run.sla_missed and not heard.sla_missed:
        found.late.append(heard.id)
    end = next((c for c in reversed(run.changes) if isinstance(c, RunFinished)), None)
    output = json.dumps(end.output) if end is not None and end.status is RunStatus.SUCCEEDED else None
    error = json.dumps(end.error) if end is not None and end.error is not None else None
    state = None if heard.unreadable else json.dumps(run.state.to_json())
    found.runs.append(
        RunRow(
            heard.id, run.state.status.value, run.held, run.state.waiting, state,
            array(run.state.awaited), output, error, run.sla_missed, run.begun, run.state.status in FINAL_RUNS,
        )
    )  # fmt: skip
    if end is not None and run.ended and end.status is RunStatus.FAILED:
        found.failed.append(heard.id)
    if end is not None and run.ended and heard.parent is not None:
        parent_id, step, iteration = heard.parent
        outcome = _OUTCOMES[end.status]
        told = JobFinished(step, iteration, 0, outcome, end.output, end.error, str(heard.id))
        found.told.append((parent_id, told))


def _parts(run: Worked, found: RunChanges) -> None:
    heard = run.heard
    timers: dict[tuple[str, int], TimerRow] = {}
    steps: dict[str, StepRow] = {}
    found.stopped += [TimerKey(heard.id, timer.name, timer.iteration) for timer in heard.timers]
    for change in run.changes:
        match change:
            case SetTimer():
                row = TimerRow(heard.id, change.name, change.iteration, change.due, heard.shard, array(change.after))
                timers[change.name, change.iteration] = row
            case CancelTimer():
                if timers.pop((change.name, change.iteration), None) is None:
                    found.stopped.append(TimerKey(heard.id, change.name, change.iteration))
            case CancelJob():
                found.cancelled.append(RunJobKey(heard.id, change.step, change.iteration, change.index))
            case StepChanged():
                steps[change.step] = _step(heard, change, steps.get(change.step))
            case Note():
                found.logs.append((heard.id, change.message))
            case CreateJob() | StartRun():
                pass  # taskflow_server.coordinator.runs.create_jobs makes them
    found.timers += timers.values()
    found.steps += steps.values()


def _step(run: Heard, change: StepChanged, before: StepRow | None) -> StepRow:
    begun = change.status not in _NOT_BEGUN or (before is not None and before.begun)
    return StepRow(
        run.id, change.step, change.iteration, change.status.value, json.dumps(change.error) if change.error else None,
        datetime.fromisoformat(change.due) if change.due else None, begun, change.status in FINAL_STEPS,
        array(change.after) if change.after or before is None else before.after,
    )  # fmt: skip


def array(names: Sequence[str]) -> str:
    """Names of steps and signals as a Postgres array; no character in them needs quotes."""
    return "{" + ",".join(names) + "}"
