"""Permits where the owner's memory meets takeovers, lease rows and its wake-ups (B4, A12)."""

from __future__ import annotations

import itertools

import pytest

from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.coordinator.shared import Shared
from taskflow_server.core import ids
from taskflow_server.core.dispatch.permits import Permits
from taskflow_server.core.dispatch.records import Entry, Shard, WorkerRecord
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.lanes import LaneKey
from taskflow_server.runtime.clock import SystemClock

KEY = LaneKey("q", "t", 5)
LIMIT = "task:narrow"
WORKER = b"w" * 16


def opened(*, clean: bool = True) -> tuple[DispatchTable, Permits]:
    """Shard 0 is owned, its one worker is dead, and one job of LIMIT may run at once."""
    numbers = itertools.count(1)
    table = DispatchTable(lambda shard, epoch: ids.exec_id(shard, epoch, next(numbers), 1), depth=10)
    permits = Permits(table)
    permits.change({LIMIT: 1})
    table.workers = {WORKER: WorkerRecord(WORKER, 9.0)}
    table.open_shard(Shard(0, 1, 0, clean=clean))
    table.worker_lost(WORKER)
    assert permits.begin()
    return table, permits


def admit(
    table: DispatchTable, number: int, *, in_doubt: bool = False, priority: int = 5, limited: bool = False
) -> Entry:
    key = KEY._replace(priority=priority)
    entry = Entry(number.to_bytes(16, "big"), key, 0, 1, 0, spec="", limit_key=LIMIT, limited=limited)
    table.admit(entry, in_doubt=in_doubt)
    return entry


def give(table: DispatchTable, permits: Permits) -> list[Entry]:
    """The entries that are held until their lease rows are written."""
    (limit,) = table.limits
    limit.stored = None  # nothing waits in Postgres
    return permits.give(limit)[0]


@pytest.mark.feature("B4")
def test_the_limits_of_a_coordinator_wake_its_loops() -> None:
    settings = CoordinatorSettings(database_url="postgresql://nobody@127.0.0.1:9/none")
    state = Shared(settings, SystemClock(), None)  # type: ignore[arg-type]
    assert not list(state.table.limits) and not state.permits_wanted.is_set() and not state.paused_wanted.is_set()
    state.table.open_shard(Shard(0, 1, 0, clean=True))

    entry = admit(state.table, 1, limited=True)

    assert state.paused_wanted.is_set(), "its limit is to be read"
    assert entry.phase is Phase.BLOCKED and state.permits_wanted.is_set()


@pytest.mark.feature("A12", "B4")
@pytest.mark.parametrize("ends", ["a permit", "no limit"])
def test_a_suspect_that_was_blocked_is_held_until_its_lease_row_is_written(ends: str) -> None:
    table, permits = opened(clean=False)
    suspect = admit(table, 1, in_doubt=True)
    table.settle()
    assert suspect.phase is Phase.BLOCKED

    if ends == "a permit":
        assert give(table, permits) == [suspect]
    else:
        permits.change({})

    assert suspect.phase is Phase.IN_DOUBT and not table.outbox
    assert table.settle().lease_first == [suspect]


@pytest.mark.feature("R4", "A12", "B4")
def test_a_job_whose_permit_was_taken_back_is_not_counted_as_handed_out_once_more() -> None:
    table, permits = opened(clean=False)
    suspect = admit(table, 1, in_doubt=True)
    table.settle()
    assert give(table, permits) == [suspect]
    assert table.settle().lease_first == [suspect]
    table.leased(suspect)
    table.lease_first_written([suspect])
    urgent = admit(table, 2, priority=9)
    give(table, permits)
    assert suspect.yielding
    table.yielded(suspect)
    assert suspect.phase is Phase.BLOCKED
    give(table, permits)
    assert urgent.phase is Phase.QUEUED
    table.end(urgent)
    table.finish(urgent)

    assert give(table, permits) == []
    assert suspect.phase is Phase.QUEUED


@pytest.mark.feature("B4")
def test_what_is_given_back_after_a_takeover_gets_no_permit() -> None:
    """The stream's request iterator may hold it while the shard is taken over anew."""
    table, permits = opened()
    entry = admit(table, 1)
    give(table, permits)
    assert entry.phase is Phase.QUEUED
    entry.yielding = True
    table.open_shard(Shard(0, 2, 0, clean=True))

    table.yielded(entry)

    assert table.limits.blocked == 0 and not table.outbox
