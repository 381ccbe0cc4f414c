"""A process that dies at a commit, or a connection that does: each job once, each outcome once, none lost (A8, A9)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import grpc
import psycopg
import pytest

from taskflow import TaskFlow
from taskflow.v1 import jobs_pb2
from tests.support import rows
from tests.support.api import Api, spec
from tests.support.cluster import Program, ServiceCluster
from tests.support.proxy import PostgresProxy
from tests.support.recorder import Record
from tests.support.waiting import eventually

JOBS = 300
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def proxy(database: str) -> Iterator[PostgresProxy]:
    """Between the coordinator and Postgres."""
    with PostgresProxy(database) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(proxy: PostgresProxy, make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env={"coordinator": {"TASKFLOW_DATABASE_URL": proxy.dsn, "TASKFLOW_MARK_INTERVAL": "0.5"}})
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address, timeout=30) as client:
        yield client


@pytest.fixture
def api(cluster: ServiceCluster) -> Iterator[Api]:
    with Api(cluster.scheduler_address) as stubs:
        yield stubs


@pytest.fixture
def worker(cluster: ServiceCluster, tmp_path: Path) -> Iterator[Callable[[str], Program]]:
    """Starts recording workers; their record files are `tmp_path/*.record`."""
    started: list[Program] = []

    def start(queue: str) -> Program:
        name = f"worker-{next(_numbers)}"
        command = ("-m", "tests.support.recorder", str(tmp_path / f"{name}.record"), queue, "20")
        started.append(cluster.run(name, *command, env={"TASKFLOW_ADDRESS": cluster.scheduler_address}))
        return started[-1]

    yield start
    for program in started:
        assert program.stop() == 0


def finals(database: str, queue: str) -> list[tuple[str, int]]:
    """How the queue's jobs ended: (outcome, how many)."""
    return rows.found(  # type: ignore[return-value]
        database,
        "select outcome, count(*) from taskflow.attempt_history where queue = %s and final group by outcome",
        queue,
    )


def attempts(database: str, queue: str) -> int:
    return int(rows.found(database, "select count(*) from taskflow.attempt_history where queue = %s", queue)[0][0])


def run_once_each(database: str, tmp_path: Path, queue: str, count: int = JOBS) -> None:
    """The queue's jobs have all succeeded, and each was started once."""
    eventually(lambda: finals(database, queue) == [("succeeded", count)], 30)
    seen = Record.read(*tmp_path.glob("*.record"))
    assert len(seen.starts) == count
    assert [job for job, times in seen.starts.items() if times != 1] == []
    assert attempts(database, queue) == count


@pytest.mark.feature("A8", "M.4")
@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_outcomes_that_a_coordinator_took_to_its_grave_are_delivered_by_their_worker(
    cluster: ServiceCluster, tf: TaskFlow, worker: Callable[[str], Program], database: str, tmp_path: Path, moment: str
) -> None:
    queue = f"grave-{moment}"
    cluster.stop("coordinator")
    cluster.start("coordinator", {"TASKFLOW_FAILPOINTS": f"coordinator.{moment}=kill@3"})
    cluster.wait_healthy("coordinator")
    worker(queue)

    tf.new_jobs([(queue, {"sleep": 0.02})] * JOBS)
    cluster.wait_dead("coordinator")
    ended, recorded = len(Record.read(*tmp_path.glob("*.record")).ends), attempts(database, queue)
    cluster.start("coordinator")
    cluster.wait_healthy("coordinator")

    assert recorded < ended or (moment == "after_commit" and recorded), "outcomes were not on disk, or not acknowledged"
    run_once_each(database, tmp_path, queue)


