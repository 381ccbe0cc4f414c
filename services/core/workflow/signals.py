"""Which signals a run takes. Asked before the sender is answered, and again when the run hears of the signal."""

from __future__ import annotations

from taskflow_server.core.workflow import values
from taskflow_server.core.workflow.events import Signal
from taskflow_server.core.workflow.planning import Limits
from taskflow_server.core.workflow.state import RunState, RunStatus
from taskflow_server.core.workflow.values import BadValue

MAX_NAMES = 400  # bytes of a signal's name and id
MAX_SEEN = 100  # ids of signals that a run remembers


def unfit(state: RunState, event: Signal, limits: Limits = Limits()) -> str:  # noqa: B008 - frozen
    """Why a run cannot take a signal; empty if it can, or if it has taken this one already."""
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
        return f"signal {event.name[:100]!r} cannot be taken: {what} {error.message}"
    if any(step.signal == event.name for step in state.steps.values()):
        return ""
    try:
        values.size_of([*state.signals, *state.deciding.news, (event.name, event.payload)], limits.signals)
    except BadValue as error:
        return f"signal {event.name!r} cannot be taken: what waits for the run {error.message}"
    return ""


def seen(state: RunState, event: Signal) -> bool:
    """It was taken already."""
    return bool(event.id) and event.id in state.seen


def remember(ids: tuple[str, ...], event: Signal) -> tuple[str, ...]:
    """The ids, with that of `event` if it has one."""
    return (*ids, event.id)[-MAX_SEEN:] if event.id else ids
