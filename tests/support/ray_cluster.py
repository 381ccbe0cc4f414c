"""A real Ray cluster of one node on loopback, where the program `ray` is on this machine; it takes 2 GB of memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, ClassVar

from taskflow_server.cluster.ports import free_ports
from tests.support.cluster import Program
from tests.support.marathon import GATED
from tests.support.waiting import eventually

RAY = shutil.which("ray")
CPUS = 8


class RayCluster:
    """Started when made."""

    kind = "ray"
    secret = "no-secret-is-given-to-ray"
    last_line = "at the gate"
    variables: ClassVar[dict[str, str]] = {}

    def __init__(self, directory: Path) -> None:
        assert RAY is not None
        self._folder = tempfile.mkdtemp(prefix="ray-")  # a short path: it holds sockets
        self._gate = directory / "ray-gate"
        port, dashboard, agent, clients = free_ports(4)  # two clusters of one machine must not share any
        self.url = f"http://127.0.0.1:{dashboard}"
        ports = {
            "": port,
            "dashboard-": dashboard,
            "dashboard-agent-listen-": agent,
            "ray-client-server-": clients,
            "min-worker-": 0,
            "max-worker-": 0,
        }  # fmt: skip  (0: any that is free)
        command = [
            RAY, "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--num-cpus", str(CPUS),
            "--object-store-memory", "80000000", "--temp-dir", self._folder, "--disable-usage-stats",
            *(f"--{name}port={number}" for name, number in ports.items()),
        ]  # fmt: skip
        self.program = Program(command, directory / "ray.log", os.environ, forked=False)
        eventually(self._answers, 120)

    def _answers(self) -> bool:
        assert self.program.alive, self.program.output
        try:
            self.ask("GET", "/api/jobs/")
        except OSError:
            return False
        return True

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    def queue(self, name: str) -> str:
        """Kept apart by the owner's name alone; Ray has no queues."""
        return name

    def destination(self, home: str, **more: Any) -> dict[str, Any]:
        """Submissions of a pusher. Ended ones stay, so that they can be counted."""
        tasks = {
            name: {"command": GATED, "environment": {"HOME_OF_TEST": home}, "cpus": 1, **options}
            for name, options in more.pop("tasks", {}).items()
        }
        return {"kind": "ray", "url": self.url, "keep": True, "tasks": tasks, **more}

    def jobs(self, home: str) -> list[dict[str, Any]]:
        """All that were ever submitted, oldest first."""
        names = {"PENDING": "QUEUED", "STOPPED": "FAILED"}
        found = [
            {"jobId": job["submission_id"], "jobName": job["submission_id"], "createdAt": job["start_time"],
             "status": names.get(job["status"], job["status"])}
            for job in self.ask("GET", "/api/jobs/")
            if (job["runtime_env"] or {}).get("env_vars", {}).get("HOME_OF_TEST") == home
        ]  # fmt: skip
        return sorted(found, key=lambda job: int(job["createdAt"]))

    def statuses(self, home: str) -> list[str]:
        return [job["status"] for job in self.jobs(home)]

    def left(self, home: str) -> list[str]:
        """Jobs that have not ended."""
        return [job["jobId"] for job in self.jobs(home) if job["status"] not in ("SUCCEEDED", "FAILED")]

    def hold(self, held: bool) -> None:
        """Whether what is submitted from now on stays queued: another job takes all CPUs meanwhile."""
        if not held:
            self._gate.write_text("0")
            return
        self._gate.unlink(missing_ok=True)
        wait = f"until [ -s {self._gate} ]; do sleep 0.1; done"
        id = self.ask("POST", "/api/jobs/", {"entrypoint": wait, "entrypoint_num_cpus": CPUS})["submission_id"]
        eventually(lambda: self.ask("GET", f"/api/jobs/{id}")["status"] == "RUNNING", 60)

    def signal(self, number: signal.Signals) -> None:
        self.program.signal(number)

    def close(self) -> None:
        self.program.stop(grace=30)
        shutil.rmtree(self._folder, ignore_errors=True)
