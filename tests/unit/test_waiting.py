"""The counts of each lane equal a recount, and nothing is left of lanes without jobs."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from taskflow_server.core.dispatch.waiting import Share, Waiting
from taskflow_server.core.lanes import LaneKey


@dataclass(frozen=True)
class Job:
    key: LaneKey
    due: bool
    size: int
    own_size: int


@pytest.mark.feature("M.3")
@pytest.mark.parametrize("seed", range(20))
def test_shares_and_totals_are_those_of_the_jobs_that_are_there(seed: int) -> None:
    rng = random.Random(seed)
    waiting, there = Waiting(), list[Job]()
    for _ in range(300):
        if there and rng.random() < 0.45:
            waiting.remove(there.pop(rng.randrange(len(there))))
        else:
            key = LaneKey("q", "", rng.randrange(4))
            there.append(Job(key, rng.random() < 0.5, rng.randrange(1000), rng.randrange(100)))
            waiting.add(there[-1])

    assert (waiting.size, waiting.own_size) == (sum(j.size for j in there), sum(j.own_size for j in there))
    assert set(waiting) == {job.key for job in there}
    for key in {LaneKey("q", "", n) for n in range(4)}:
        mine = [job for job in there if job.key == key]
        share = waiting.of(key)
        assert waiting[key] == share.jobs == len(mine)
        assert share.due == sum(job.due for job in mine)
        assert share.due_size == sum(job.size for job in mine if job.due)
        assert (share.size, share.own_size) == (sum(j.size for j in mine), sum(j.own_size for j in mine))
    for job in there:
        waiting.remove(job)
    assert len(waiting) == waiting.size == waiting.own_size == 0
    assert waiting.of(LaneKey("q", "", 0)) == Share()
