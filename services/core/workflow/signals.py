"""Which signals a run accepts. Checked before the sender gets its answer, and again when the run applies the signal."""

from __future__ import annotations

from taskflow_server.core.workflow import values
from taskflow_server.core.workflow.events import Signal
from taskflow_server.core.workflow.planning import Limits
from taskflow_server.core.workflow.state import RunState, RunStatus
from taskflow_server.core.workflow.values import BadValue

MAX_NAMES = 400  # bytes of a signal's name and id together
MAX_SEEN = 100  # ids of signals that a run remembers


def unfit(state: RunState, event: Signal, limits: Limits = Limits()) -> str:  # noqa: B008 - frozen
    """The reason for which a run refuses a signal; empty if it accepts it, or has accepted it before."""
    if seen(state, event):
        return ""
    if state.status not in (RunStatus.NEW, RunStatus.RUNNING):
        return f"signal {event.name!r} comes too late: the run is {state.status.value}"
    what = "its name and id"
    try:
        values.size_of([event.name, event.id], MAX_NAMES)
        what = "its payload"
        values.size_of(event.payload, limits.signal)
    except BadValue as error:
        return f"signal {event.name[:100]!r} is refused: {what} {error.message}"
    if any(step.signal == event.name for step in state.steps.values()):
        return ""
    try:
        values.size_of([*state.signals, *state.deciding.news, (event.name, event.payload)], limits.signals)
    except BadValue as error:
        return f"signal {event.name!r} is refused: the run's backlog of events {error.message}"
    return ""


def seen(state: RunState, event: Signal) -> bool:
    """Whether it was accepted before."""
    return bool(event.id) and event.id in state.seen


def remember(ids: tuple[str, ...], event: Signal) -> tuple[str, ...]:
    """The ids, with that of `event`, if any."""
    return (*ids, event.id)[-MAX_SEEN:] if event.id else ids
