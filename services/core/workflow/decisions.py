"""Runs whose executor decides (S2.7): each event becomes a decision task, whose result has the actions.

Decisions of a run are made one at a time, in the order of their events, and the actions of a decision are applied once,
with its end. A run ends by an action, when a decision has finally failed, or when it is cancelled; its open tasks are
cancelled first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from taskflow._policy import Outcome
from taskflow_server.core.workflow import builtin, signals, values
from taskflow_server.core.workflow.changes import (
    DECISION,
    REASON,
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
    activity_id,
)
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
from taskflow_server.core.workflow.models import FULL_NAME
from taskflow_server.core.workflow.planning import Limits
from taskflow_server.core.workflow.state import Deciding, Run, RunState, RunStatus, StepStatus
from taskflow_server.core.workflow.values import BadValue

DECISION_TASK = "awf.workflow/decision-task"
EVENT = "awf.workflow.event/"
MAX_ACTIONS = 1_000  # in one decision
MAX_TASKS = 1_000  # open at the same time
MAX_BEGUN = 100_000  # in one run
_ACTION = re.compile(r"(?:(?:awf|taskflow)\.workflow\.action/)?([a-z-]+)")
_NAME = re.compile(FULL_NAME)
_ACTIONS = "schedule-task, schedule-workflow, do-nothing, complete-workflow, fail, unknown-error"
_LIVE = (RunStatus.RUNNING, RunStatus.NEW)


@dataclass(frozen=True, slots=True)
class DecisionAction:
    """One action of a decision."""

    path: str  # in the result
    name: str  # without a prefix
    definition: str = ""
    params: Any = None
    label: str | None = None
    value: Any = None  # the result or error with which the run ends


def actions_of(answer: Any) -> Iterator[DecisionAction]:
    """The actions of a decision's result: one, a list, or `{"actions": […]}`. BadValue names the fault."""
    if isinstance(answer, dict) and "actions" in answer:
        answer = answer["actions"]
    found = answer if isinstance(answer, list) else [] if answer in (None, {}) else [answer]
    if len(found) > MAX_ACTIONS:
        raise BadValue(f"{len(found)} actions exceed the limit of {MAX_ACTIONS}", path="actions", type="bad_action")
    for n, action in enumerate(found):
        yield _action(action, f"actions[{n}]")


def _action(given: Any, path: str) -> DecisionAction:
    named = given.get("action") if isinstance(given, dict) else None
    name = _ACTION.fullmatch(named) if isinstance(named, str) else None
    if name is None or name[1] not in _ACTIONS.split(", "):
        why = f"{str(named)[:60]!r} is not a valid action; use {_ACTIONS}"
        raise BadValue(why, path=f"{path}.action", type="bad_action")
    if not name[1].startswith("schedule-"):
        return DecisionAction(path, name[1], value=given.get("result" if name[1] == "complete-workflow" else "error"))
    request = given.get("task-request")
    if not isinstance(request, dict):
        raise BadValue("must be an object with definition and params", path=f"{path}.task-request", type="bad_action")
    definition, label = request.get("definition"), request.get("label")
    if not isinstance(definition, str) or not _NAME.fullmatch(definition):
        why = f"{str(definition)[:60]!r} is not a valid name"
        raise BadValue(why, path=f"{path}.task-request.definition", type="bad_action")
    label = values.clean(str(label), 200) if label else None
    return DecisionAction(path, name[1], definition, request.get("params"), label)


def advance(
    definition: Definition, run: Run, state: RunState, event: Event, now: datetime, limits: Limits
) -> tuple[RunState, Sequence[Change]]:
    """As `engine.advance`, for a definition with a decider."""
    turn = _Turn(definition, run, state, now, limits)
    match event:
        case Started() if turn.status is RunStatus.NEW:
            turn.become(RunStatus.RUNNING)
            turn.hear({"event": f"{EVENT}workflow-init"})
        case JobFinished():
            turn.ended(event)
        case TimerDue() if turn.tasks.get(event.name) == "wait":
            turn.waited(event.name)
        case Signal():
            turn.signal(event)
        case CancelRequested() if turn.status in _LIVE:
            turn.become(RunStatus.CANCELLING)
            turn.stop()
        case RetryRequested() if event.round == state.round and turn.status in (RunStatus.FAILED, RunStatus.CANCELLED):
            turn.again()
    turn.go_on()
    return turn.result()


