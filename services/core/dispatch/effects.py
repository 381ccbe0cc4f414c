"""What follows from an event, for the coordinator to perform."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from taskflow._policy import Outcome
from taskflow_server.core.dispatch.records import Entry


class End(NamedTuple):
    """An attempt ends by the owner's own decision."""

    entry: Entry
    outcome: Outcome
    reason: str
    final: bool = False  # not to be retried, whatever its tries


@dataclass(slots=True)
class Effects:
    """The order within a list is the order in which to perform. What is to be fed is in the table's outbox."""

    ends: list[End] = field(default_factory=list)  # outcomes to decide and to write
    lease_first: list[Entry] = field(default_factory=list)  # their lease rows are to be written, then they are enqueued
    take_out: list[bytes] = field(default_factory=list)  # exec_ids that the queue service is to give back
    cancel: list[Entry] = field(default_factory=list)  # their workers are to be told of the cancel
    void: list[bytes] = field(default_factory=list)  # exec_ids that a worker is to confirm it never got
    revoke: list[bytes] = field(default_factory=list)  # exec_ids that a worker is to stop
    lost: list[Entry] = field(default_factory=list)  # the attempts of a lost worker, for the log
