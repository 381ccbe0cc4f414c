"""Claims of a heartbeat that the table does not know: adopted, revoked, or left to somebody who knows more (A5, A6)."""

from __future__ import annotations

import itertools

import pytest

from taskflow_server.core import ids
from taskflow_server.core.dispatch.effects import Effects
from taskflow_server.core.dispatch.records import Claim, Entry, Shard, WorkerRecord
from taskflow_server.core.dispatch.table import DispatchTable
from taskflow_server.core.dispatch.transitions import Phase
from taskflow_server.core.lanes import LaneKey

KEY = LaneKey("q", "", 5)
EPOCH = 7
JOB = b"j" * 16
ME, OTHER = b"m" * 16, b"o" * 16


def opened() -> DispatchTable:
    """Shard 0 is owned under EPOCH; two workers are to confirm it."""
    numbers = itertools.count(1)
    table = DispatchTable(lambda shard, epoch: ids.exec_id(shard, epoch, next(numbers), 1), depth=10)
    table.workers = {ME: WorkerRecord(ME, 9.0), OTHER: WorkerRecord(OTHER, 9.0)}
    table.open_shard(Shard(0, EPOCH, 0, clean=True))
    return table


def claim(epoch: int = EPOCH - 1, *, attempt: int = 1, shard: int = 0, finished: bool = False) -> Claim:
    return Claim(ids.exec_id(shard, epoch, 99, 9), JOB, attempt, shard, started=True, finished=finished)


def settle(table: DispatchTable) -> None:
    for worker in (ME, OTHER):
        table.heartbeat(worker, {0: EPOCH}, [], [], 0.0)
    assert table.settle() == Effects()


@pytest.mark.feature("A6")
@pytest.mark.parametrize(
    ("claimed", "revoked"),
    [
        (claim(), True),
        (claim(EPOCH), True),
        (claim(EPOCH, attempt=3), True),
        (claim(finished=True), False),  # its report is answered
        (claim(EPOCH + 1), False),  # another owner has given it
        (claim(shard=1), False),  # not ours
        (Claim(ids.exec_id(3, EPOCH, 1, 1), JOB, 1, 0, started=True, finished=False), False),  # of another shard
    ],
)
@pytest.mark.parametrize("waits", [False, True], ids=["its job is gone", "its job waits again"])
def test_a_settled_shard_revokes_what_is_not_the_present_attempt(claimed: Claim, revoked: bool, waits: bool) -> None:
    table = opened()
    if waits:
        table.admit(Entry(JOB, KEY, 0, 2, 1, spec=""), in_doubt=True)
    settle(table)

    assert table.heartbeat(ME, {0: EPOCH}, [claimed], [], 0.0).revoke == [claimed.exec_id] * revoked
    assert ME in table.workers and claimed.exec_id not in table.by_exec


@pytest.mark.feature("A5", "A6")
def test_an_unsettled_shard_revokes_nothing_and_adopts_what_a_worker_has_when_it_confirms() -> None:
    table = opened()
    table.admit(Entry(JOB, KEY, 0, 1, 0, spec=""), in_doubt=True)

    assert table.heartbeat(OTHER, {0: EPOCH}, [], [], 0.0).revoke == []
    assert table.heartbeat(OTHER, {0: EPOCH}, [claim()], [], 0.0).revoke == [], "it has confirmed, and ME has not"
    assert table.by_job[JOB].phase is Phase.IN_DOUBT
    assert table.heartbeat(ME, {0: EPOCH}, [claim()], [], 0.0).revoke == []

    entry = table.by_job[JOB]
    assert (entry.phase, entry.worker, entry.exec_id) == (Phase.TAKEN, ME, claim().exec_id)
    assert table.heartbeat(ME, {0: EPOCH}, [claim()], [], 0.0).revoke == [], "it is the present one now"
    assert table.heartbeat(OTHER, {0: EPOCH}, [claim(EPOCH - 2)], [], 0.0).revoke == [claim(EPOCH - 2).exec_id]


@pytest.mark.feature("A5")
@pytest.mark.parametrize("finished", [False, True])
def test_an_attempt_whose_end_is_recorded_is_not_adopted_in_place_of_the_next(finished: bool) -> None:
    table = opened()
    table.admit(Entry(JOB, KEY, 0, 2, 1, spec=""), in_doubt=True)

    table.heartbeat(ME, {0: EPOCH}, [claim(attempt=1, finished=finished)], [], 0.0)

    entry = table.by_job[JOB]
    assert (entry.phase, entry.attempt) == (Phase.IN_DOUBT, 2)
    assert not table.in_doubt(JOB, 1) and table.in_doubt(JOB, 2)


