"""A receiver of alerts: a real web server that keeps what came in, and answers as the test says."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from tests.support.web import WebServer


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def message(self) -> dict[str, Any]:
        """The body, which is JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """`url` is its address; paths are the test's to choose. Until `close`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._received: list[Received] = []
        self._statuses: dict[str, list[int]] = {}
        self._server = WebServer(_Everywhere(self._answer))
        self.url = self._server.url
        self.port = self._server.port

    def at(self, path: str) -> list[Received]:
        """The requests at a path so far."""
        with self._lock:
            return [one for one in self._received if one.path == path]

    def will_answer(self, path: str, *statuses: int) -> None:
        """To the next requests at a path; then 200."""
        with self._lock:
            self._statuses[path] = list(statuses)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        with self._lock:
            self._received.append(Received(request.path, dict(request.headers), body))
            statuses = self._statuses.get(request.path)
            status = statuses.pop(0) if statuses else 200
        return web.Response(status=status, text="as the test said", headers={"Location": "/elsewhere"})

    def close(self) -> None:
        """Ends the server."""
        self._server.close()


class _Everywhere(dict[str, Any]):
    """The same handler at each path."""

    def __init__(self, handler: Any) -> None:
        super().__init__()
        self._handler = handler

    def get(self, path: str, default: Any = None) -> Any:
        return self._handler
