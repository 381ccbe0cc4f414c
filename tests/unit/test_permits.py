"""Permits where the owner's memory meets takeovers, lease rows and its wake-ups (B4, A12)."""

from __future__ import annotations

import itertools

import pytest

from taskflow_server.coordinator.settings import CoordinatorSettings
from taskflow_server.coordinator.state import State
from taskflow_server.core import ids
from taskflow_server.core.book import Book, Entry, Phase, Seat, Shard
from taskflow_server.core.lanes import LaneKey
from taskflow_server.core.permits import Permits
from taskflow_server.runtime.clock import SystemClock

KEY = LaneKey("q", "t", 5)
LIMIT = "task:narrow"
WORKER = b"w" * 16


def opened(*, clean: bool = True) -> tuple[Book, Permits]:
    """Shard 0 is owned, its one worker is dead, and one job of LIMIT may run at once."""
    numbers = itertools.count(1)
    book = Book(lambda shard, epoch: ids.exec_id(shard, epoch, next(numbers), 1), depth=10)
    permits = Permits(book)
    permits.change({LIMIT: 1})
    book.seats = {WORKER: Seat(WORKER, 9.0)}
    book.open(Shard(0, 1, 0, clean=clean))
    book.over(WORKER)
    assert permits.begin()
    return book, permits


def admit(book: Book, number: int, *, in_doubt: bool = False, priority: int = 5, limited: bool = False) -> Entry:
    key = KEY._replace(priority=priority)
    entry = Entry(number.to_bytes(16, "big"), key, 0, 1, 0, spec="", limit_key=LIMIT, limited=limited)
    book.admit(entry, in_doubt=in_doubt)
    return entry


def give(book: Book, permits: Permits) -> list[Entry]:
    """The entries that are held until their lease rows are written."""
    (limit,) = book.limits
    limit.stored = None  # nothing waits in Postgres
    return permits.give(limit)[0]


@pytest.mark.feature("B4")
def test_the_limits_of_a_coordinator_wake_its_loops() -> None:
    settings = CoordinatorSettings(database_url="postgresql://nobody@127.0.0.1:9/none")
    state = State(settings, SystemClock(), None)  # type: ignore[arg-type]
    assert not list(state.book.limits) and not state.permits_wanted.is_set() and not state.paused_wanted.is_set()
    state.book.open(Shard(0, 1, 0, clean=True))

    entry = admit(state.book, 1, limited=True)

    assert state.paused_wanted.is_set(), "its limit is to be read"
    assert entry.phase is Phase.BLOCKED and state.permits_wanted.is_set()


@pytest.mark.feature("A12", "B4")
@pytest.mark.parametrize("ends", ["a permit", "no limit"])
def test_a_suspect_that_was_blocked_is_held_until_its_lease_row_is_written(ends: str) -> None:
    book, permits = opened(clean=False)
    suspect = admit(book, 1, in_doubt=True)
    assert book.settle(0) == [suspect] and suspect.lease_first
    book.hand_out(suspect)
    assert suspect.phase is Phase.BLOCKED

    if ends == "a permit":
        assert give(book, permits) == [suspect]
    else:
        permits.change({})

    assert suspect.phase is Phase.HELD and not book.outbox
    assert book.settle(0) == [suspect]


@pytest.mark.feature("R4", "A12", "B4")
def test_a_job_whose_permit_was_taken_back_is_not_counted_as_handed_out_once_more() -> None:
    book, permits = opened(clean=False)
    suspect = admit(book, 1, in_doubt=True)
    book.settle(0)
    book.hand_out(suspect)
    assert give(book, permits) == [suspect]
    suspect.leased, suspect.lease_first = True, False  # its row is written
    assert book.settle(0) == [suspect]
    book.hand_out(suspect)
    urgent = admit(book, 2, priority=9)
    give(book, permits)
    assert suspect.yielding
    permits.gave_back(suspect)
    assert suspect.phase is Phase.BLOCKED
    give(book, permits)
    assert urgent.phase is Phase.QUEUED
    book.end(urgent)
    book.finish(urgent)

    assert give(book, permits) == []
    assert suspect.phase is Phase.QUEUED


@pytest.mark.feature("B4")
def test_what_is_given_back_after_a_takeover_gets_no_permit() -> None:
    """The stream's request iterator may hold it while the shard is taken over anew."""
    book, permits = opened()
    entry = admit(book, 1)
    give(book, permits)
    assert entry.phase is Phase.QUEUED
    entry.yielding = True
    book.open(Shard(0, 2, 0, clean=True))

    permits.gave_back(entry)

    assert book.limits.blocked == 0 and not book.outbox
