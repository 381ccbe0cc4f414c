"""Readings that overlap: each is told of every job that leaves memory meanwhile (A3)."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from taskflow_server.core import ids
from taskflow_server.core.dispatch.records import Entry, Shard
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.lanes import LaneKey

KEY = LaneKey("q", "", 5)


def leave(table: DispatchTable, job_id: bytes) -> None:
    entry = Entry(job_id, KEY, 0, 1, 0, spec="")
    table.admit(entry, in_doubt=False)
    table.end(entry)
    table.finish(entry)


@pytest.mark.feature("A3")
@pytest.mark.parametrize("first_ends", [True, False], ids=["the first ends first", "the second ends first"])
def test_a_reading_is_told_of_what_leaves_memory_after_another_reading_has_ended(first_ends: bool) -> None:
    table = DispatchTable(lambda shard, epoch: ids.exec_id(shard, epoch, 1, 1), depth=10)
    table.open_shard(Shard(0, 1, 0, clean=True))
    first, second = ExitStack(), ExitStack()
    told = [first.enter_context(table.departures()), second.enter_context(table.departures())]  # equal: both are empty
    ends, stays = (first, second) if first_ends else (second, first)

    ends.close()
    leave(table, b"j" * 16)

    assert told[first_ends] == {b"j" * 16}
    assert told[not first_ends] == set(), "it has ended"
    stays.close()
    leave(table, b"k" * 16)
    assert told[first_ends] == {b"j" * 16}
