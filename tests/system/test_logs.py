"""With TASKFLOW_LOG_FORMAT=json every line of a service is JSON, and one about a job names it in `job`."""

import json
import re
from collections.abc import Callable

import pytest

from taskflow import InvalidArgument, JobFailed, TaskFlow
from taskflow.v1 import jobs_pb2
from tests.support.api import Api
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.waiting import eventually

SERVICES = ("queue", "coordinator", "scheduler", "worker", "gateway")


@pytest.fixture(scope="module")
def logging_cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    env = {name: {"TASKFLOW_LOG_FORMAT": "json"} for name in SERVICES}
    env["coordinator"] |= {"TASKFLOW_LEASE": "5", "TASKFLOW_HEARTBEAT_INTERVAL": "0.5"}
    cluster = make_cluster(services=SERVICES, app="tests.support.metrics_app:tf", env=env)
    cluster.start_all()
    return cluster


@pytest.fixture
def tf(logging_cluster: ServiceCluster) -> TaskFlow:
    return TaskFlow(logging_cluster.scheduler_address)


def lines(cluster: ServiceCluster, service: str) -> list[dict[str, object]]:
    """The log, each line of which must be JSON."""
    return [json.loads(line) for line in cluster.log(service).splitlines()]


def about(cluster: ServiceCluster, service: str, job: str) -> list[dict[str, object]]:
    return [line for line in lines(cluster, service) if line.get("job") == job]


def test_a_failed_job_s_lines_name_it_in_coordinator_and_worker(logging_cluster: ServiceCluster, tf: TaskFlow) -> None:
    job = tf.new_job("timed", task="never", payload="secret-of-the-payload")
    with pytest.raises(JobFailed, match="no luck"):
        job.wait(timeout=30)

    (told,) = eventually(lambda: about(logging_cluster, "coordinator", job.id))
    assert told["event"] == "a job has failed"
    assert (told["level"], told["queue"], told["task"], told["attempt"]) == ("warning", "timed", "never", 1)
    assert (told["outcome"], told["error"]) == ("failed", "Fail")
    (told,) = eventually(lambda: about(logging_cluster, "worker", job.id))
    assert (told["level"], told["task"], told["service"]) == ("warning", "never", "worker-1")
    assert "Fail: no luck" in str(told["event"])
    for service in SERVICES:
        assert "secret-of-the-payload" not in logging_cluster.log(service)


def test_lost_cancelled_and_never_started_jobs_are_named(logging_cluster: ServiceCluster, tf: TaskFlow) -> None:
    waiting = tf.new_job("unserved")
    waiting.cancel(reason="not wanted")
    (told,) = eventually(lambda: about(logging_cluster, "coordinator", waiting.id))
    assert (told["event"], told["error"]) == ("a job is cancelled", "cancelled")

    with Api(logging_cluster.scheduler_address) as api, RawWorker(api, queues=["broken"]) as worker:
        lost = tf.new_job("broken", retries=0)
        worker.start(worker.take())
        worker.vanish()
        (told,) = eventually(lambda: about(logging_cluster, "coordinator", lost.id), timeout=30)
    assert (told["event"], told["outcome"], told["worker"]) == ("a job has failed", "lost", "raw")
    (attempt,) = tf.jobs.attempts(lost.id)
    assert (attempt.worker, attempt.error.message) == (
        "raw", "its worker raw died, or was cut off for longer than its lease",
    )  # fmt: skip
    (told,) = [line for line in lines(logging_cluster, "coordinator") if line["event"] == "a worker is lost"]
    assert (told["worker"], told["jobs"]) == ("raw", [lost.id])


def test_a_refused_job_and_a_refused_outcome_are_named(logging_cluster: ServiceCluster, tf: TaskFlow) -> None:
    with pytest.raises(InvalidArgument):
        tf.new_job("EmailQueue", retries=5000)
    (told,) = eventually(lambda: [x for x in lines(logging_cluster, "scheduler") if x["event"] == "a job was refused"])
    assert str(told["field"]).endswith("retries")
    assert re.fullmatch(r"[0-9a-f-]{36}", str(told["job"]))

    with Api(logging_cluster.scheduler_address) as api, RawWorker(api, queues=["twice"]) as worker:
        job = tf.new_job("twice")
        handed = worker.take()
        worker.report(handed.outcome())
        assert set(worker.report(handed.outcome(jobs_pb2.OUTCOME_FAILED)).values()) == {"OUTCOME_RECORDED"}
    (told,) = eventually(lambda: about(logging_cluster, "coordinator", job.id))
    assert (told["event"], told["reason"]) == ("an outcome was refused", "OUTCOME_RECORDED")
