"""A pusher beside a cluster and a stand-in for a destination, for the tests that start and kill it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from taskflow import JobInfo, JobState, TaskFlow
from taskflow_server.cluster.ports import free_ports
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually

SETTLE = 2.0  # seconds
PATIENCE = 60.0  # seconds: the stand-in for Batch takes its time for each of a job's states

_numbers = itertools.count(1)


class Pushing:
    """A cluster with a destination beside it, and pushers that a test starts and kills.

    `place`: a stand-in, such as BatchServer or KubeServer.
    """

    def __init__(self, cluster: ServiceCluster, place: Any, folder: Path) -> None:
        self.cluster = cluster
        self.place: Any = place
        self.folder = folder
        self.queue = self.new_queue()
        self.tf = TaskFlow(cluster.scheduler_address)
        self.started: list[Program] = []

    def new_queue(self) -> str:
        """Where jobs of this test's destination are kept apart: a queue, a namespace; its name."""
        name: str = self.place.queue(f"q{next(_numbers)}")
        return name

    def destination(self, queue: str = "", **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.place.destination(queue or self.queue, **more)
        return found

    def start(self, destinations: dict[str, Any], owner: str, failpoints: str = "", **env: str) -> Program:
        name = f"pusher-{next(_numbers)}"
        settings = {
            "TASKFLOW_PORT": str(free_ports(1)[0]),
            "TASKFLOW_METRICS_PORT": "0",
            "TASKFLOW_BUILTINS": "",
            "TASKFLOW_PUSH_DESTINATIONS": json.dumps(destinations),
            "TASKFLOW_PUSH_OWNER": owner,
            "TASKFLOW_PUSH_POLL_INTERVAL": "0.2",
            "TASKFLOW_PUSH_SWEEP_INTERVAL": "0.5",
            "TASKFLOW_PUSH_SETTLE": str(SETTLE),
            "TASKFLOW_PUSH_LONGEST_PAUSE": "1",
            "TASKFLOW_FAILPOINTS": failpoints,
            **self.place.variables,
        }
        program = self.cluster.run(name, "-m", "taskflow_server.cli", "worker", env=settings | env)
        self.started.append(program)
        return program

    def gate(self) -> Path:
        """Where a job waits for its exit code."""
        return self.folder / f"gate-{next(_numbers)}"

    def new(self, task: str, gate: Path, **options: Any) -> str:
        return self.tf.new_job("external", {"gate": str(gate)}, task=task, **options).id

    def get(self, id: str) -> JobInfo:
        return self.tf.jobs.get(id)

    def logs(self, id: str) -> str:
        return "\n".join(line.message for line in self.tf.jobs.logs(id))

    def jobs(self) -> list[dict[str, Any]]:
        """All external jobs that there ever were."""
        found: list[dict[str, Any]] = self.place.jobs(self.queue)
        return found

    def statuses(self) -> list[str]:
        return [job["status"] for job in self.jobs()]

    def runs_there(self, gate: Path) -> int:
        """The process of the container that waits at the gate, once it runs."""
        pid = gate.with_suffix(".pid")
        return int(eventually(lambda: pid.exists() and pid.read_text().strip(), PATIENCE))

    def ends(self, id: str, state: JobState) -> JobInfo:
        def job() -> JobInfo | None:
            found = self.get(id)
            return found if found.state.final else None

        found = eventually(job, PATIENCE)
        assert found is not None
        assert found.state is state, found
        return found

    def close(self) -> None:
        """Pushers are killed: their external jobs stay."""
        self.place.hold(False)
        for program in self.started:
            program.kill()
        self.tf.close()
