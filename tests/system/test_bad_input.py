"""Errors at the edges: one clear line with the cure, the right exit status, nothing lost."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from taskflow import InvalidArgument, NewJob, NotFound, TaskFlow
from taskflow.v1 import jobs_pb2, jobs_pb2_grpc
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres
from taskflow_server.cluster.ports import free_ports
from taskflow_server.store.migrate import migrate
from tests.support import forkserver
from tests.support import postgres as pg
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually

ABSENT = "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"
SERVICES = ("scheduler", "coordinator", "queue", "worker", "gateway")
Answer = subprocess.CompletedProcess[str]


def run(*words: str, **variables: str) -> Answer:
    """A program of ours; TASKFLOW_* only as given."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    return forkserver.run([sys.executable, "-m", *words], env={**environ, **variables})


def taskflow(cluster: ServiceCluster, *words: str, **variables: str) -> Answer:
    return run("taskflow._cli", *words, TASKFLOW_ADDRESS=cluster.scheduler_address, **variables)


def is_one_line(answer: Answer, code: int, *words: str) -> None:
    assert answer.returncode == code, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1, answer.stderr
    for word in words:
        assert word in answer.stderr


@pytest.fixture
def occupied() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.parametrize(
    "words",
    [["job", "show", ABSENT], ["job", "wait", ABSENT], ["job", "cancel", ABSENT], ["job", "retry", ABSENT],
     ["job", "logs", ABSENT]],
    ids=lambda words: words[1],
)  # fmt: skip
def test_an_unknown_job_is_exit_code_1(cluster: ServiceCluster, words: list[str]) -> None:
    is_one_line(taskflow(cluster, *words), 1, ABSENT)


@pytest.mark.feature("R11")
def test_an_unknown_queue_is_not_found_and_an_empty_one_is(cluster: ServiceCluster) -> None:
    is_one_line(taskflow(cluster, "queue", "show", "never_heard_of"), 1, "never_heard_of")
    assert taskflow(cluster, "queue", "show", "default").returncode == 0


def test_malformed_json_is_exit_code_2_and_hands_nothing_in(cluster: ServiceCluster) -> None:
    is_one_line(taskflow(cluster, "job", "new", "malformed", '{"to": }'), 2, "line 1, column 8")
    is_one_line(taskflow(cluster, "queue", "show", "malformed"), 1)


@pytest.mark.feature("R14")
def test_a_payload_over_the_limit_is_refused_with_both_sizes(cluster: ServiceCluster, tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * ((1 << 20) + 1))

    answer = taskflow(cluster, "job", "new", "large", f"@{tmp_path}/large", "--text")

    is_one_line(answer, 2, "1,048,577", "1,048,576")


