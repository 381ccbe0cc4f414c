"""Plans a step: renders its templates with the values of the run, and lets its kind make the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from taskflow_server.core.workflow import values
from taskflow_server.core.workflow.definition import Definition, Node
from taskflow_server.core.workflow.expressions import ALL, Budget
from taskflow_server.core.workflow.kinds import Jobs, Moment, Wait
from taskflow_server.core.workflow.state import FINAL_STEPS, Run, StepState
from taskflow_server.core.workflow.templates import Template
from taskflow_server.core.workflow.values import BadValue


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits in bytes."""

    payload: int = 1 << 20  # of a job, and of a run's output
    payloads: int = 32 << 20  # of all jobs of one event
    result: int = 256 << 10  # of one step, if a template reads it
    results: int = 2 << 20  # of all such steps of a run together
    signal: int = 64 << 10
    signals: int = 256 << 10  # of all signals that no step has consumed yet


class Planner:
    """Makes the plans of the steps of one run for one event, which share one budget."""

    def __init__(self, definition: Definition, run: Run, now: datetime, limits: Limits) -> None:
        self._definition, self._limits = definition, limits
        own = {"app_url": definition.app_url} if definition.app_url else {}
        context = {"run_id": run.id, "workflow": definition.name, **run.context, **own}
        self._scope = {"input": run.input, "context": context}
        app_url = context.get("app_url")
        self._moment = Moment(now, app_url if isinstance(app_url, str) else None)
        self._budget = Budget()
        self._payloads = 0  # bytes so far

    def plan(self, node: Node, steps: Mapping[str, StepState], results: Mapping[str, Any]) -> Jobs | Wait:
        """The plan of a step. BadValue, with the path in the document, if a value does not fit."""
        meta = self._render(node.meta, steps, results)
        try:
            plan = node.kind.plan(meta, self._moment)
            for n, job in enumerate(plan.jobs if isinstance(plan, Jobs) else ()):
                room = min(self._limits.payload, self._limits.payloads - self._payloads)
                self._payloads += _fit(f"the payload of job {n + 1}", job.payload, room)
        except BadValue as error:
            path = f"{node.path}.meta.{error.path}" if error.path else f"{node.path}.meta"
            raise BadValue(error.message, path=path, type=error.type) from None
        return plan

    def output(self, steps: Mapping[str, StepState], results: Mapping[str, Any]) -> Any:
        """The output of a succeeded run."""
        output = self._render(self._definition.output, steps, results)
        try:
            _fit("it", output, self._limits.payload)
        except BadValue as error:
            raise BadValue(error.message, path="output", type=error.type) from None
        return output

    def _render(self, template: Template, steps: Mapping[str, StepState], results: Mapping[str, Any]) -> Any:
        self._budget.next_step()
        names = steps if ALL in template.refers else template.refers
        seen = {n: _seen(steps[n], n, results) for n in names if n in steps and steps[n].status in FINAL_STEPS}
        return template.render({**self._scope, "steps": seen}, self._budget)


def _seen(state: StepState, name: str, results: Mapping[str, Any]) -> dict[str, Any]:
    """An ended step, as templates see it."""
    seen: dict[str, Any] = {"outcome": state.status.value}
    if state.error is not None:
        seen["error"] = state.error
    if name in results:
        seen["result"] = results[name]
    return seen


def _fit(what: str, value: Any, limit: int) -> int:
    try:
        return values.json_size(value, limit)
    except BadValue as error:
        raise BadValue(f"{what} {error.message}", type=error.type) from None
