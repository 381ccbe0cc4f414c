"""A run in memory: what its owner would store and do, with the state and every event through JSON and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from taskflow._policy import Outcome
from taskflow_server.core.workflow import (
    CancelJob,
    CancelRequested,
    CancelTimer,
    Change,
    CreateJob,
    Definition,
    Event,
    JobFinished,
    RetryRequested,
    Run,
    RunFinished,
    RunState,
    SetTimer,
    Signal,
    Started,
    StartRun,
    StepChanged,
    TimerDue,
    advance,
    events,
)
from taskflow_server.core.workflow.planning import Limits

NOW = datetime(2026, 5, 4, 8, tzinfo=UTC)


class World:
    """One run, its open jobs and its timers. Jobs and timers are made once for each key."""

    def __init__(
        self,
        document: Mapping[str, Any] | Definition,
        input: Any = None,
        context: Mapping[str, Any] | None = None,
        limits: Limits = Limits(),  # noqa: B008
    ) -> None:
        self.definition = document if isinstance(document, Definition) else Definition.parse(document)
        self.run = Run("run-1", input, context or {})
        self.limits = limits
        self.state = RunState()
        self.now = NOW
        self.jobs: dict[str, CreateJob | StartRun] = {}  # open
        self.made: list[CreateJob | StartRun] = []
        self.cancelling: set[str] = set()
        self.timers: dict[str, SetTimer] = {}
        self.log: list[Change] = []
        self.ends: list[RunFinished] = []

    def send(self, event: Event) -> list[Change]:
        """Applies an event and its consequences."""
        heard = events.from_json(json.loads(json.dumps(events.to_json(event))))
        assert heard == event
        before = self.state
        new = advance(self.definition, self.run, before, heard, self.now, self.limits)
        assert advance(self.definition, self.run, before, heard, self.now, self.limits) == new, "not a function"
        stored = json.loads(json.dumps(new.state.to_json(), allow_nan=False))
        self.state = RunState.from_json(stored)
        assert self.state == new.state
        for change in new.changes:
            self._do(change)
        self.log += new.changes
        return list(new.changes)

    def _do(self, change: Change) -> None:
        match change:
            case CreateJob() | StartRun():
                assert change.key not in [job.key for job in self.made], f"{change.key} is made twice"
                self.made.append(change)
                self.jobs[change.key] = change
            case CancelJob():
                assert change.key in self.jobs, f"{change.key} is not open"
                self.cancelling.add(change.key)
            case SetTimer():
                assert change.key not in self.timers
                self.timers[change.key] = change
            case CancelTimer():
                del self.timers[change.key]
            case RunFinished():
                self.ends.append(change)

    def start(self) -> World:
        self.send(Started())
        return self

    def finish(
        self, step: str, result: Any = None, *, index: int = 0, outcome: Outcome = Outcome.SUCCEEDED, error: Any = None
    ) -> list[Change]:
        """A job of a step, which must be open, is final."""
        job = next(j for j in self.jobs.values() if j.step == step and getattr(j, "index", 0) == index)
        return self.end(job.key, result, outcome=outcome, error=error)

    def end(
        self, key: str, result: Any = None, *, outcome: Outcome = Outcome.SUCCEEDED, error: Any = None
    ) -> list[Change]:
        job = self.jobs.pop(key)
        self.cancelling.discard(key)
        index = job.index if isinstance(job, CreateJob) else 0
        return self.send(JobFinished(job.step, job.iteration, index, outcome, result, error, f"id of {key}"))

    def fail(self, step: str, *, index: int = 0, error: Any = None, outcome: Outcome = Outcome.FAILED) -> list[Change]:
        return self.finish(step, index=index, outcome=outcome, error=error)

    def succeed(self, *steps: str) -> None:
        for step in steps:
            self.finish(step)

    def pass_time(self, name: str) -> list[Change]:
        """Until the timer of a step or a group is due."""
        timer = next(t for t in self.timers.values() if t.name == name)
        return self.due(timer.key)

    def due(self, key: str) -> list[Change]:
        timer = self.timers.pop(key)
        self.now = max(self.now, timer.due)
        return self.send(TimerDue(timer.name, timer.iteration))

    def signal(self, name: str, payload: Any = None, id: str = "") -> list[Change]:
        return self.send(Signal(name, payload, id))

    def cancel(self) -> list[Change]:
        return self.send(CancelRequested())

    def retry(self) -> list[Change]:
        return self.send(RetryRequested(self.state.round))

    def wait_for(self, name: str) -> timedelta:
        """How long the timer of a step or a group still takes."""
        return next(t for t in self.timers.values() if t.name == name).due - self.now

    @property
    def open(self) -> list[str]:
        """The steps that have open jobs."""
        return sorted({job.step for job in self.jobs.values()})

    @property
    def steps(self) -> str:
        """How the steps stand, in the document's order: `a succeeded, b running`."""
        return ", ".join(f"{name} {self.state.step(name).status.value}" for name in self.definition.steps)

    @property
    def status(self) -> str:
        return self.state.status.value

    def job(self, step: str, index: int = 0) -> CreateJob:
        """The last job that was made for a step."""
        made = [j for j in self.made if isinstance(j, CreateJob) and j.step == step and j.index == index]
        return made[-1]

    def error(self, step: str) -> dict[str, Any]:
        """The step's last error, as people see it."""
        said = [c.error for c in self.log if isinstance(c, StepChanged) and c.step == step and c.error]
        return said[-1]


def task(name: str, **more: Any) -> dict[str, Any]:
    """A step that is one job of the task `name`."""
    return {"name": name, "kind": "task", "meta": {"task": name, **more.pop("meta", {})}, **more}


def wait(name: str, *, depends_on: list[str] | None = None, **meta: Any) -> dict[str, Any]:
    return {"name": name, "kind": "wait", "meta": meta, **({"depends_on": depends_on} if depends_on else {})}


def edges(*words: str) -> list[dict[str, str]]:
    """`a -> b`, `a -failure-> b`."""
    found = []
    for line in words:
        source, arrow, to = line.split()
        found.append({"from": source, "to": to, "on": arrow.strip("->") or "success"})
    return found


def workflow(*steps: str | dict[str, Any], **more: Any) -> dict[str, Any]:
    """A document: steps by name are tasks."""
    return {"name": "flow", "steps": [task(s) if isinstance(s, str) else s for s in steps], **more}
