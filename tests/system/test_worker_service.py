"""`python -m services.worker`: the SDK's worker as a service process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from services.cluster.health import is_serving
from taskflow import JobState, TaskFlow
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

EVERYTHING = ("queue", "coordinator", "scheduler", "worker")


@pytest.mark.feature("X.22", "R4")
@pytest.mark.parametrize(
    ("app", "queue", "task"),
    [("tests.support.cli_drained:app", "drained", "nap"), ("tests.support.async_app:app", "async_naps", "async_nap")],
)
def test_sigterm_lets_running_jobs_end_and_gives_the_others_back(
    make_cluster: Callable[..., ServiceCluster], tmp_path: Path, app: str, queue: str, task: str
) -> None:
    settings = {"TASKFLOW_CONCURRENCY": "1", "TASKFLOW_QUEUES": queue, "TASKFLOW_GRACE": "20"}
    cluster = make_cluster(services=EVERYTHING, app=app, env={"worker": settings})
    cluster.start_all()
    with TaskFlow(cluster.scheduler_address) as tf:
        payload = {"seconds": 1.5, "started": str(tmp_path / "started")}
        running, waiting = (tf.new_job(queue, payload, task=task) for _ in range(2))
        eventually((tmp_path / "started").exists)

        cluster.kill("worker", signal.SIGTERM)
        cluster.wait_dead("worker")

        assert cluster.stop("worker") == 0
        assert running.get().state is JobState.SUCCEEDED
        assert (waiting.get().state, waiting.get().attempt) == (JobState.READY, 0)
        assert "Traceback" not in cluster.log("worker")

        cluster.start("worker")
        assert waiting.wait(timeout=20).attempt == 1
    cluster.close()


def test_without_an_app_it_says_so_once_and_stays_healthy(make_cluster: Callable[..., ServiceCluster]) -> None:
    cluster = make_cluster(services=("worker",))

    cluster.start_all()

    assert is_serving(cluster.address("worker"), timeout=5)
    assert cluster.log("worker").count("nothing to run") == 1
    assert cluster.stop("worker") == 0


def test_its_metrics_are_served(make_cluster: Callable[..., ServiceCluster]) -> None:
    import urllib.request

    cluster = make_cluster(services=("worker",), metrics=True)
    cluster.start_all()

    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.metrics_port('worker')}/metrics", timeout=10) as answer:
        assert b"process_cpu_seconds_total" in answer.read()
