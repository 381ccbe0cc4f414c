"""A pusher killed again and again at moments of chance, while jobs come, end and are cancelled."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from taskflow import JobState
from tests.support.batch import BatchServer
from tests.support.cluster import ServiceCluster
from tests.support.kube import KubeServer
from tests.support.marathon import MarathonServer
from tests.support.processes import runs
from tests.support.pushing import PATIENCE, Pushing
from tests.support.tier import size
from tests.support.waiting import eventually, until_by_chance

EACH = 4  # jobs of either sort between two kills
KILLS = {"aws-batch": size(5, 12), "kubernetes": size(3, 12), "marathon": size(3, 12)}  # times


@pytest.fixture(params=[BatchServer, KubeServer, MarathonServer], ids=lambda place: place.kind)
def pushing(request: pytest.FixtureRequest, cluster: ServiceCluster, tmp_path: Path) -> Iterator[Pushing]:
    place = request.param(tmp_path)
    found = Pushing(cluster, place, tmp_path)
    yield found
    found.close()
    place.close()


@pytest.mark.feature("M.9")
def test_each_attempt_is_one_external_job_and_none_outlives_its_task(pushing: Pushing) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    kills = KILLS[pushing.place.kind]
    destinations = {"etl": pushing.destination(tasks={"any": {}}, limit=EACH * kills)}
    ends, endless = pushing.gate(), [pushing.gate() for _ in range(EACH * kills)]
    ends.write_text("0")

    pusher = pushing.start(destinations, "killed")
    ending: list[str] = []
    cancelled: list[str] = []
    for kill in range(kills):
        ending += [pushing.new("any", ends) for _ in range(EACH)]
        gates = endless[kill * EACH : (kill + 1) * EACH]
        cancelled += [pushing.new("any", gate, retries=3) for gate in gates]
        until_by_chance(chance.uniform(0.2, 2.0))
        for id in cancelled[:-EACH] if kill < kills - 1 else cancelled:
            if not pushing.get(id).state.final and chance.random() < 0.7:
                pushing.tf.jobs.cancel(id)
        pusher.kill()
        pusher = pushing.start(destinations, "killed")
    for id in cancelled:
        if not pushing.get(id).state.final:
            pushing.tf.jobs.cancel(id)

    assert {pushing.ends(id, JobState.SUCCEEDED).attempt for id in ending} == {1}  # no try was used: there is one
    for id in cancelled:
        pushing.ends(id, JobState.CANCELLED)
    eventually(lambda: set(pushing.statuses()) <= {"SUCCEEDED", "FAILED"}, PATIENCE)
    names = [job["jobName"] for job in pushing.jobs()]
    assert len(names) == len(set(names))
    assert pushing.statuses().count("SUCCEEDED") == len(ending)
    eventually(lambda: pushing.place.left(pushing.queue) == [], PATIENCE)
    processes = [int(gate.with_suffix(".pid").read_text()) for gate in endless if gate.with_suffix(".pid").exists()]
    assert not any(map(runs, processes))
