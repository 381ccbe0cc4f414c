"""The effects of an event, which the coordinator performs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from taskflow._policy import Outcome
from taskflow_server.core.dispatch.records import Entry


class End(NamedTuple):
    """An attempt that ends by the owner's decision."""

    entry: Entry
    outcome: Outcome
    reason: str
    final: bool = False  # no retry, even if tries are left


@dataclass(slots=True)
class Effects:
    """Perform each list in its order. Entries to feed are in the table's outbox."""

    ends: list[End] = field(default_factory=list)  # outcomes to decide and write
    lease_first: list[Entry] = field(default_factory=list)  # write their lease rows, then enqueue them
    take_out: list[bytes] = field(default_factory=list)  # exec_ids to remove from the queue service
    cancel: list[Entry] = field(default_factory=list)  # notify their workers of the cancel
    void: list[bytes] = field(default_factory=list)  # exec_ids for a worker to confirm that it never got them
    revoke: list[bytes] = field(default_factory=list)  # exec_ids for a worker to stop
    lost: list[Entry] = field(default_factory=list)  # the attempts of a lost worker, for the log