def given_up(deciding: Deciding) -> list[Change]:
    """The cancels of all open tasks and child runs."""
    found: list[Change] = [CancelJob(DECISION, deciding.number, 0)] if deciding.open else []
    for name, kind in deciding.tasks.items():
        if kind == "wait":
            found += [CancelTimer(name, 1), StepChanged(name, 1, StepStatus.CANCELLED)]
        else:
            found.append(CancelJob(name, 1, 0))
    return found


class _Turn:
    """The work on a run for one event."""

    def __init__(self, definition: Definition, run: Run, state: RunState, now: datetime, limits: Limits) -> None:
        self.definition, self.run, self.before, self.now, self.limits = definition, run, state, now, limits
        self.status, self.round, self.seen = state.status, state.round, state.seen
        self.deciding = state.deciding
        self.tasks = dict(state.deciding.tasks)
        self.news = list(state.deciding.news)
        self.changes: list[Change] = []

    def result(self) -> tuple[RunState, Sequence[Change]]:
        deciding = replace(self.deciding, tasks=self.tasks, news=tuple(self.news))
        digest = self.definition.digest
        new = replace(
            self.before, status=self.status, round=self.round, digest=digest, seen=self.seen, deciding=deciding
        )
        changed = self.changes or replace(new, digest=self.before.digest) != self.before
        return (new, self.changes) if changed else (self.before, ())

    def become(self, status: RunStatus) -> None:
        self.status = status
        self.changes.append(RunChanged(status))

    def hear(self, event: dict[str, Any]) -> None:
        """Queues an event for a decision."""
        if self.status is RunStatus.RUNNING:
            self.news.append(event)

    def go_on(self) -> None:
        """Requests the next decision, or ends the run."""
        deciding = self.deciding
        if self.status is RunStatus.RUNNING and not deciding.open and self.news:
            asked = self.news.pop(0)
            self.deciding = replace(deciding, number=deciding.number + 1, asked=asked, open=True)
            decider = self.definition.decider
            assert decider is not None, "only definitions with a decider get here"
            self.changes.append(
                CreateJob(
                    DECISION, deciding.number + 1, 0, DECISION_TASK, decider.queue, asked, decider.retries,
                    timeout=decider.timeout, workflow=self.definition.name,
                )
            )  # fmt: skip
        if self.status in (RunStatus.CANCELLING, RunStatus.ENDING) and not self.tasks and not self.deciding.open:
            final = RunStatus.FAILED if self.deciding.error else RunStatus.SUCCEEDED
            self.status = RunStatus.CANCELLED if self.status is RunStatus.CANCELLING else final
            self.changes.append(RunFinished(self.status, self.deciding.output, self.deciding.error))

    def ended(self, event: JobFinished) -> None:
        if event.step in self.tasks and event.iteration == 1 and self.tasks[event.step] != "wait":
            kind = self.tasks.pop(event.step)
            if event.job_id:
                self._over(kind, event.job_id)
            else:
                self._unmade(event.step, kind, values.error_of(event.error, "failed"))
        elif event.step == DECISION and event.iteration == self.deciding.number and self.deciding.open:
            self.deciding = replace(self.deciding, open=False)
            if self.status is RunStatus.RUNNING:
                self._decided(event)

    def waited(self, name: str) -> None:
        del self.tasks[name]
        self.changes.append(StepChanged(name, 1, StepStatus.SUCCEEDED))
        self._over("wait", activity_id(self.run.id, name))

    def _over(self, kind: str, id: str, **more: Any) -> None:
        what = "workflow" if kind == "workflow" else "task"
        self.hear({"event": f"{EVENT}{what}-completed", f"{what}-id": id, **more})

    def _unmade(self, name: str, kind: str, error: dict[str, Any]) -> None:
        """Ends an action that cannot be performed at once, with its error, under an id that clients can query."""
        self.changes.append(StepChanged(name, 1, StepStatus.FAILED, {**error, "kind": kind}))
        self._over(kind, activity_id(self.run.id, name), error=error)

    def signal(self, event: Signal) -> None:
        if signals.seen(self.before, event):
            return
        why = signals.unfit(self.before, event, self.limits)
        if why:
            self.changes.append(Note(why))
            return
        self.seen = signals.remember(self.seen, event)
        self.news.append({"event": f"{EVENT}signal", "signal": event.name, "payload": event.payload})

    def again(self) -> None:
        """Requests the last decision again."""
        self.round += 1
        self.become(RunStatus.RUNNING)
        self.deciding = replace(self.deciding, output=None, error=None)
        self.news = [self.deciding.asked or {"event": f"{EVENT}workflow-init"}]

    def stop(self) -> None:
        """Cancels all open tasks, and ignores all further events."""
        self.news.clear()
        self.changes += given_up(replace(self.deciding, tasks=self.tasks))
        self.tasks = {name: kind for name, kind in self.tasks.items() if kind != "wait"}

    def _decided(self, event: JobFinished) -> None:
        if event.outcome is not Outcome.SUCCEEDED:
            why = values.error_of(event.error, event.outcome.name.lower())
            message = f"the decision failed: {why['message']}"
            self._end(error={"type": "decision_failed", "message": message, "error": why})
            return
        try:
            for action in list(actions_of(event.result)):
                if self.status is RunStatus.RUNNING:
                    self._do(action)
        except BadValue as error:
            self._end(error=error.error())

    def _do(self, action: DecisionAction) -> None:
        match action.name:
            case "schedule-task" | "schedule-workflow":
                self._begin(action)
            case "complete-workflow":
                try:
                    values.json_size(action.value, self.limits.payload)
                except BadValue as error:
                    raise BadValue(error.message, path=f"{action.path}.result", type=error.type) from None
                self._end(output=action.value)
            case "fail" | "unknown-error":
                type_ = "failed_by_executor" if action.name == "fail" else "unknown_error"
                given = {"type": type_, **values.error_of(action.value, type_)}
                self._end(error=given if given["type"] == type_ else {**given, REASON: type_})

    def _begin(self, action: DecisionAction) -> None:
        begun = self.deciding.begun + 1
        if len(self.tasks) >= MAX_TASKS or begun > MAX_BEGUN:
            most = f"the limit is {MAX_TASKS} at once and {MAX_BEGUN} in all"
            raise BadValue(f"starts more than a run may have: {most}", path=action.path, type="too_large")
        name = f"task-{begun}"
        why = builtin.why_not(action.definition)
        if why:
            self.deciding = replace(self.deciding, begun=begun)
            error = {"type": "built_in", "message": why, "definition": action.definition}
            self._unmade(name, "workflow" if action.name == "schedule-workflow" else "task", error)
            return
        try:
            kind, change = self._task(name, action)
        except BadValue as fault:
            raise BadValue(fault.message, path=f"{action.path}.task-request.params", type=fault.type) from None
        self.deciding = replace(self.deciding, begun=begun)
        self.tasks[name] = kind
        self.changes.append(change)
        if isinstance(change, SetTimer):
            self.changes.append(StepChanged(name, 1, StepStatus.WAITING, due=change.due.isoformat()))

    def _task(self, name: str, action: DecisionAction) -> tuple[str, Change]:
        if builtin.is_wait(action.definition):
            wait = builtin.wait_of(action.params)
            return "wait", SetTimer(name, 1, wait if isinstance(wait, datetime) else values.after(self.now, wait))
        params = {} if action.params is None else action.params
        values.json_size(params, self.limits.payload)
        if action.name == "schedule-workflow":
            return "workflow", StartRun(name, 1, action.definition, params, action.label)
        return "task", CreateJob(name, 1, 0, action.definition, None, params, label=action.label)

    def _end(self, *, output: Any = None, error: dict[str, Any] | None = None) -> None:
        self.deciding = replace(self.deciding, output=output, error=error)
        self.become(RunStatus.ENDING)
        self.stop()