@pytest.mark.feature("A6")
def test_a_claim_of_what_is_being_committed_is_not_revoked_and_one_that_is_committed_is() -> None:
    table = opened()
    settle(table)
    table.admit(Entry(JOB, KEY, 0, 1, 0, spec=""), in_doubt=False)
    exec_id = table.by_job[JOB].exec_id
    own = Claim(exec_id, JOB, 1, 0, started=True, finished=False)
    entry = table.by_job[JOB]
    phases = []
    for step in (lambda: None, lambda: table.took(ME, [exec_id], 0.0), lambda: table.end(entry)):
        step()
        phases.append((entry.phase, table.heartbeat(ME, {0: EPOCH}, [own], [], 0.0).revoke))

    assert phases == [(Phase.QUEUED, []), (Phase.TAKEN, []), (Phase.ENDING, [])]
    table.finish(entry)
    assert table.heartbeat(ME, {0: EPOCH}, [own], [], 0.0).revoke == [exec_id]


@pytest.mark.feature("A5")
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
@pytest.mark.parametrize("workers", [(ME, ME), (ME, OTHER)], ids=["one worker", "two workers"])
def test_of_two_claimed_attempts_of_a_job_the_later_is_adopted(
    order: tuple[int, int], workers: tuple[bytes, bytes]
) -> None:
    """The end of the earlier is recorded, and was not acknowledged."""
    table = opened()
    claims = {n: Claim(ids.exec_id(0, EPOCH - 1, n, 9), JOB, n, 0, started=True, finished=n == 1) for n in order}
    told = [(workers[n - 1], claims[n]) for n in order]
    if workers[0] == workers[1]:
        table.heartbeat(ME, {0: EPOCH}, [each for _, each in told], [], 0.0)
    else:
        for worker, each in told:
            table.heartbeat(worker, {0: EPOCH}, [each], [], 0.0)

    entry = table.by_job[JOB]
    assert (entry.attempt, entry.exec_id, entry.worker) == (2, claims[2].exec_id, workers[1])
    assert [e for seat in table.workers.values() for e in seat.entries.values()] == [entry]
    assert claims[1].exec_id not in table.by_exec


@pytest.mark.feature("A12")
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("workers", [True, False], ids=["a worker was there", "none was"])
@pytest.mark.parametrize("in_doubt", [True, False])
def test_a_suspect_that_is_read_after_its_shard_has_settled_is_held(clean: bool, workers: bool, in_doubt: bool) -> None:
    """The proof that a worker is dead may come before the first page."""
    numbers = itertools.count(1)
    table = DispatchTable(lambda shard, epoch: ids.exec_id(shard, epoch, next(numbers), 1), depth=10)
    table.workers = {ME: WorkerRecord(ME, 9.0)} if workers else {}
    table.open_shard(Shard(0, EPOCH, 0, clean=clean))
    table.worker_lost(ME)
    assert table.settle() == Effects()

    table.admit(Entry(JOB, KEY, 0, 1, 0, spec=""), in_doubt=in_doubt)

    suspect = workers and in_doubt and not clean
    assert [entry.job_id for entry in table.settle().lease_first] == [JOB] * suspect
    assert table.by_job[JOB].lease_first is suspect
    assert len(table.outbox) == (not suspect)


@pytest.mark.feature("A12")
def test_no_more_jobs_of_a_lane_are_suspects_than_its_former_owner_had_in_memory() -> None:
    numbers = itertools.count(1)
    table = DispatchTable(lambda shard, epoch: ids.exec_id(shard, epoch, next(numbers), 1), depth=10)
    table.workers = {ME: WorkerRecord(ME, 9.0)}
    table.open_shard(Shard(0, EPOCH, 0, clean=False))
    table.worker_lost(ME)

    for n in range(50):
        table.admit(Entry(n.to_bytes(16, "big"), KEY, 0, 1, 0, spec=""), in_doubt=True)

    assert [e.job_id for e in table.settle().lease_first] == [n.to_bytes(16, "big") for n in range(20)]
