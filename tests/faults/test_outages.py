"""Outages of Postgres without a broken connection: read-only, without rights, full. Services wait, say so, go on."""

from __future__ import annotations

import os
import re
import secrets
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grpc
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskflow import TaskFlow
from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.cluster.health import is_serving
from taskflow_server.store.migrate import migrate
from tests.support import postgres as pg
from tests.support import rows
from tests.support.api import Api, refusal
from tests.support.cluster import ServiceCluster
from tests.support.rawworker import RawWorker
from tests.support.refusing import refusing
from tests.support.waiting import eventually

SERVICES = ("coordinator", "scheduler")
SETTINGS = {
    "coordinator": {"TASKFLOW_REPORT_WAIT": "1", "TASKFLOW_OWNER_TIMEOUT": "30", "TASKFLOW_BEAT_INTERVAL": "0.3"},
    "scheduler": {"TASKFLOW_TOPOLOGY_INTERVAL": "0.3", "TASKFLOW_UNREADY_FOR": "1"},
}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def database(postgres: str) -> Iterator[str]:
    """Owned by a role that is no superuser, as in a deployment; its dsn."""
    name = f"outages_{os.getpid()}"
    password = secrets.token_hex(8)
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"create role {name} login password '{password}'")
        conn.execute(f"create database {name} owner {name}")
    parts = urlsplit(pg.with_database(postgres, name))
    dsn = urlunsplit(parts._replace(netloc=f"{name}:{password}@{parts.netloc.rpartition('@')[2]}"))
    pg.run(lambda: migrate(dsn))
    yield dsn
    pg.drop_database(postgres, name)
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"drop role {name}")


@pytest.fixture(scope="module")
def admin(postgres: str, database: str) -> str:
    """A superuser's dsn of the same database, whose own sessions may always write."""
    return pg.with_database(postgres, urlsplit(database).path[1:]) + "?options=-cdefault_transaction_read_only%3Doff"


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    running = make_cluster(env=SETTINGS, metrics=True)
    running.start_all()
    return running


@pytest.fixture
def api(cluster: ServiceCluster) -> Iterator[Api]:
    with Api(cluster.scheduler_address) as stubs:
        eventually(lambda: stubs.topology().coordinators)
        yield stubs


@contextmanager
def read_only(admin: str) -> Iterator[None]:
    """As after a demotion: new sessions cannot write, and there are no others."""
    name = urlsplit(admin).path[1:]
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(f"alter database {name} set default_transaction_read_only = on")
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
        try:
            yield
        finally:
            conn.execute(f"alter database {name} reset default_transaction_read_only")


@contextmanager
def without_rights(admin: str) -> Iterator[None]:
    """The services' role loses what it may do to the tables."""
    role = urlsplit(admin).path[1:]
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(f"revoke all on all tables in schema taskflow from {role}")
        try:
            yield
        finally:
            conn.execute(f"grant all on all tables in schema taskflow to {role}")


@contextmanager
def without_tables(admin: str) -> Iterator[None]:
    """Nothing can be found by its name."""
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute("alter schema taskflow rename to hidden")
        try:
            yield
        finally:
            conn.execute("alter schema hidden rename to taskflow")


def errors(cluster: ServiceCluster, service: str, name: str) -> float:
    """Errors of a class that a service has met."""
    url = f"http://127.0.0.1:{cluster.metrics_port(service)}/metrics"
    with _OPENER.open(url, timeout=5) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        samples = [s for f in families if f.name == "taskflow_database_errors" for s in f.samples]
    return sum(s.value for s in samples if s.name.endswith("_total") and s.labels == {"class": name})


def serving(cluster: ServiceCluster, *services: str) -> list[bool]:
    return [is_serving(cluster.address(service)) for service in services or SERVICES]


def refused(api: Api) -> str:
    """The error of a call that would make a job; empty while it makes one."""
    try:
        api.new("refused")
    except grpc.RpcError as error:
        said = refusal(error)
        assert said.code == grpc.StatusCode.UNAVAILABLE
        return said.message
    return ""


def made(api: Api, queue: str) -> pb.Job | None:
    """A job; none while a connection from before the last outage is found to be broken."""
    try:
        return api.new(queue)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return None


def reported(worker: RawWorker, *outcomes: Any) -> bool:
    """Whether a report was acknowledged: a worker sends it until it is."""
    try:
        return worker.report(*outcomes) == {}
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
        return False


