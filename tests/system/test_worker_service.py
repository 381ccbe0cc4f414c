"""`python -m taskflow_server.worker`: the SDK's worker as a service process."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from taskflow import JobState, TaskFlow
from taskflow_server.cluster.health import is_serving
from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.service import environment
from taskflow_server.runtime.settings import load
from taskflow_server.worker.settings import WorkerSettings
from tests.support.cluster import Program, ServiceCluster
from tests.support.folders import NAMES, write_app
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


@pytest.mark.parametrize("packages", [True, False], ids=["packages", "plain folders"])
def test_an_app_may_have_folders_of_the_names_of_ours(
    cluster: ServiceCluster, tmp_path: Path, packages: bool
) -> None:
    write_app(tmp_path, packages=packages)
    env = environment() | {
        "TASKFLOW_SCHEDULER_ADDRESS": cluster.scheduler_address, "TASKFLOW_PORT": str(free_ports(1)[0]),
        "TASKFLOW_METRICS_PORT": "0", "TASKFLOW_BUILTINS": "",
    }  # fmt: skip
    command = [str(Path(sys.executable).with_name("taskflow-server")), "worker", "shop:app"]
    worker = Program(command, tmp_path / "worker.log", env, cwd=tmp_path, forked=False)
    try:
        with TaskFlow(cluster.scheduler_address) as tf:
            assert tf.new_job("folders", task="mine").wait(30).result == list(NAMES), worker.output
    finally:
        worker.kill()


def test_with_nothing_to_run_it_says_so_once_and_stays_healthy(make_cluster: Callable[..., ServiceCluster]) -> None:
    cluster = make_cluster(services=("worker",), env={"worker": {"TASKFLOW_BUILTINS": ""}})

    cluster.start_all()

    assert is_serving(cluster.address("worker"), timeout=5)
    assert cluster.log("worker").count("nothing to run") == 1
    assert cluster.stop("worker") == 0


def test_without_an_app_it_runs_http_call_and_stays_healthy_while_the_cluster_is_away(
    make_cluster: Callable[..., ServiceCluster],
) -> None:
    cluster = make_cluster(services=("worker",))

    cluster.start_all()

    assert is_serving(cluster.address("worker"), timeout=5)
    eventually(lambda: "runs task http.call" in cluster.log("worker"))
    assert cluster.stop("worker") == 0


def test_where_its_default_ports_are_in_use_it_takes_others(make_cluster: Callable[..., ServiceCluster]) -> None:
    """As beside `taskflow up`; ports that the operator names are not changed."""
    cluster = make_cluster()
    defaults = (WorkerSettings.model_fields["port"].default, WorkerSettings.model_fields["metrics_port"].default)
    with ExitStack() as stack:
        for port in defaults:
            other = stack.enter_context(socket.socket())
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):  # somebody has it already
                other.bind(("127.0.0.1", port))
                other.listen()
        worker = cluster.run("second", "-m", "taskflow_server.cli", "worker", env={"TASKFLOW_LOG_FORMAT": "json"})
        eventually(lambda: '"ready"' in worker.output, timeout=20)
        lines = [json.loads(line) for line in worker.output.splitlines() if "its default port is in use" in line]
        taken = {line["port"]: line["takes"] for line in lines}

        assert set(taken) == set(defaults)
        assert is_serving(f"127.0.0.1:{taken[defaults[0]]}", timeout=5)
        fixed = cluster.run("third", "-m", "taskflow_server.cli", "worker", env={"TASKFLOW_PORT": str(defaults[0])})
        assert fixed.wait(20) == 2
        assert "TASKFLOW_PORT: cannot listen" in fixed.output
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("TASKFLOW_BUILTINS", "http,ftp", "no built-in handler 'ftp'"),
        ("TASKFLOW_HTTP_ALLOW", "10.0.0.1/8", "'10.0.0.1/8' has host bits set"),
        ("TASKFLOW_HTTP_ALLOW", "127.1", "'127.1' is not a valid address, network or host name"),
        ("TASKFLOW_HTTP_APP_URL", "example.org", "'example.org' must begin with http://"),
        ("TASKFLOW_HTTP_TIMEOUT", "0", "greater than 0"),
        ("TASKFLOW_HTTP_SECRET_HOSTS", "STRIPE", "'STRIPE' is not NAME=host"),
        ("TASKFLOW_SECRETS_DIR", "/nowhere", "no folder '/nowhere'"),
        ("TASKFLOW_SHELL_ALLOW", "echo, nonsense-4711", "no program 'nonsense-4711' on PATH"),
        ("TASKFLOW_SHELL_ALLOW", "./echo", "no program './echo'"),
        ("TASKFLOW_SHELL_SCRIPTS", "maybe", "'off' or 'on'"),
        ("TASKFLOW_SHELL_FOLDERS", "tmp", "'tmp' is not the absolute path of a folder"),
    ],
)
def test_a_wrong_setting_of_the_built_in_handlers_stops_the_start(
    variable: str, value: str, why: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SystemExit) as end:
        load(WorkerSettings)

    said = capfd.readouterr().err
    assert (end.value.code, said.count("\n")) == (2, 1), said
    assert said.startswith(f"{variable}: ")
    assert why in said


def test_its_metrics_are_served(make_cluster: Callable[..., ServiceCluster]) -> None:
    import urllib.request

    cluster = make_cluster(services=("worker",), metrics=True)
    cluster.start_all()

    with urllib.request.urlopen(f"http://127.0.0.1:{cluster.metrics_port('worker')}/metrics", timeout=10) as answer:
        assert b"process_cpu_seconds_total" in answer.read()
