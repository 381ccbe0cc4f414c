"""The `taskflow` command as a process that talks to a cluster."""

import os
import re
import subprocess
import sys
from collections.abc import Callable

from tests.support import forkserver
from tests.support.cluster import ROOT, ServiceCluster

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
Answer = subprocess.CompletedProcess[str]
Cli = Callable[..., Answer]


def environment(cluster: ServiceCluster) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TASKFLOW_")}
    return {**environ, "TASKFLOW_ADDRESS": cluster.scheduler_address}


def command_of(cluster: ServiceCluster) -> Cli:
    """Runs `taskflow` with these words to its end."""

    def call(*words: str, stdin: str | None = None) -> Answer:
        command = [sys.executable, "-m", "taskflow._cli", *words]
        return forkserver.run(command, env=environment(cluster), cwd=ROOT, input=stdin)

    return call


def failed_in_one_line(answer: Answer, code: int, *words: str) -> None:
    assert answer.returncode == code, answer.stderr
    assert answer.stderr.startswith("taskflow: ")
    assert answer.stderr.count("\n") == 1
    for word in words:
        assert word in answer.stderr