@pytest.mark.feature("A8", "M.4")
def test_a_commit_whose_answer_is_lost_is_neither_lost_nor_doubled(
    tf: TaskFlow, worker: Callable[[str], Program], database: str, tmp_path: Path, proxy: PostgresProxy
) -> None:
    worker("in-doubt")

    for count in (1, 2, 3):
        before = attempts(database, "in-doubt")
        proxy.cut_next_commit("taskflow.attempts")
        tf.new_jobs([("in-doubt", {"sleep": 0.02})] * (JOBS // 3))
        eventually(lambda: proxy.cuts == count and attempts(database, "in-doubt") > before)  # noqa: B023

    run_once_each(database, tmp_path, "in-doubt")


@pytest.mark.feature("A8", "R3", "X.14")
def test_failures_whose_commit_is_in_doubt_are_retried_once(
    tf: TaskFlow, worker: Callable[[str], Program], database: str, tmp_path: Path, proxy: PostgresProxy
) -> None:
    cuts = proxy.cuts
    proxy.cut_next_commit("taskflow.attempts")
    worker("in-doubt-retries")

    tf.new_jobs([{"queue": "in-doubt-retries", "payload": {"fail": 1}, "retries": 1}] * 50)

    eventually(lambda: finals(database, "in-doubt-retries") == [("succeeded", 50)], 20)
    seen = Record.read(*tmp_path.glob("*.record"))
    assert set(seen.starts.values()) == {2} and len(seen.starts) == 50
    assert attempts(database, "in-doubt-retries") == 100
    assert proxy.cuts == cuts + 1


def counted(database: str, queue: str) -> int:
    (row,) = rows.found(database, "select coalesce(sum(n), 0) from taskflow.counts where queue = %s", queue)
    return int(row[0])


@pytest.mark.feature("A8")
def test_counts_whose_commit_is_in_doubt_are_not_counted_twice(
    tf: TaskFlow, worker: Callable[[str], Program], database: str, proxy: PostgresProxy
) -> None:
    cuts = proxy.cuts
    worker("counted")
    proxy.cut_next_commit("taskflow.counts")
    tf.new_jobs([("counted", {"sleep": 0})] * 20)
    eventually(lambda: proxy.cuts == cuts + 1 and counted(database, "counted") > 0)
    eventually(lambda: finals(database, "counted") == [("succeeded", 20)])

    tf.new_jobs([("counted", {"sleep": 0})] * 10)

    eventually(lambda: finals(database, "counted") == [("succeeded", 30)])
    eventually(lambda: counted(database, "counted") >= 30)
    assert counted(database, "counted") == 30


def refused(api: Api, job: jobs_pb2.JobSpec) -> bool:
    """Whether the call ended as one whose fate is unknown."""
    try:
        api.create(job)
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.UNAVAILABLE
    return False


def scheduler_with(cluster: ServiceCluster, failpoints: str) -> None:
    cluster.stop("scheduler")
    cluster.start("scheduler", {"TASKFLOW_FAILPOINTS": failpoints})
    cluster.wait_healthy("scheduler")


def scheduler_again(cluster: ServiceCluster) -> None:
    cluster.wait_dead("scheduler")
    cluster.start("scheduler")
    cluster.wait_healthy("scheduler")


@pytest.mark.feature("S3.1", "A9", "M.4")
@pytest.mark.parametrize(("moment", "stored"), [("before_commit", 0), ("after_commit", 1)])
def test_a_call_repeated_after_its_scheduler_died_makes_one_job(
    cluster: ServiceCluster, api: Api, database: str, moment: str, stored: int
) -> None:
    job = spec(f"twice-{moment}", payload=b"1")
    scheduler_with(cluster, f"scheduler.{moment}=kill@1")

    assert refused(api, job)
    count = "select count(*) from taskflow.jobs where queue = %s"
    assert rows.found(database, count, job.queue) == [(stored,)]
    scheduler_again(cluster)

    assert api.create(job).id == str(UUID(bytes=job.id))
    assert rows.found(database, count, job.queue) == [(1,)]


@pytest.mark.feature("S3.1", "X.3", "B5")
def test_a_call_with_a_key_repeated_by_a_caller_who_knows_nothing_else_answers_with_the_first_job(
    cluster: ServiceCluster, api: Api, database: str
) -> None:
    first = spec("keyed-twice", key="welcome-42")
    scheduler_with(cluster, "scheduler.after_keyed_commit=kill@1")

    assert refused(api, first)
    scheduler_again(cluster)
    again = api.create(spec("keyed-twice", key="welcome-42"))

    assert again.id == str(UUID(bytes=first.id))
    assert rows.found(database, "select count(*) from taskflow.jobs where queue = 'keyed-twice'") == [(1,)]


@pytest.mark.feature("S3.1", "A9", "X.4")
@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_the_sdk_repeats_a_call_by_itself_and_makes_each_job_once(
    cluster: ServiceCluster, tf: TaskFlow, database: str, moment: str
) -> None:
    queue = f"calm-{moment}"
    scheduler_with(cluster, f"scheduler.{moment}=kill@1")

    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(tf.new_jobs, [(queue, n) for n in range(500)])
        scheduler_again(cluster)
        ids = {handle.id for handle in making.result(30)}

    assert len(ids) == 500
    there = rows.found(database, "select id::text from taskflow.jobs where queue = %s", queue)
    assert {row[0] for row in there} == ids and len(there) == 500


@pytest.mark.feature("S3.1", "A9", "X.4")
@pytest.mark.parametrize("moment", ["before_commit", "after_commit"])
def test_the_sdk_repeats_by_a_call_what_its_stream_took_along(
    cluster: ServiceCluster, database: str, moment: str
) -> None:
    queue = f"stream-{moment}"
    scheduler_with(cluster, f"scheduler.{moment}=kill@4")

    with TaskFlow(cluster.scheduler_address, timeout=30) as tf, ThreadPoolExecutor(1) as pool:
        made = [tf.new_job(queue, n) for n in range(3)]  # the first by a call, the others on a stream
        making = pool.submit(tf.new_job, queue, 3)
        scheduler_again(cluster)
        made += [making.result(30), tf.new_job(queue, 4)]

    there = rows.found(database, "select id::text from taskflow.jobs where queue = %s order by payload", queue)
    assert there == [(job.id,) for job in made]


@pytest.mark.feature("M.4")
def test_nothing_half_written_is_left_by_any_of_it(database: str) -> None:
    """After all of the above: no lease or deferred row of a finished job, no job without its lane; and counts that may
    miss the last moments of a killed coordinator have nothing twice."""
    with psycopg.connect(database) as conn:
        stray = conn.execute(
            "select count(*) from taskflow.job_states s where s.state in ('running', 'requested', 'retrying')"
        ).fetchone()
        homeless = conn.execute(
            "select count(*) from taskflow.jobs j where not exists"
            " (select from taskflow.lanes l where (l.queue, l.task, l.priority) = (j.queue, j.task, j.priority))"
        ).fetchone()
        doubled = conn.execute(
            "select queue, outcome, sum(n) from taskflow.counts c group by queue, outcome having sum(n) >"
            " (select count(*) from taskflow.attempt_history a where a.queue = c.queue and a.final and a.outcome ="
            " taskflow.outcome_name(c.outcome))"
        ).fetchall()
    assert (stray, homeless, doubled) == ((0,), (0,), [])
