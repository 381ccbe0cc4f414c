"""Prefetched jobs through a takeover (A5)."""

from __future__ import annotations

import pytest

from taskflow import JobState
from tests.support.cluster import ServiceCluster
from tests.support.prefetching import LONG, Scene


@pytest.mark.feature("A5", "A6")
@pytest.mark.parametrize("service", ["coordinator", "queue"])
def test_prefetched_jobs_run_once_though_a_service_is_killed(cluster: ServiceCluster, service: str) -> None:
    scene = Scene(cluster, f"prefetch-{service}")
    with scene.worker(LONG):
        assert scene.prefetched()
        cluster.kill(service)
        cluster.start(service)
        cluster.wait_healthy(service)
        scene.all_ran_once_elsewhere()
    assert scene.keeper.wait(timeout=20).state is JobState.SUCCEEDED
    scene.close()
