"""Marathon on loopback (tests/support/marathon_server.py), and what a pusher is told to use it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.standin import Server

SECRET = "token=s3cr3t-of-the-marathon"
# Waits for the file `gate`, and exits with what stands in it.
GATED = [
    "sh", "-c", 'echo at the gate; echo $$ > "$0.pid"; until [ -s "$0" ]; do sleep 0.05; done; exit $(cat "$0")',
    "Ref::gate",
]  # fmt: skip


class MarathonServer(Server):
    module = "tests.support.marathon_server"
    kind = "marathon"
    secret = SECRET
    last_line = "at the gate"

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__(directory, port, authorization=SECRET)
        self.authorization = self.directory / "authorization"
        self.authorization.write_text(f"{SECRET}\n")

    def destination(self, home: str, **more: Any) -> dict[str, Any]:
        """Settings of a pusher, for the group `home`."""
        tasks = {name: {"command": GATED, **options} for name, options in more.pop("tasks", {}).items()}
        return {
            "kind": "marathon", "url": self.url, "group": home, "authorization_file": str(self.authorization),
            "agent_port": self.port, "grace": 1, "tasks": tasks, **more,
        }  # fmt: skip

    def queue(self, name: str) -> str:
        """A group; its name."""
        return name

    def submit(self, app: dict[str, Any]) -> None:
        """An app that no pusher has made."""
        headers = {"Authorization": SECRET, "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/v2/apps", json.dumps(app).encode(), headers, method="POST")
        urllib.request.urlopen(request, timeout=5).close()

    def left(self, home: str) -> list[str]:
        """Apps and tasks that there are now."""
        return [id for ids in self.do("objects").values() for id in ids if id.startswith(f"/{home}/")]
