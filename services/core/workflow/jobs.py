"""The jobs of a step: creates them, one after the other or all at once, and applies their ends to the step."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from taskflow._policy import Backoff, Outcome
from taskflow_server.core.workflow import values
from taskflow_server.core.workflow.changes import CancelJob, CreateJob
from taskflow_server.core.workflow.definition import Node
from taskflow_server.core.workflow.events import JobFinished
from taskflow_server.core.workflow.kinds import Jobs
from taskflow_server.core.workflow.models import JobStep
from taskflow_server.core.workflow.state import OPEN, JobState, RunStatus, StepStatus
from taskflow_server.core.workflow.values import BadValue

if TYPE_CHECKING:
    from taskflow_server.core.workflow.turn import Turn


def create(turn: Turn, node: Node, plan: Jobs, after: tuple[str, ...] = ()) -> None:
    """Creates the next jobs of the plan."""
    state, step = turn.step(node.name), node.step
    assert isinstance(step, JobStep), "the steps of a kind that plans jobs are JobSteps"
    index = len(state.jobs)
    spec = plan.jobs[index]
    turn.steps[node.name] = replace(state, jobs=(*state.jobs, JobState()))
    backoff = Backoff(**step.backoff.model_dump()) if step.backoff else None
    turn.changes.append(
        CreateJob(
            node.name, state.iteration, index, spec.task, step.queue, spec.payload, step.retries, backoff,
            step.timeout, step.priority_number, spec.label, after,
        )
    )  # fmt: skip


def cancel(turn: Turn, name: str) -> None:
    """Cancels all open jobs; their ends follow as events."""
    state = turn.step(name)
    still_open = (n for n, job in enumerate(state.jobs) if job.outcome == OPEN)
    turn.changes.extend(CancelJob(name, state.iteration, n) for n in still_open)


def ended(turn: Turn, event: JobFinished) -> None:
    """Applies the end of a job. Ignores a repeated one, or one of another iteration of the step."""
    name, index = event.step, event.index
    state = turn.step(name)
    here = state.status is StepStatus.RUNNING and state.iteration == event.iteration
    if not here or not 0 <= index < len(state.jobs) or state.jobs[index].outcome != OPEN:
        return
    node = turn.definition.steps[name]
    jobs = (*state.jobs[:index], _end(turn, event), *state.jobs[index + 1 :])
    turn.steps[name] = state = replace(state, jobs=jobs)
    turn.moved = True
    try:
        plan = turn.plan(node) if state.total > 1 else Jobs(())
    except BadValue as error:
        cancel(turn, name)
        turn.fail(name, error.error(), state.iteration)
        return
    assert isinstance(plan, Jobs), "a step that has jobs was planned with jobs"
    running = turn.status is RunStatus.RUNNING
    failed = [n for n, job in enumerate(jobs) if job.outcome not in (OPEN, "succeeded")]
    stopped = bool(failed) and not plan.go_on
    if running and not stopped and len(jobs) < state.total:
        create(turn, node, plan)
    elif any(job.outcome == OPEN for job in jobs):
        if stopped and failed == [index]:
            cancel(turn, name)
    elif not running and (failed or len(jobs) < state.total):
        turn.cancelled(name)
    elif stopped:
        # Prefer the error of a failed job to that of a job that was cancelled because of it.
        first = next((n for n in failed if jobs[n].outcome != "cancelled"), failed[0])
        where = {"index": first} if state.total > 1 else {}
        turn.fail(name, {**(jobs[first].error or {}), **where}, state.iteration)
    else:
        turn.succeed(name, _result(turn, node, jobs))


def _end(turn: Turn, event: JobFinished) -> JobState:
    if event.outcome is not Outcome.SUCCEEDED:
        outcome = event.outcome.name.lower()
        return JobState(outcome, None, values.error_of(event.error, outcome))
    if event.step not in turn.definition.read:
        return JobState("succeeded")
    others = sum(job.size for job in turn.step(event.step).jobs)
    try:
        size = values.size_of(event.result, max(0, turn.room(event.step) - others))
    except BadValue as error:
        return JobState("failed", None, unkept(error))
    return JobState("succeeded", event.result, size=size)


def _result(turn: Turn, node: Node, jobs: tuple[JobState, ...]) -> Any:
    if node.name not in turn.definition.read:
        return None
    found = [job.result if job.outcome == "succeeded" else {"error": job.error} for job in jobs]
    return node.kind.result(node.raw, found)


def unkept(error: BadValue) -> dict[str, Any]:
    """The error of a step whose result is too large or cannot be stored."""
    return {**error.error(), "message": f"the result, which a template reads, {error.message}"}
