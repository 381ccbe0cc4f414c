"""The engine: maps a definition, a run, its state, an event and the time to the new state and the changes.

Pure and total: no content of a document, a job's result or a signal can fail more than its own step or run. The same
arguments give the same result. An event that was applied before changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from taskflow_server.core.workflow import decisions, readiness, signals, values
from taskflow_server.core.workflow.changes import CancelJob, CancelTimer, Change, Note, RunFinished, StepChanged
from taskflow_server.core.workflow.definition import Definition
from taskflow_server.core.workflow.events import (
    CancelRequested,
    Event,
    JobFinished,
    RetryRequested,
    Signal,
    Started,
    TimerDue,
)
from taskflow_server.core.workflow.planning import Limits
from taskflow_server.core.workflow.state import (
    FINAL_RUNS,
    FINAL_STEPS,
    OPEN,
    Run,
    RunState,
    RunStatus,
    StepState,
    StepStatus,
)
from taskflow_server.core.workflow.turn import Turn


@dataclass(frozen=True, slots=True)
class Advance:
    """The new state, and the changes in their order. If the event changes nothing, the state is the old one."""

    state: RunState
    changes: Sequence[Change]


class WrongDefinition(ValueError):
    """The run started with another document (R24)."""


def advance(
    definition: Definition,
    run: Run,
    state: RunState,
    event: Event,
    now: datetime,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> Advance:
    """Applies `event` to a run. `now` is the database's time, with its zone."""
    if state.digest not in ("", definition.digest):
        raise WrongDefinition(f"run {run.id} started with document {state.digest}, not with {definition.digest}")
    if definition.decider is not None:
        return Advance(*decisions.advance(definition, run, state, event, now, limits))
    turn = Turn(definition, run, state, now, limits)
    match event:
        case Started():
            if turn.status is RunStatus.NEW:
                turn.become(RunStatus.RUNNING)
                turn.look_at(name for name, node in definition.steps.items() if not (node.depends_on or node.edges))
        case JobFinished():
            turn.job_ended(event)
        case TimerDue():
            _timer_due(turn, event)
        case Signal():
            _signal(turn, event)
        case CancelRequested():
            if turn.status in (RunStatus.NEW, RunStatus.RUNNING):
                turn.become(RunStatus.CANCELLING)
                turn.stop()
        case RetryRequested():
            _retry(turn, event)
    turn.settle()
    return Advance(turn.state(), turn.changes) if turn.changes or turn.moved else Advance(state, ())


def broken(state: RunState, message: str) -> Advance:
    """Fails a run that cannot continue: its document can no longer be read, or `advance` raised.

    Its open jobs are cancelled, and their ends change nothing. The run can be retried by hand.
    """
    if state.status in FINAL_RUNS:
        return Advance(state, ())
    changes: list[Change] = []
    steps = dict(state.steps)
    for name, step in state.steps.items():
        if step.status not in FINAL_STEPS:
            changes += [CancelJob(name, step.iteration, n) for n, job in enumerate(step.jobs) if job.outcome == OPEN]
            changes += [CancelTimer(name, step.iteration)] if step.due else []
            changes += [StepChanged(name, step.iteration, StepStatus.CANCELLED)]
            steps[name] = StepState(StepStatus.CANCELLED, step.iteration)
    changes += [CancelTimer(name, group.iteration) for name, group in state.groups.items() if group.due]
    groups = {name: replace(group, due=None, over=False) for name, group in state.groups.items()}
    changes += decisions.given_up(state.deciding)
    deciding = replace(state.deciding, open=False, news=(), tasks={})
    error = {"type": "broken_workflow", "message": message[: values.MAX_MESSAGE]}
    new = replace(state, status=RunStatus.FAILED, steps=steps, groups=groups, deciding=deciding)
    return Advance(new, [*changes, RunFinished(RunStatus.FAILED, None, error)])


def _timer_due(turn: Turn, event: TimerDue) -> None:
    if event.name in turn.definition.groups:
        group = turn.groups.get(event.name)
        if group and group.due is not None and group.iteration == event.iteration:
            turn.group_due(event.name)
        return
    state = turn.step(event.name)
    if state.status is StepStatus.WAITING and state.iteration == event.iteration and state.due is not None:
        turn.wake(event.name, None, signalled=False)


def _signal(turn: Turn, event: Signal) -> None:
    """Ends every wait for the signal; if there is none, keeps it for the next wait."""
    if signals.seen(turn.before, event):
        return
    why = signals.unfit(turn.before, event, turn.limits)
    if why:
        turn.changes.append(Note(why))
        return
    turn.moved = True
    turn.seen = signals.remember(turn.seen, event)
    waiting = [n for n, s in turn.steps.items() if s.status is StepStatus.WAITING and s.signal == event.name]
    for name in waiting:
        turn.wake(name, event.payload, signalled=True)
    if not waiting:
        turn.signals.append((event.name, event.payload))


def _retry(turn: Turn, event: RetryRequested) -> None:
    """Restarts the failed and cancelled steps, and all steps after them, with all their retries."""
    if turn.status not in (RunStatus.FAILED, RunStatus.CANCELLED) or event.round != turn.round:
        return
    definition = turn.definition
    again = [
        n
        for n in definition.steps
        if readiness.unhandled(definition, n, turn.steps) or turn.step(n).status is StepStatus.CANCELLED
    ]
    reached = set(again)
    while again:
        node = definition.steps[again.pop()]
        after = [*node.leads_to, *(definition.groups[node.group].leads_to if node.group else ())]
        again += set(after) - reached
        reached.update(after)
    turn.round += 1
    for group in {definition.steps[name].group for name in reached}:
        if group in turn.groups:
            turn.groups[group] = replace(turn.groups[group], used=0)
    turn.become(RunStatus.RUNNING)
    turn.reset(name for name in definition.steps if name in reached)
