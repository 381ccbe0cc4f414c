"""R23 and R24 as functions of a definition and the states of its steps.

R23, innermost first: the retries of a job are used up before the engine gets its end; then the step's edge on failure,
which handles it; then the group's retry; then the group's edge on failure; then the run fails.

R24: a step whose dependencies have all succeeded, and whose edges are all decided with at least one of them taken,
runs; once a dependency can no longer succeed, or all edges are decided and none is taken, it is skipped. An edge is
decided when its source is final, so a join is decided when its last source ends, and only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import Enum

from taskflow._policy import DEFAULT_BACKOFF, Backoff
from taskflow_server.core.workflow.definition import Definition, GroupNode, Node
from taskflow_server.core.workflow.models import On
from taskflow_server.core.workflow.state import FINAL_STEPS, StepState, StepStatus

_S = StepStatus
_UNTOUCHED = StepState()
Steps = Mapping[str, StepState]


class Readiness(Enum):
    """The decision about a pending step."""

    RUN = "run"
    SKIP = "skip"
    LATER = "later"


def verdict(definition: Definition, node: Node, steps: Steps) -> tuple[Readiness, tuple[str, ...]]:
    """R24 for one step; with RUN, the steps and groups that led to it."""
    depends = [outcome(definition, name, steps) for name in node.depends_on]
    ways = [(source, on, outcome(definition, source, steps)) for source, on in node.edges]
    taken = [source for source, on, ended in ways if _takes(on, ended)]
    decided = all(ended is not None for _, _, ended in ways)
    if any(ended not in (None, _S.SUCCEEDED) for ended in depends) or (ways and decided and not taken):
        return Readiness.SKIP, ()
    if not decided or None in depends:
        return Readiness.LATER, ()
    return Readiness.RUN, tuple(dict.fromkeys([*node.depends_on, *taken]))


def _takes(on: On, ended: StepStatus | None) -> bool:
    """Whether an edge is taken; after a skipped or cancelled step none is."""
    if on == "always":
        return ended in (_S.SUCCEEDED, _S.FAILED)
    return ended is (_S.SUCCEEDED if on == "success" else _S.FAILED)


def outcome(definition: Definition, name: str, steps: Steps) -> StepStatus | None:
    """The final status of a step or group, else None. A group has failed if a failure in it is not handled."""
    if name in definition.steps:
        status = steps.get(name, _UNTOUCHED).status
        return status if status in FINAL_STEPS else None
    members = {member: steps.get(member, _UNTOUCHED).status for member in definition.groups[name].steps}
    if not FINAL_STEPS.issuperset(members.values()):
        return None
    if any(s is _S.FAILED and not definition.steps[member].handles_failure for member, s in members.items()):
        return _S.FAILED
    return _S.SUCCEEDED if {_S.SUCCEEDED, _S.FAILED} & set(members.values()) else _S.SKIPPED


def unhandled(definition: Definition, name: str, steps: Steps) -> bool:
    """Whether the step has failed, and neither it nor its group has an edge on failure (R23)."""
    node = definition.steps[name]
    if steps.get(name, _UNTOUCHED).status is not _S.FAILED or node.handles_failure:
        return False
    return not (node.group and definition.groups[node.group].handles_failure)


def delay(group: GroupNode, used: int) -> float:
    """Seconds before a group's retry. Without jitter, which would need randomness; runs seldom fail all at once."""
    backoff = Backoff(**group.backoff.model_dump()) if group.backoff else DEFAULT_BACKOFF
    return replace(backoff, jitter=0).delay(used, lambda: 0.5)
