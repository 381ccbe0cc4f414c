"""The phases of a job in memory, and the events that lead from phase to phase.

This table is the whole state machine of the hot path. `DispatchTable` makes every change of a phase by it, and
docs/protocol.md shows it: `tests/unit/test_transitions.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class Phase(IntEnum):
    NEW = 0  # not in the table yet
    IN_DOUBT = 1  # a worker may run it under an older epoch, or its lease row must be written first
    QUEUED = 2  # in the queue service, or on its way there
    TAKEN = 3  # a worker has it
    ENDING = 4  # its outcome is being committed
    BLOCKED = 5  # waits for a permit of its limit: not in the window of its lane, and not in the queue service
    GONE = 6  # no longer in the table


class Event(StrEnum):
    ADMITTED = "admitted"  # a page, an offer or a due time brought it
    RESTORED = "restored"  # a takeover read its lease row
    ENQUEUED = "enqueued"  # no worker has it, and it may be handed out
    DELAYED = "delayed"  # it has its permit, and is handed out once its lease row is written (A12)
    TAKEN = "taken"  # the queue service gave it to a worker, or a worker claims it
    ENDED = "ended"  # its outcome is decided
    LEFT = "left"  # its outcome is committed, or it waits only in Postgres
    FORGOTTEN = "forgotten"  # its shard has another owner, or it turned out to be recorded


_IN_MEMORY = (Phase.IN_DOUBT, Phase.QUEUED, Phase.TAKEN, Phase.ENDING, Phase.BLOCKED)
_WAITING = (Phase.QUEUED, Phase.BLOCKED)

TRANSITIONS: Mapping[Event, Mapping[Phase, tuple[Phase, ...]]] = {
    Event.ADMITTED: {Phase.NEW: (Phase.IN_DOUBT, *_WAITING)},
    Event.RESTORED: {Phase.NEW: (Phase.IN_DOUBT, Phase.TAKEN)},
    Event.ENQUEUED: dict.fromkeys((Phase.IN_DOUBT, Phase.QUEUED, Phase.TAKEN, Phase.BLOCKED), _WAITING),
    Event.DELAYED: {Phase.BLOCKED: (Phase.IN_DOUBT,)},
    Event.TAKEN: dict.fromkeys((Phase.NEW, Phase.IN_DOUBT, Phase.QUEUED), (Phase.TAKEN,)),
    Event.ENDED: dict.fromkeys(_IN_MEMORY, (Phase.ENDING,)),
    Event.LEFT: dict.fromkeys((Phase.QUEUED, Phase.BLOCKED, Phase.ENDING), (Phase.GONE,)),
    Event.FORGOTTEN: dict.fromkeys(_IN_MEMORY, (Phase.GONE,)),
}

# A bit for each phase that may follow, by event and phase: a fast lookup at each step of each job.
ALLOWED = {
    event: tuple(sum(1 << to for to in phases.get(phase, ())) for phase in Phase)
    for event, phases in TRANSITIONS.items()
}


class ImpossibleTransition(Exception):
    """A job is not in the phase that an event expects: memory is wrong, and a takeover must read it again."""


def check(event: Event, before: Phase, after: Phase) -> None:
    """Raises ImpossibleTransition when the event does not lead from one phase to the other."""
    if not ALLOWED[event][before] >> after & 1:
        raise ImpossibleTransition(f"{event} does not lead from {before.name} to {after.name}")
