"""Postgres goes away or is killed, and comes back: who says so, how soon, how soon jobs run again, and how often."""

from __future__ import annotations

import asyncio
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import grpc
import pytest

from taskflow import Job, TaskFlow, TaskFlowError
from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres
from taskflow_server.cluster.health import is_serving
from taskflow_server.store.migrate import migrate
from tests.support import postgres as pg
from tests.support import rows
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.link import Link
from tests.support.rawworker import Handed, RawWorker
from tests.support.tier import size
from tests.support.waiting import eventually
from tests.support.workers import working

AWAY = size(2.0, 15.0)  # seconds
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def link(database: str) -> Iterator[Link]:
    """The way of all services to Postgres."""
    with Link() as way:
        parts = urlsplit(database)
        way.target = f"{parts.hostname}:{parts.port}"
        yield way


def over(link: Link, dsn: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@{link.address}"))


@pytest.fixture(scope="module")
def cluster(link: Link, database: str, make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    url = {"TASKFLOW_DATABASE_URL": over(link, database)}
    running = make_cluster(
        services=("queue", "coordinator", "scheduler", "gateway"), env={"coordinator": url, "scheduler": url}
    )
    running.start_all()
    return running


def healthy(cluster: ServiceCluster) -> int:
    try:
        with _OPENER.open(f"http://{cluster.address('gateway')}/healthz", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        assert "Postgres" in error.read().decode()
        return error.code


@pytest.mark.longer
@pytest.mark.feature("M.4")
def test_every_client_names_postgres_readiness_follows_and_jobs_run_soon_after(
    cluster: ServiceCluster, link: Link
) -> None:
    queue, services = "outage", [cluster.address(name) for name in ("scheduler", "coordinator")]

    def handle(job: Job) -> int:
        return len(str(job.payload))

    app = TaskFlow(cluster.scheduler_address)
    with TaskFlow(cluster.scheduler_address, timeout=1.5) as tf, working(app, queue, handle):
        assert tf.new_job(queue, "four").wait(timeout=20)
        link.cut()
        cut_at = time.monotonic()
        eventually(lambda: healthy(cluster) == 503 and not any(map(is_serving, services)), 2)
        calls: list[Callable[[], object]] = [
            lambda: tf.new_job(queue),
            lambda: tf.queues.get(queue),
            lambda: list(tf.jobs.list()),
            lambda: tf.new_jobs([(queue, 1)]),
        ]
        while time.monotonic() < cut_at + AWAY:
            with ThreadPoolExecutor(len(calls)) as pool:
                said = list(pool.map(refused, calls))
            assert not [message for message in said if "Postgres does not answer" not in message], said

        link.mend()
        back_at = time.monotonic()
        eventually(lambda: ran(tf, queue), 3)
        assert time.monotonic() - back_at < 3
        eventually(lambda: healthy(cluster) == 200 and all(map(is_serving, services)), 3)


@pytest.mark.feature("B2")
def test_no_lease_ends_while_postgres_does_not_answer(link: Link, make_cluster: Callable[..., ServiceCluster]) -> None:
    """A worker is silent for longer than its lease meanwhile; it is heard before Postgres is back."""
    cluster = make_cluster(env={"coordinator": {"TASKFLOW_LEASE": "3", "TASKFLOW_OWNER_TIMEOUT": "1"}})
    for name in ("queue", "coordinator", "scheduler"):
        cluster.start(name, None if name == "queue" else {"TASKFLOW_DATABASE_URL": over(link, cluster.dsn)})
        cluster.wait_healthy(name)
    with Api(cluster.scheduler_address) as api, RawWorker(api, queues=["leased"]) as worker:
        job = api.new("leased", retries=3)
        handed = worker.take()
        worker.have = [handed.held(started=True)]
        link.cut()
        eventually(lambda: not is_serving(cluster.address("coordinator")))
        worker.beating, silent_at = False, time.monotonic()
        eventually(lambda: time.monotonic() - silent_at > 4.5)
        heard, worker.beating = worker.acknowledged, True
        eventually(lambda: worker.acknowledged > heard)
        link.mend()
        eventually(lambda: recorded(worker, handed), 20)
        (attempt,) = api.jobs.ListAttempts(pb.ListAttemptsRequest(job_id=job.id), timeout=TIMEOUT).attempts
    assert (attempt.number, attempt.outcome) == (1, pb.OUTCOME_SUCCEEDED)


def recorded(worker: RawWorker, handed: Handed) -> bool:
    """Whether the success of what it has is acknowledged; a refusal ends the test."""
    try:
        refused = worker.report(handed.outcome())
    except grpc.RpcError:
        return False  # Postgres is not back yet, or the shard not settled
    assert set(refused.values()) <= {"COMMIT_PENDING"}, refused
    return not refused


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(TaskFlowError) as caught:
        call()
    return str(caught.value)


def ran(tf: TaskFlow, queue: str) -> bool:
    try:
        return bool(tf.new_job(queue, "four").wait(timeout=3).result == 4)
    except TaskFlowError:
        return False


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """One that no other test needs."""
    server = EmbeddedPostgres(tmp_path / "data")
    yield server
    server.remove()


@pytest.mark.feature("M.4", "A8")
def test_jobs_run_once_each_though_postgres_is_killed(
    own_postgres: EmbeddedPostgres, make_cluster: Callable[..., ServiceCluster]
) -> None:
    dsn = own_postgres.start()
    pg.run(lambda: migrate(dsn))
    cluster = make_cluster(dsn)
    cluster.start_all()
    starts: Counter[str] = Counter()

    async def handle(job: Job) -> None:
        starts[job.id] += 1
        await asyncio.sleep(0.02)

    with TaskFlow(cluster.scheduler_address) as tf, working(tf, "killed", handle, concurrency=5):
        jobs = tf.new_jobs([("killed", n) for n in range(300)])
        eventually(lambda: len(starts) > 50)
        own_postgres.kill()
        eventually(lambda: own_postgres.pid is None)
        before = len(starts)
        assert own_postgres.start() == dsn
        succeeded = "select count(*) from taskflow.attempts where outcome = 1 and final"
        eventually(lambda: rows.found(dsn, succeeded) == [(300,)], 30)
    cluster.close()

    assert before < 300
    assert starts == dict.fromkeys((job.id for job in jobs), 1)
