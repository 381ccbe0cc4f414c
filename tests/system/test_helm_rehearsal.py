"""The Helm chart rehearsed without a cluster: each container as a process, with the chart's command and environment.

Host names become loopback, and ports free ones. As root on Linux the processes also have what the chart's security
contexts give them: a root file system that is read-only, user 10001 and no capabilities.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from taskflow import TaskFlow
from taskflow_server.cluster.ports import free_ports
from taskflow_server.cluster.service import environment
from tests.support import forkserver
from tests.support import postgres as pg
from tests.support.cluster import ROOT, Program
from tests.support.waiting import eventually

helm = pytest.importorskip("helm_python", reason="its wheel is for Linux on x86-64")

CHART = ROOT / "deploy" / "helm" / "taskflow"
UNSHARE = shutil.which("unshare")
CONFINED = ROOT / "tests" / "support" / "readonly.sh"
VALUES = {"worker": {"settings": {"TASKFLOW_BUILTINS": "shell", "TASKFLOW_SHELL_SCRIPTS": "on"}}}
SCRIPT = """
touch /tmp/mine && id -u && grep CapEff /proc/self/status
while read -r _ place _ options _; do if [ "$place" = / ]; then echo "${options%%,*}"; fi; done < /proc/self/mounts
"""


def can_confine() -> bool:
    """Whether this user may make mounts, and programs of other users can be run here."""
    if UNSHARE is None or os.geteuid() != 0:
        return False
    return subprocess.run([UNSHARE, "--mount", "true"], capture_output=True, timeout=30).returncode == 0


class Rehearsal:
    """The containers of one release, by their names."""

    def __init__(self, dsn: str, directory: Path, confined: bool) -> None:
        self._dsn, self._directory, self._confined = dsn, directory, confined
        with helm.Chart.load(CHART) as chart:
            texts = chart.render(VALUES, name="tf", namespace="city")
        found = [each for path, text in texts.items() if path.endswith(".yaml") for each in yaml.safe_load_all(text)]
        works = [each for each in found if each and each["kind"] in ("Job", "StatefulSet", "Deployment")]
        self.containers = {self._container(work)["name"]: (work["metadata"]["name"], work) for work in works}
        ports = [port["containerPort"] for work in works for port in self._container(work).get("ports", [])]
        self.ports = dict(zip(ports, free_ports(len(ports)), strict=True))
        self.programs: dict[str, Program] = {}

    def _container(self, work: dict[str, Any]) -> dict[str, Any]:
        return dict(work["spec"]["template"]["spec"]["containers"][0])

    def environment(self, name: str) -> dict[str, str]:
        pod, work = self.containers[name]
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TASKFLOW_")}
        env = environment(inherited) | {"POD_NAME": f"{pod}-0", "TMPDIR": "/tmp"}
        for variable in self._container(work)["env"]:
            value = variable.get("value", "")
            if "secretKeyRef" in variable.get("valueFrom", {}):
                value = self._dsn
            elif "valueFrom" in variable:
                continue
            env[variable["name"]] = self._here(re.sub(r"\$\((\w+)\)", lambda match: env[match[1]], value))
        kinds = ("TASKFLOW_PORT", "TASKFLOW_METRICS_PORT")
        given = [self.ports[port["containerPort"]] for port in self._container(work).get("ports", [])]
        return env | {kind: str(port) for kind, port in zip(kinds, given, strict=False)}

    def _here(self, value: str) -> str:
        value = re.sub(r"[\w.-]+\.city\.svc:(\d+)", lambda match: f"127.0.0.1:{self.ports[int(match[1])]}", value)
        return "127.0.0.1" if value == "0.0.0.0" else value

    def start(self, name: str) -> Program:
        """Start a container's process; does not wait."""
        args = self._container(self.containers[name][1])["args"]
        command = [sys.executable, "-m", "taskflow_server.cli", *args[1:]]
        if self._confined:
            root = self._directory / f"root-{name}"
            root.mkdir()
            folders = [str(ROOT), str(Path(sys.base_prefix))]
            command = [str(UNSHARE), "--mount", "/bin/sh", str(CONFINED), str(root), *folders, *command]
        log = self._directory / f"{name}.log"
        self.programs[name] = Program(command, log, self.environment(name), forked=not self._confined)
        return self.programs[name]

    def wait_serving(self, name: str, port: int) -> None:
        """Until its health says so, as the probe asks."""
        with grpc.insecure_channel(f"127.0.0.1:{self.ports[port]}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            eventually(lambda: self._serves(stub, name), 60)

    def _serves(self, stub: health_pb2_grpc.HealthStub, name: str) -> bool:
        assert self.programs[name].alive, self.programs[name].output
        try:
            return bool(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == 1)
        except grpc.RpcError:
            return False


@pytest.fixture(scope="module")
def release(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    name = f"helm_{os.getpid()}"
    with psycopg.connect(postgres, autocommit=True) as conn:
        conn.execute(f"create database {name}".encode())
    running = Rehearsal(pg.with_database(postgres, name), tmp_path_factory.mktemp("helm"), can_confine())
    try:
        migration = running.start("migrate")
        assert migration.wait(60) == 0, migration.output
        for part, port in (("queue", 9002), ("coordinator", 9001), ("scheduler", 9003), ("worker", 9004)):
            running.start(part)
            running.wait_serving(part, port)
        running.start("gateway")
        yield running
    finally:
        for program in reversed(running.programs.values()):
            program.stop(grace=5.0)
        pg.drop_database(postgres, name)


def test_a_release_s_processes_run_a_job(release: Rehearsal) -> None:
    with TaskFlow(f"127.0.0.1:{release.ports[9003]}") as tf:
        job = tf.new_job("shell", {"script": "echo here"}, task="shell.run").wait(timeout=60).result

    assert job["stdout_tail"] == "here\n"


def test_the_gateway_s_probe_is_answered(release: Rehearsal) -> None:
    address = f"http://127.0.0.1:{release.ports[8080]}/healthz"
    asked = [sys.executable, "-m", "taskflow_server.cli", "health", address]

    eventually(lambda: forkserver.run(asked).returncode == 0, 60)


def test_they_need_no_capability_and_write_nothing_but_tmp(release: Rehearsal) -> None:
    if not can_confine():
        pytest.skip("only root can make mounts here")
    with TaskFlow(f"127.0.0.1:{release.ports[9003]}") as tf:
        job = tf.new_job("shell", {"script": SCRIPT}, task="shell.run").wait(timeout=60).result

    assert job["stdout_tail"] == "10001\nCapEff:\t0000000000000000\nro\n"


def test_they_stop_within_the_grace_of_their_pods(release: Rehearsal) -> None:
    """The last test of the file: it ends what the others use."""
    for name in ("gateway", "worker", "scheduler", "coordinator", "queue"):
        grace = release.containers[name][1]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert release.programs[name].stop(grace) == 0, release.programs[name].output
