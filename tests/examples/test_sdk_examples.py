"""Every program of sdk/examples runs as written against a real cluster, the two of README.md among them."""

import os
import sys
from pathlib import Path

import pytest

from tests.support import forkserver
from tests.support.cluster import ROOT, Program, ServiceCluster

EXAMPLES = ROOT / "sdk" / "examples"


def run(cluster: ServiceCluster, name: str) -> str:
    env = {**os.environ, "TASKFLOW_ADDRESS": cluster.scheduler_address}
    done = forkserver.run([sys.executable, EXAMPLES / name], env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def start(cluster: ServiceCluster, name: str, *words: str) -> Program:
    return cluster.run(name, str(EXAMPLES / name), *words, env={"TASKFLOW_ADDRESS": cluster.scheduler_address})


@pytest.mark.feature("S3.1", "S3.2", "X.11")
def test_a_job_is_made_run_and_its_result_seen(cluster: ServiceCluster) -> None:
    worker = start(cluster, "02_worker.py")

    assert "{'delivered': 'ada@example.org'}" in run(cluster, "01_new_job.py")

    assert worker.stop() == 0


@pytest.mark.feature("X.12")
def test_tasks(cluster: ServiceCluster) -> None:
    worker = start(cluster, "03_tasks.py", "worker")

    lines = run(cluster, "03_tasks.py").splitlines()

    assert lines[0] == "{'to': 'ada@example.org', 'subject': 'hello', 'attempt': 2}"
    assert lines[2:5] == ["100 rows", "200 rows", "300 rows"]
    assert lines[5] == "InvalidArgument: columns: report has no such parameter (it has: rows)"
    assert lines[6] == "['wrote 100 rows']"
    assert worker.stop() == 0


def test_async(cluster: ServiceCluster) -> None:
    assert run(cluster, "04_async.py") == "999000\n"


def test_processes(cluster: ServiceCluster) -> None:
    worker = start(cluster, "05_processes.py", "worker")

    lines = run(cluster, "05_processes.py").splitlines()

    assert lines == ["[285, 333332833333500000]", "TimedOut: still running 1 s after its start"]
    assert worker.stop() == 0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.name)
def test_examples_are_short_and_say_what_they_show(path: Path) -> None:
    text = path.read_text()

    assert text.startswith('"""')
    assert len(text.splitlines()) < 60
