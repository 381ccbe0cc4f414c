"""The work of one event on a run: decides, starts and ends steps, and retries groups (R23, R24)."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from taskflow._policy import Backoff, Outcome
from taskflow_server.core.workflow import readiness, values
from taskflow_server.core.workflow.changes import (
    CancelJob,
    CancelTimer,
    Change,
    CreateJob,
    RunChanged,
    RunFinished,
    SetTimer,
    StepChanged,
)
from taskflow_server.core.workflow.definition import Definition, GroupNode, Node
from taskflow_server.core.workflow.events import JobFinished
from taskflow_server.core.workflow.kinds import Jobs, Wait
from taskflow_server.core.workflow.models import JobStep
from taskflow_server.core.workflow.planning import Limits, Planner
from taskflow_server.core.workflow.readiness import Readiness
from taskflow_server.core.workflow.state import (
    FINAL_STEPS,
    OPEN,
    GroupState,
    JobState,
    Run,
    RunState,
    RunStatus,
    StepState,
    StepStatus,
)
from taskflow_server.core.workflow.values import BadValue

_S = StepStatus
_SHORT = 500  # characters of an error's message that no template reads
_ACTIVE = (_S.RUNNING, _S.WAITING)


class Turn:
    """The work on a run for one event. Does not change its arguments."""

    def __init__(self, definition: Definition, run: Run, state: RunState, now: datetime, limits: Limits) -> None:
        self.definition, self.run, self.before, self.now, self.limits = definition, run, state, now, limits
        self.status, self.round = state.status, state.round
        self.steps, self.groups, self.results = dict(state.steps), dict(state.groups), dict(state.results)
        self.signals, self.seen = list(state.signals), state.seen
        self.changes: list[Change] = []
        self.moved = False  # the state has changed, even if there are no changes to perform
        self._planner = Planner(definition, run, now, limits)
        self._ready: deque[str] = deque()  # steps to check
        self._touched: dict[str, None] = {}  # groups in which a step has ended

    def state(self) -> RunState:
        """The present state of the run."""
        return replace(
            self.before,
            status=self.status,
            round=self.round,
            digest=self.definition.digest,
            steps=self.steps,
            groups=self.groups,
            results=self.results,
            signals=tuple(self.signals),
            seen=self.seen,
        )

    def step(self, name: str) -> StepState:
        return self.steps.get(name) or StepState()

    # Deciding about steps

    def look_at(self, names: Iterable[str]) -> None:
        """Checks these steps in `settle`."""
        self._ready.extend(names)

    def settle(self) -> None:
        """Checks steps and groups until nothing changes; then the run may be final."""
        while self._ready or self._touched:
            if self._ready:
                self._consider(self._ready.popleft())
            else:
                name = next(iter(self._touched))
                del self._touched[name]
                self._consider_group(self.definition.groups[name])
        if self.status in (RunStatus.RUNNING, RunStatus.CANCELLING) and self._all_final():
            self._finish()

    def _consider(self, name: str) -> None:
        if self.status is not RunStatus.RUNNING or self.step(name).status is not _S.PENDING:
            return
        node = self.definition.steps[name]
        verdict, after = readiness.verdict(self.definition, node, self.steps)
        if verdict is Readiness.RUN:
            self._begin(node, after)
        elif verdict is Readiness.SKIP:
            self._set(name, StepState(_S.SKIPPED, self.step(name).iteration))

    # Starting a step

    def _begin(self, node: Node, after: tuple[str, ...]) -> None:
        state = StepState(_S.RUNNING, self.step(node.name).iteration + 1)
        try:
            plan = self.plan(node)
            if isinstance(plan, Wait):
                self._wait(node, plan, state, after)
            else:
                state = replace(state, total=len(plan.jobs))
                self._set(node.name, state, after)
                for _ in plan.jobs if plan.parallel else plan.jobs[:1]:
                    self.create_jobs(node, plan, after)
        except BadValue as error:
            self.fail(node.name, error.error(), state.iteration)

    def plan(self, node: Node) -> Jobs | Wait:
        """The plan of a step. BadValue if a template has no value, or one that does not fit."""
        return self._planner.plan(node, self.steps, self.results)

    def _wait(self, node: Node, plan: Wait, state: StepState, after: tuple[str, ...]) -> None:
        here = next((n for n, (name, _) in enumerate(self.signals) if name == plan.signal), None)
        due = plan.until.isoformat() if plan.until else None
        state = replace(state, status=_S.WAITING, due=due, signal=plan.signal)
        if here is not None:
            self.steps[node.name] = replace(state, due=None)
            self.wake(node.name, self.signals.pop(here)[1], signalled=True)
        elif plan.until is not None and plan.until <= self.now:
            self.steps[node.name] = state
            self.wake(node.name, None, signalled=False)
        else:
            self._set(node.name, state, after)
            if plan.until is not None:
                self.changes.append(SetTimer(node.name, state.iteration, plan.until, after))

    # Ending a step

    def wake(self, name: str, payload: Any, *, signalled: bool) -> None:
        """Ends a wait by its signal or its time."""
        state = self.step(name)
        if signalled and state.due is not None:
            self.changes.append(CancelTimer(name, state.iteration))
        if state.signal is not None and not signalled:
            message = f"there was no signal {state.signal!r} by {state.due}"
            self.fail(name, {"type": "timed_out", "message": message}, state.iteration)
            return
        self.succeed(name, payload)

    def room(self, name: str) -> int:
        """Bytes of results that the run can keep for a step."""
        others = (state for other, state in self.steps.items() if other != name)
        used = sum(state.size + sum(job.size for job in state.jobs) for state in others)
        return max(0, min(self.limits.result, self.limits.results - used))

    def succeed(self, name: str, result: Any) -> None:
        """Ends a step with success. Keeps its result if a template reads it; one that is too large fails the step."""
        iteration, size = self.step(name).iteration, 0
        if name in self.definition.read:
            try:
                size = values.size_of(result, self.room(name))
            except BadValue as error:
                self.fail(name, unkept(error), iteration)
                return
            self.results[name] = result
        self._set(name, StepState(_S.SUCCEEDED, iteration, size=size))

    def fail(self, name: str, error: dict[str, Any], iteration: int) -> None:
        """Ends a step with an error: HELD if its group will retry it, else FAILED."""
        node = self.definition.steps[name]
        group = self.definition.groups.get(node.group or "")
        held = False
        if group and not node.handles_failure and self.status is RunStatus.RUNNING:
            retries = self._group(group.name)
            held = retries.used < group.retries or retries.due is not None or retries.over
        error = {**error, "step": name}
        kept, size = error, 0
        if name in self.definition.read:
            size = values.size_of(error, sys.maxsize)
        else:  # no template reads it, and people read StepChanged
            kept = {"type": error["type"], "message": error["message"][:_SHORT], "step": name}
        self._set(name, StepState(_S.HELD if held else _S.FAILED, iteration, kept, size=size), error=error)

    def cancelled(self, name: str) -> None:
        """Ends a step because the run was cancelled."""
        self._set(name, StepState(_S.CANCELLED, self.step(name).iteration))

    def _set(
        self, name: str, state: StepState, after: tuple[str, ...] = (), error: dict[str, Any] | None = None
    ) -> None:
        node = self.definition.steps[name]
        self.steps[name] = state
        self.changes.append(StepChanged(name, state.iteration, state.status, error or state.error, state.due, after))
        if state.status in FINAL_STEPS:
            self._ready.extend(node.leads_to)
        if node.group and state.status not in _ACTIVE:
            self._touched[node.group] = None

    # Groups

    def _group(self, name: str) -> GroupState:
        return self.groups.get(name) or GroupState()

    def group_due(self, name: str) -> None:
        """The timer of a group's retry fired."""
        self.groups[name] = replace(self._group(name), due=None, over=True)
        self.moved = True
        self._touched[name] = None

    def _consider_group(self, group: GroupNode) -> None:
        """Retries a group that has a held step and no open one."""
        statuses = {self.step(name).status for name in group.steps}
        state = self._group(group.name)
        if not statuses.isdisjoint(_ACTIVE) or self.status is not RunStatus.RUNNING:
            return
        if _S.HELD not in statuses:
            self._ready.extend(group.leads_to)
        elif state.over:
            self.groups[group.name] = replace(state, over=False)
            again = (name for name in group.steps if group.from_start or self.step(name).status is _S.HELD)
            self.reset(again)
        elif state.due is None:
            used = state.used + 1
            due = values.after(self.now, readiness.delay(group, used))
            self.groups[group.name] = GroupState(used, state.iteration + 1, due.isoformat())
            self.changes.append(SetTimer(group.name, state.iteration + 1, due))

    def reset(self, names: Iterable[str]) -> None:
        """Resets steps, which start again when they are ready."""
        for name in names:
            state = self.step(name)
            self.results.pop(name, None)
            self._ready.append(name)
            if state.status is not _S.PENDING:
                self._set(name, StepState(_S.PENDING, state.iteration))

    # The run

    def become(self, status: RunStatus) -> None:
        """Sets a status that is not final."""
        self.status = status
        self.changes.append(RunChanged(status))

    def stop(self) -> None:
        """Starts no more steps, and cancels all open jobs."""
        for name, group in self.groups.items():
            if group.due is not None:
                self.changes.append(CancelTimer(name, group.iteration))
            self.groups[name] = replace(group, due=None, over=False)
        for name in self.definition.steps:
            state = self.step(name)
            match state.status:
                case _S.RUNNING:
                    self.cancel_jobs(name)
                case _S.WAITING | _S.PENDING:
                    if state.due is not None:
                        self.changes.append(CancelTimer(name, state.iteration))
                    self.cancelled(name)
                case _S.HELD:
                    self._set(name, replace(state, status=_S.FAILED))

    def _all_final(self) -> bool:
        final = sum(state.status in FINAL_STEPS for state in self.steps.values())
        return final == len(self.definition.steps)

    def _finish(self) -> None:
        error: dict[str, Any] | None = None
        output = None
        definition = self.definition
        failed = next((name for name in definition.steps if readiness.unhandled(definition, name, self.steps)), None)
        if self.status is RunStatus.CANCELLING:
            self.status = RunStatus.CANCELLED
        elif failed is not None:
            why = self.step(failed).error or {}
            message = f"step {failed!r} failed: {why.get('message', '')}"[: values.MAX_MESSAGE]
            error = {"type": "step_failed", "message": message, "step": failed, "error": why}
        else:
            try:
                output = self._planner.output(self.steps, self.results)
            except BadValue as bad:
                error = bad.error()
        if self.status is not RunStatus.CANCELLED:
            self.status = RunStatus.FAILED if error else RunStatus.SUCCEEDED
        self.changes.append(RunFinished(self.status, output if error is None else None, error))

    # -- jobs of a step ----------------------------------------------------------------------
    def create_jobs(self, node: Node, plan: Jobs, after: tuple[str, ...] = ()) -> None:
        """Creates the next jobs of the plan."""
        state, step = self.step(node.name), node.step
        assert isinstance(step, JobStep), "the steps of a kind that plans jobs are JobSteps"
        index = len(state.jobs)
        spec = plan.jobs[index]
        self.steps[node.name] = replace(state, jobs=(*state.jobs, JobState()))
        backoff = Backoff(**step.backoff.model_dump()) if step.backoff else None
        self.changes.append(
            CreateJob(
                node.name, state.iteration, index, spec.task, step.queue, spec.payload, step.retries, backoff,
                step.timeout, step.priority_number, spec.label, after,
            )
        )  # fmt: skip

    def cancel_jobs(self, name: str) -> None:
        """Cancels all open jobs; their ends follow as events."""
        state = self.step(name)
        still_open = (n for n, job in enumerate(state.jobs) if job.outcome == OPEN)
        self.changes.extend(CancelJob(name, state.iteration, n) for n in still_open)

    def job_ended(self, event: JobFinished) -> None:
        """Applies the end of a job. Ignores a repeated one, or one of another iteration of the step."""
        name, index = event.step, event.index
        state = self.step(name)
        here = state.status is StepStatus.RUNNING and state.iteration == event.iteration
        if not here or not 0 <= index < len(state.jobs) or state.jobs[index].outcome != OPEN:
            return
        node = self.definition.steps[name]
        jobs = (*state.jobs[:index], self._job_end(event), *state.jobs[index + 1 :])
        self.steps[name] = state = replace(state, jobs=jobs)
        self.moved = True
        try:
            plan = self.plan(node) if state.total > 1 else Jobs(())
        except BadValue as error:
            self.cancel_jobs(name)
            self.fail(name, error.error(), state.iteration)
            return
        assert isinstance(plan, Jobs), "a step that has jobs was planned with jobs"
        running = self.status is RunStatus.RUNNING
        failed = [n for n, job in enumerate(jobs) if job.outcome not in (OPEN, "succeeded")]
        stopped = bool(failed) and not plan.go_on
        if running and not stopped and len(jobs) < state.total:
            self.create_jobs(node, plan)
        elif any(job.outcome == OPEN for job in jobs):
            if stopped and failed == [index]:
                self.cancel_jobs(name)
        elif not running and (failed or len(jobs) < state.total):
            self.cancelled(name)
        elif stopped:
            # Prefer the error of a failed job to that of a job that was cancelled because of it.
            first = next((n for n in failed if jobs[n].outcome != "cancelled"), failed[0])
            where = {"index": first} if state.total > 1 else {}
            self.fail(name, {**(jobs[first].error or {}), **where}, state.iteration)
        else:
            self.succeed(name, self._jobs_result(node, jobs))

    def _job_end(self, event: JobFinished) -> JobState:
        if event.outcome is not Outcome.SUCCEEDED:
            outcome = event.outcome.name.lower()
            return JobState(outcome, None, values.error_of(event.error, outcome))
        if event.step not in self.definition.read:
            return JobState("succeeded")
        others = sum(job.size for job in self.step(event.step).jobs)
        try:
            size = values.size_of(event.result, max(0, self.room(event.step) - others))
        except BadValue as error:
            return JobState("failed", None, unkept(error))
        return JobState("succeeded", event.result, size=size)

    def _jobs_result(self, node: Node, jobs: tuple[JobState, ...]) -> Any:
        if node.name not in self.definition.read:
            return None
        found = [job.result if job.outcome == "succeeded" else {"error": job.error} for job in jobs]
        return node.kind.result(node.raw, found)


def unkept(error: BadValue) -> dict[str, Any]:
    """The error of a step whose result is too large or cannot be stored."""
    return {**error.error(), "message": f"the result, which a template reads, {error.message}"}
