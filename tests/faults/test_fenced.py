"""A17: a transaction that a handler has fenced is committed only while its attempt is the present one of its job."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import psycopg
import pytest

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1 import worker_pb2
from tests.support import rows
from tests.support.api import TIMEOUT, Api
from tests.support.cluster import ServiceCluster
from tests.support.rawexecutor import RawExecutor
from tests.support.rawworker import Handed, RawWorker
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("A17", "M.8")

WAIT = 3.0
ENV = {
    "coordinator": {
        "TASKFLOW_LEASE": "1.5",
        "TASKFLOW_HEARTBEAT_INTERVAL": "0.3",
        "TASKFLOW_FENCED_WAIT": str(WAIT),
    }
}
Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env=ENV)
    running.start_all()
    return running


@pytest.fixture(scope="module")
def api(cluster: ServiceCluster) -> Iterator[Api]:
    with Api(cluster.scheduler_address) as stubs:
        yield stubs


@pytest.fixture
def conn(cluster: ServiceCluster) -> Iterator[Connection]:
    with psycopg.connect(cluster.dsn) as opened:
        yield opened


def start(worker: RawWorker, handed: Handed) -> None:
    """Its start is on disk when this returns."""
    request = worker_pb2.StartRequest(worker_id=worker.worker_id, exec_id=handed.task.exec_id, fenced=True)
    worker.coordinator.Start(request, timeout=TIMEOUT)


def assert_current(conn: Connection, handed: Handed, *, exec_id: bytes | None = None) -> None:
    ids = (rows.shown(handed.task.job_id), rows.shown(exec_id or handed.task.exec_id))
    conn.execute("select taskflow.assert_current(%s, %s)", ids)


@contextmanager
def stale() -> Iterator[None]:
    with pytest.raises(psycopg.DatabaseError) as caught:
        yield
    assert caught.value.sqlstate == "TF003"


def outcomes(cluster: ServiceCluster, handed: Handed) -> list[tuple[int, str]]:
    """The attempts of its job that have ended."""
    statement = "select attempt, taskflow.outcome_name(outcome) from taskflow.attempts where job_id = %s order by 1"
    return rows.found(cluster.dsn, statement, rows.shown(handed.task.job_id))


def test_an_attempt_is_current_from_the_answer_to_its_start_until_its_outcome(
    api: Api, cluster: ServiceCluster, conn: Connection
) -> None:
    with RawWorker(api, queues=["span"]) as worker:
        api.new("span")
        handed = worker.take()
        with stale():
            assert_current(conn, handed)  # nothing of it is on disk yet
        conn.rollback()
        start(worker, handed)
        start(worker, handed)
        assert_current(conn, handed)
        conn.commit()
        assert worker.report(handed.outcome()) == {}
        with stale():
            assert_current(conn, handed)
    assert outcomes(cluster, handed) == [(1, "succeeded")]
    assert rows.found(cluster.dsn, "select from taskflow.leases where queue = 'span'") == []


def test_nobody_else_s_exec_id_is_current(api: Api, conn: Connection) -> None:
    with RawWorker(api, queues=["others"]) as worker:
        api.new("others")
        api.new("others")
        one, other = worker.take(), worker.take()
        start(worker, one)
        start(worker, other)
        with stale():
            assert_current(conn, one, exec_id=other.task.exec_id)
        conn.rollback()
        with stale():
            conn.execute("select taskflow.assert_current(null, null)")
        worker.report(one.outcome(), other.outcome())


def test_only_the_worker_that_has_an_attempt_can_put_its_start_on_disk(api: Api) -> None:
    with RawWorker(api, queues=["whose"]) as worker, RawWorker(api, queues=["whose-else"]) as other:
        api.new("whose")
        handed = worker.take()
        for unknown in (other, worker):
            if unknown is worker:
                worker.report(handed.outcome())
            with pytest.raises(grpc.RpcError) as refused:
                start(unknown, handed)
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_an_open_transaction_holds_the_end_of_its_attempt_until_its_commit_and_lets_no_other_in(
    api: Api, cluster: ServiceCluster, conn: Connection
) -> None:
    with RawWorker(api, queues=["open", "beside"]) as worker:
        api.new("open", retries=1)
        handed = worker.take()
        start(worker, handed)
        assert_current(conn, handed)
        held = worker.report(handed.outcome(pb.OUTCOME_TIMED_OUT))
        assert held == {handed.task.exec_id: "COMMIT_PENDING"}
        with psycopg.connect(cluster.dsn) as later:
            eventually(lambda: not _passes(later, handed))
        api.new("beside")
        assert worker.report(worker.take().outcome()) == {}, "others do not wait"
        assert outcomes(cluster, handed) == []
        conn.commit()
        eventually(lambda: outcomes(cluster, handed) == [(1, "timed_out")])
        assert worker.report(handed.outcome(pb.OUTCOME_TIMED_OUT)) == {}


def _passes(conn: Connection, handed: Handed) -> bool:
    try:
        assert_current(conn, handed)
    except psycopg.DatabaseError:
        return False
    finally:
        conn.rollback()
    return True


def test_the_session_of_a_handler_that_hangs_is_terminated_and_its_job_goes_on(
    api: Api, cluster: ServiceCluster, conn: Connection
) -> None:
    with RawWorker(api, queues=["hangs"]) as worker:
        api.new("hangs", retries=1)
        first = worker.take()
        start(worker, first)
        assert_current(conn, first)
        worker.vanish()
        with RawWorker(api, queues=["hangs"]) as other:
            [second] = eventually(lambda: other.poll(seconds=1), 30)
            assert (second.task.job_id, second.task.attempt) == (first.task.job_id, 2)
            with pytest.raises(psycopg.OperationalError):
                conn.commit()
            with psycopg.connect(cluster.dsn) as after, stale():
                assert_current(after, first)
            start(other, second)
            with psycopg.connect(cluster.dsn) as after:
                assert_current(after, second)
            other.report(second.outcome())
    assert outcomes(cluster, first) == [(1, "lost"), (2, "succeeded")]
    assert "session terminated" in cluster.log("coordinator")


def test_one_snapshot_for_a_whole_transaction_is_no_way_past_the_fence(
    api: Api, cluster: ServiceCluster, conn: Connection
) -> None:
    with RawWorker(api, queues=["snapshot"]) as worker:
        api.new("snapshot")
        handed = worker.take()
        start(worker, handed)
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        conn.execute("select from taskflow.leases")  # the snapshot has the attempt
        worker.report(handed.outcome())
        with pytest.raises(psycopg.errors.SerializationFailure):
            assert_current(conn, handed)


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_an_attempt_that_goes_on_under_the_next_owner_stays_current(
    api: Api, cluster: ServiceCluster, way: str
) -> None:
    queue = f"owners-{way}"
    with RawWorker(api, queues=[queue]) as worker:
        api.new(queue, retries=1)
        handed = worker.take()
        start(worker, handed)
        with psycopg.connect(cluster.dsn) as conn:
            assert_current(conn, handed)
            if way == "kill":
                cluster.kill("coordinator")
                cluster.start("coordinator")
                cluster.wait_healthy("coordinator")
            else:
                cluster.restart("coordinator")
        have = [handed.held(started=True)]
    with RawWorker(api, queues=[queue], worker_id=worker.worker_id, have=have) as back:
        eventually(lambda: back.acknowledged >= 2)
        start(back, handed)
        with psycopg.connect(cluster.dsn) as conn:
            assert_current(conn, handed)
            assert back.report(handed.outcome()) == {handed.task.exec_id: "COMMIT_PENDING"}
        eventually(lambda: back.report(handed.outcome()) == {})
    assert outcomes(cluster, handed) == [(1, "succeeded")]


def test_an_attempt_that_was_fenced_ends_by_a_row_even_if_its_worker_says_that_it_never_started(
    api: Api, cluster: ServiceCluster, conn: Connection
) -> None:
    with RawWorker(api, queues=["returned"]) as worker:
        api.new("returned")
        handed = worker.take()
        start(worker, handed)
        worker.report(handed.outcome(pb.OUTCOME_RETURNED, started=False))
        worker.have.clear()
        second = worker.take()
        with stale():
            assert_current(conn, handed)
        assert (second.task.attempt, second.task.tries) == (2, 0)
        worker.report(second.outcome())
    assert outcomes(cluster, handed) == [(1, "returned"), (2, "succeeded")]


def test_an_executor_s_attempt_is_current_from_the_answer_to_its_start(
    api: Api, cluster: ServiceCluster, conn: Connection
) -> None:
    job = api.new("executed", task="executed")
    with RawExecutor(api, ["executed"]) as executor:
        task = executor.take()
        ids = (job.id, rows.shown(task.exec_id))
        with stale():
            conn.execute("select taskflow.assert_current(%s, %s)", ids)
        conn.rollback()
        executor.start(task)
        conn.execute("select taskflow.assert_current(%s, %s)", ids)
        assert executor.report(task, pb.OUTCOME_SUCCEEDED) == "COMMIT_PENDING"
        conn.commit()
        eventually(lambda: executor.report(task, pb.OUTCOME_SUCCEEDED) == "")
    with stale():
        conn.execute("select taskflow.assert_current(%s, %s)", ids)


def test_many_transactions_of_one_attempt_hold_its_end_together(api: Api, cluster: ServiceCluster) -> None:
    with RawWorker(api, queues=["many"]) as worker:
        api.new("many")
        handed = worker.take()
        start(worker, handed)
        conns = [psycopg.connect(cluster.dsn) for _ in range(3)]
        for each in conns:
            assert_current(each, handed)
        assert worker.report(handed.outcome()) == {handed.task.exec_id: "COMMIT_PENDING"}
        for each in conns:
            assert outcomes(cluster, handed) == []
            each.commit()
            each.close()
        eventually(lambda: outcomes(cluster, handed) == [(1, "succeeded")])


def test_a_role_of_an_application_may_assert_and_nothing_else(cluster: ServiceCluster, conn: Connection) -> None:
    conn.execute("set role taskflow_app")
    with stale():
        conn.execute("select taskflow.assert_current(gen_random_uuid(), gen_random_uuid())")
    conn.rollback()
    conn.execute("set role taskflow_app")
    tables = conn.execute("select tablename from pg_catalog.pg_tables where schemaname = 'taskflow'").fetchall()
    may = "select bool_or(has_table_privilege('taskflow.' || quote_ident(%s), 'select, insert, update, delete'))"
    assert {conn.execute(may, table).fetchone() for table in tables} == {(False,)}
    conn.rollback()
    may = "select has_function_privilege('public', 'taskflow.assert_current(uuid, uuid)', 'execute')"
    assert conn.execute(may).fetchone() == (False,)