@pytest.mark.feature("M.4", "A8", "B6")
@pytest.mark.parametrize(
    ("outage", "sqlstate"),
    [(read_only, "25006"), (without_rights, "42501"), (without_tables, "42P01|3F000")],
    ids=["read-only", "no rights", "no tables"],
)
def test_services_wait_for_a_postgres_that_refuses_everything_and_no_result_is_lost(
    cluster: ServiceCluster, api: Api, admin: str, outage: Callable[[str], Any], sqlstate: str
) -> None:
    queue, pids = f"refusing-{sqlstate[:5]}", [cluster.pid(service) for service in SERVICES]
    with RawWorker(api, queues=[queue]) as worker, ThreadPoolExecutor(1) as pool:
        job = eventually(lambda: made(api, queue))
        handed = worker.take()
        with outage(admin):
            report = pool.submit(reported, worker, handed.outcome(result=b'"kept"'))
            eventually(lambda: serving(cluster) == [False, False])
            classes = {state[:2] for state in sqlstate.split("|")}
            for service in SERVICES:
                eventually(lambda: sum(errors(cluster, service, name) for name in classes))  # noqa: B023
            assert re.search(sqlstate, eventually(lambda: refused(api)))
            assert not report.result(20)

        eventually(lambda: reported(worker, handed.outcome(result=b'"kept"')), 20)
        worker.have.clear()
        eventually(lambda: serving(cluster) == [True, True], 20)
    ended = api.wait(job.id)
    assert (ended.state, ended.result, ended.error.type) == (pb.JOB_STATE_SUCCEEDED, b'"kept"', "")
    assert [cluster.pid(service) for service in SERVICES] == pids
    assert all(map(cluster.alive, SERVICES))


@pytest.mark.feature("A8")
def test_an_outcome_that_meets_an_outage_of_any_class_is_recorded_whole_after_it(
    cluster: ServiceCluster, api: Api, database: str, admin: str
) -> None:
    with RawWorker(api, queues=["attempts-refused"]) as worker, ThreadPoolExecutor(1) as pool:
        for sqlstate in ("53100", "XX001", "40001", "57014", "P0001"):
            job = api.new("attempts-refused")
            handed = worker.take()
            with refusing(admin, "attempts", sqlstate) as refusals:
                report = pool.submit(reported, worker, handed.outcome(result=b"1"))
                eventually(lambda: refusals.times > 1)
                eventually(lambda: serving(cluster, "coordinator") == [False])
                assert errors(cluster, "coordinator", sqlstate[:2])
            report.result(20)
            eventually(lambda: reported(worker, handed.outcome(result=b"1")))  # noqa: B023
            worker.have.clear()
            assert (api.get(job.id).result, api.get(job.id).error.type) == (b"1", ""), sqlstate
            eventually(lambda: serving(cluster, "coordinator") == [True])


@pytest.mark.feature("S3.1")
def test_a_scheduler_that_cannot_store_jobs_is_not_ready_until_it_can_or_nobody_asks(
    cluster: ServiceCluster, api: Api, admin: str
) -> None:
    with refusing(admin, "jobs", "53100", when="new.queue = 'refused'"):
        assert "53100" in refused(api)
        eventually(lambda: serving(cluster, "scheduler") == [False])
        eventually(lambda: serving(cluster, "scheduler") == [True])  # as nobody came again

        assert "53100" in refused(api)
        eventually(lambda: serving(cluster, "scheduler") == [False])
    assert refused(api) == ""
    eventually(lambda: serving(cluster, "scheduler") == [True])


@pytest.mark.parametrize("service", ["scheduler", "coordinator"])
def test_a_service_that_postgres_refuses_at_its_start_ends_with_one_line(
    cluster: ServiceCluster, admin: str, service: str
) -> None:
    cluster.stop(service)
    before = len(cluster.log(service))
    with read_only(admin):
        cluster.start(service)
        cluster.wait_dead(service)
    said = cluster.log(service)[before:].strip()
    cluster.start(service)
    cluster.wait_healthy(service)

    assert re.fullmatch(r"TASKFLOW_DATABASE_URL: Postgres refuses \(25006: .+\); try again", said)


@pytest.mark.feature("S1.6")
def test_a_firing_that_postgres_refuses_does_not_end_the_scheduler_and_comes_later(
    cluster: ServiceCluster, database: str, admin: str
) -> None:
    """The fault of one schedule's own row is in test_schedules_beside_faulty_ones.py."""
    with TaskFlow(cluster.scheduler_address) as tf:
        with refusing(admin, "firings", "55000") as refusals:
            schedule = tf.schedules.create("refused", at=datetime.now(UTC) + timedelta(seconds=0.5))
            eventually(lambda: refusals.times > 1)
            eventually(lambda: serving(cluster, "scheduler") == [False])
            assert cluster.alive("scheduler")

        fired = "select state from taskflow.firings where schedule_id = %s"
        eventually(lambda: rows.found(database, fired, schedule.id) == [("fired",)])
    eventually(lambda: serving(cluster, "scheduler") == [True])
