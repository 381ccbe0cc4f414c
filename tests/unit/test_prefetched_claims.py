"""How long an attempt has run, by the word of its worker: pure."""

from __future__ import annotations

import pytest

from taskflow_server.core.dispatch.effects import Effects
from taskflow_server.core.dispatch.records import Claim, Entry, Shard, WorkerRecord
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.lanes import LaneKey

WORKER, JOB, EXEC = b"w" * 16, b"j" * 16, b"e" * 16


@pytest.mark.parametrize(("started", "since"), [(False, 30.0), (True, 10.0)])
def test_an_attempt_that_its_worker_has_not_started_counts_from_its_last_heartbeat(started: bool, since: float) -> None:
    """Else a prefetched one were taken for a running one as soon as it is as old as `lease_row_after`."""
    table = DispatchTable(lambda shard, epoch: EXEC, depth=10)
    table.workers[WORKER] = WorkerRecord(WORKER, 100.0)
    table.open_shard(Shard(1, 1, 0, True))
    entry = Entry(JOB, LaneKey("q", "", 5), 1, 1, 0, spec=object())
    table.admit(entry, in_doubt=False)
    table.took(WORKER, [EXEC], 10.0)

    for now in (20.0, 30.0):
        effects = table.heartbeat(WORKER, {1: 1}, [Claim(EXEC, JOB, 1, 1, started, False)], [], now)

    assert (entry.started, entry.taken_at, effects) == (started, since, Effects())