def test_what_the_sdk_would_refuse_is_refused_by_the_server_too(cluster: ServiceCluster) -> None:
    wrong = [
        (jobs_pb2.JobSpec(queue="q", retries=-1), "retries"),
        (jobs_pb2.JobSpec(queue="q", priority=10), "priority"),
        (jobs_pb2.JobSpec(queue="no name"), "queue"),
        (jobs_pb2.JobSpec(queue="q", task="a b"), "task"),
        (jobs_pb2.JobSpec(queue="q", payload=b"{", encoding=jobs_pb2.ENCODING_JSON), "payload"),
        (jobs_pb2.JobSpec(queue="q", payload=b"\xff", encoding=jobs_pb2.ENCODING_TEXT), "payload"),
        (jobs_pb2.JobSpec(queue="q", payload=bytes((1 << 20) + 1), encoding=jobs_pb2.ENCODING_BYTES), "payload"),
        (jobs_pb2.JobSpec(queue="q", id=b"short"), "id"),
    ]
    with grpc.insecure_channel(cluster.scheduler_address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = jobs_pb2_grpc.JobServiceStub(channel)
        for spec, field in wrong:
            with pytest.raises(grpc.RpcError) as refused:
                stub.CreateJob(jobs_pb2.CreateJobRequest(job=spec), timeout=10)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert field in str(refused.value.details())


def test_one_bad_job_of_many_is_named_by_its_place(cluster: ServiceCluster) -> None:
    with TaskFlow(cluster.scheduler_address) as tf:
        with pytest.raises(InvalidArgument, match=r"jobs\[2\]\.retries") as refused:
            tf.new_jobs([NewJob("batch"), NewJob("batch"), NewJob("batch", retries=-1)])
        assert refused.value.field == "jobs[2].retries"
        with pytest.raises(NotFound):
            tf.queues.get("batch")


def test_another_service_s_address_is_told_apart(cluster: ServiceCluster) -> None:
    answer = run("taskflow._cli", "job", "list", "--address", cluster.address("queue"))

    assert answer.returncode == 1
    assert answer.stderr.count("\n") == 1
    assert "not a TaskFlow scheduler" in answer.stderr


def test_an_address_where_nobody_listens_is_exit_code_3_within_seconds() -> None:
    (port,) = free_ports(1)
    began = time.monotonic()

    answer = run("taskflow._cli", "job", "new", "q", "1", "--address", f"localhost:{port}")

    is_one_line(answer, 3, f"localhost:{port}", "connection refused")
    assert time.monotonic() - began < 20


def test_an_address_that_never_answers_is_exit_code_4_or_3_within_seconds(occupied: int) -> None:
    began = time.monotonic()

    answer = run("taskflow._cli", "queue", "list", "--address", f"127.0.0.1:{occupied}")

    assert answer.returncode in (3, 4)
    assert answer.stderr.count("\n") == 1
    assert str(occupied) in answer.stderr
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("service", SERVICES)
def test_a_port_in_use_ends_a_service_with_status_2(service: str, occupied: int, database: str) -> None:
    common = {"TASKFLOW_DATABASE_URL": database, "TASKFLOW_METRICS_PORT": "0"}

    is_one_line(
        run("taskflow_server.cli", service, TASKFLOW_PORT=str(occupied), **common), 2, "TASKFLOW_PORT", str(occupied)
    )


@pytest.mark.parametrize("service", ["scheduler", "coordinator"])
def test_without_postgres_a_service_ends_with_status_2(service: str) -> None:
    port, absent = free_ports(2)
    url = f"postgresql://ada:secret@127.0.0.1:{absent}/shop"

    answer = run(
        "taskflow_server.cli", service, TASKFLOW_DATABASE_URL=url, TASKFLOW_PORT=str(port), TASKFLOW_METRICS_PORT="0",
        TASKFLOW_DATABASE_TIMEOUT="1",
    )  # fmt: skip

    is_one_line(answer, 2, "TASKFLOW_DATABASE_URL", f"127.0.0.1:{absent}", "shop")
    assert "secret" not in answer.stderr


@pytest.mark.parametrize(
    ("service", "variable", "value"),
    [
        ("scheduler", "TASKFLOW_PORT", "high"),
        ("coordinator", "TASKFLOW_DATABASE_TIMEOUT", "soon"),
        ("queue", "TASKFLOW_LOG_LEVEL", "loud"),
        ("worker", "TASKFLOW_METRICS_PORT", "70000"),
        ("gateway", "TASKFLOW_SCHEDULER_ADDRESS", "nowhere"),
        ("gateway", "TASKFLOW_LIVE_STREAMS", "-1"),
    ],
)
def test_a_wrong_setting_is_named_with_what_it_accepts(service: str, variable: str, value: str) -> None:
    answer = run(
        "taskflow_server.cli", service, TASKFLOW_DATABASE_URL="postgresql://127.0.0.1:1/x", **{variable: value}
    )

    is_one_line(answer, 2, variable, f"'{value}'")


@pytest.mark.parametrize("service", ["scheduler", "coordinator"])
def test_a_missing_database_url_is_named(service: str) -> None:
    is_one_line(run("taskflow_server.cli", service), 2, "TASKFLOW_DATABASE_URL: must be set")


@pytest.mark.parametrize(
    ("app", "words"),
    [("json", "module:attribute"), ("nowhere:app", "no module nowhere"), ("examples.shop:nope", "it has app")],
)
def test_a_wrong_app_ends_the_packaged_worker_with_status_2(app: str, words: str) -> None:
    is_one_line(run("taskflow_server.cli", "worker", TASKFLOW_APP=app), 2, "TASKFLOW_APP", words)


def test_an_up_beside_a_cluster_of_its_database_says_which_runs(cluster: ServiceCluster, tmp_path: Path) -> None:
    where = ["--free-ports", "--database-url", cluster.dsn, "--data-dir", str(tmp_path / "other")]

    answer = run("taskflow_server.cli", "up", *where)

    runs = [f"{name}-1 at {cluster.address(name)}" for name in ("coordinator", "queue", "scheduler")]
    is_one_line(answer, 1, f"a cluster runs on this database already: {', '.join(runs)};")
    assert taskflow(cluster, "queue", "list").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_service_with_status_0_and_no_trace(
    make_cluster: Callable[..., ServiceCluster], number: signal.Signals
) -> None:
    running = make_cluster(services=SERVICES)
    running.start_all()

    for service in SERVICES:
        running.kill(service, number)

        running.wait_dead(service)
        assert running.stop(service) == 0
        assert "Traceback" not in running.log(service)
        running.start(service)
        running.wait_healthy(service)
    running.close()


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A Postgres that the test may kill."""
    postgres = EmbeddedPostgres(tmp_path / "pg")
    yield postgres
    postgres.remove()


def test_while_postgres_is_away_calls_are_unavailable_and_afterwards_all_is_there(
    own_postgres: EmbeddedPostgres, make_cluster: Callable[..., ServiceCluster]
) -> None:
    dsn = own_postgres.start()
    pg.run(lambda: migrate(dsn))
    cluster = make_cluster(dsn=dsn)
    cluster.start_all()
    worker = cluster.run(
        "adder", "-m", "taskflow._cli", "worker", "tests.support.cli_app:app",
        env={"TASKFLOW_ADDRESS": cluster.scheduler_address},
    )  # fmt: skip
    sum_of = ["job", "new", "sums", "--task", "add"]
    before = taskflow(cluster, *sum_of, '{"a": 1, "b": 1}', "--delay", "2s").stdout.strip()

    own_postgres.kill()
    away = taskflow(cluster, *sum_of, '{"a": 1, "b": 2}')
    is_one_line(away, 3, "Postgres does not answer")
    own_postgres.start()

    eventually(lambda: taskflow(cluster, "job", "show", before).returncode == 0, 20)
    assert taskflow(cluster, "job", "wait", before, "--wait-timeout", "30s").stdout == "2\n"
    assert taskflow(cluster, *sum_of, '{"a": 1, "b": 3}', "--wait").stdout == "4\n"
    assert worker.stop() == 0
    cluster.close()


@pytest.mark.parametrize("delay", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("words", [["job", "wait", ABSENT], ["job", "list"], ["worker", "tests.support.cli_app:app"]])
def test_ctrl_c_at_any_moment_shows_no_trace(words: list[str], delay: float, tmp_path: Path) -> None:
    """Nobody answers at the address, so that every command is still trying, at whatever point."""
    (port,) = free_ports(1)
    env = {**os.environ, "TASKFLOW_ADDRESS": f"127.0.0.1:{port}"}
    program = Program([sys.executable, "-m", "taskflow._cli", *words], tmp_path / "log", env, forked=False)
    with pytest.raises(subprocess.TimeoutExpired):
        program.process.wait(delay)

    program.signal(signal.SIGINT)

    status = program.wait(10)
    if "Traceback" in program.output:  # Python was loading the first two of our files, and nothing can be done yet
        assert not re.search(r"sdk/taskflow/(?!(_cli/)?__init__\.py)", program.output)
    elif status == -signal.SIGINT:  # what a shell shows as 130, too: at the very start, or inside Python's own exec
        assert program.output in ("", "taskflow: interrupted\n")
    else:
        assert status in (0, 3, 130)
