"""Kubernetes on loopback (tests/support/kube_server.py), and what a pusher is told to use it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.standin import Server

TOKEN = "t0ken-of-the-cluster"
# Waits for the file `gate`, and exits with what stands in it. Kubernetes makes one $ of two.
GATED = [
    "sh", "-c", 'echo at the gate; echo $$$$ > "$0.pid"; until [ -s "$0" ]; do sleep 0.05; done; exit $(cat "$0")',
    "Ref::gate",
]  # fmt: skip


class KubeServer(Server):
    module = "tests.support.kube_server"
    kind = "kubernetes"
    secret = TOKEN
    last_line = "at the gate"

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(directory, port, token=TOKEN)
        self.kubeconfig = self.directory / "kubeconfig"

    def destination(self, home: str, **more: Any) -> dict[str, Any]:
        """Settings of a pusher, for the namespace `home`."""
        tasks = {name: {"command": GATED, **options} for name, options in more.pop("tasks", {}).items()}
        return {
            "kind": "kubernetes", "namespace": home, "kubeconfig": str(self.kubeconfig), "image": "busybox",
            "grace": 1, "tasks": tasks, **more,
        }  # fmt: skip

    def queue(self, name: str) -> str:
        """A namespace; its name."""
        return name

    def submit(self, name: str, home: str, labels: dict[str, str], command: list[str]) -> None:
        """A Job that no pusher has made."""
        pod = {"restartPolicy": "Never", "containers": [{"name": "job", "image": "busybox", "command": command}]}
        metadata = {"name": name, "labels": labels}
        job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
               "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels}, "spec": pod}}}  # fmt: skip
        request = urllib.request.Request(
            f"{self.url}/apis/batch/v1/namespaces/{home}/jobs", json.dumps(job).encode(),
            {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}, method="POST",
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=5).close()

    def left(self, home: str) -> list[str]:
        """Jobs and pods that there are now."""
        return [key for keys in self.do("objects").values() for key in keys if key.startswith(f"{home}/")]
