"""A client of `POST /rpc` as anybody would write one: JSON or YAML over http.client, nothing of ours."""

from __future__ import annotations

import http.client
import json
import socket
import zlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.support.tier import LONG

TIMEOUT = 40.0
JSON, YAML = "application/json", "text/yaml"


def formats(test: str) -> list[str]:
    """Both in the long tier; else one of them, by the test's name: each method has tests in either."""
    return [JSON, YAML] if LONG else [(JSON, YAML)[zlib.crc32(test.encode()) % 2]]


class Refused(Exception):
    """An answer that was no 200."""

    def __init__(self, status: int, error: dict[str, Any], headers: dict[str, str]) -> None:
        super().__init__(f"{status}: {error}")
        self.status = status
        self.error = error
        self.headers = headers

    @property
    def reason(self) -> str:
        return str(self.error["data"].get("reason", ""))


@dataclass
class Rpc:
    """`rpc("awf.task/poll", {...})` is the result. A connection for each call."""

    address: str
    kind: str = JSON
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(self, method: str, params: dict[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
        call = {"method": method, "params": {**(params or {}), **more}}
        body = json.dumps(call) if self.kind == JSON else yaml.safe_dump(call)
        status, headers, answer = self.send(body.encode(), {"content-type": self.kind} | self.headers)
        assert headers["content-type"].startswith(self.headers.get("accept", self.kind)), headers
        value = json.loads(answer) if "json" in headers["content-type"] else yaml.safe_load(answer)
        if status != 200:
            assert list(value) == ["error"] and set(value["error"]) == {"code", "type", "message", "data"}, value
            raise Refused(status, value["error"], headers)
        assert list(value) == ["result"], value
        result: dict[str, Any] = value["result"]
        return result

    def send(self, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        """Any body; status, headers by lower-case names, answer."""
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        try:
            connection.request("POST", "/rpc", body, headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """A resource, or a search: status, and the JSON of the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=TIMEOUT)
        try:
            connection.request("GET", f"{path}?{urlencode(query)}" if query else path)
            answer = connection.getresponse()
            found: dict[str, Any] = json.loads(answer.read())
            return answer.status, found
        finally:
            connection.close()

    def begin(self, method: str, **params: Any) -> socket.socket:
        """A call whose answer nobody reads yet; closing the socket is leaving."""
        host, _, port = self.address.rpartition(":")
        connection = socket.create_connection((host, int(port)), TIMEOUT)
        body = json.dumps({"method": method, "params": params})
        head = ["POST /rpc HTTP/1.1", f"Host: {self.address}", f"Content-Type: {JSON}", f"Content-Length: {len(body)}"]
        connection.sendall("\r\n".join([*head, "", body]).encode())
        return connection

    # -- the way of a task ---------------------------------------------------------------------------------------------
    def take(self, *definitions: str, timeout: int = 20_000) -> dict[str, Any]:
        """One task."""
        (task,) = self("awf.task/long-poll", taskDefinitions=list(definitions), timeout=timeout)["resources"]
        found: dict[str, Any] = task
        return found

    def of(self, method: str, task: dict[str, Any], **params: Any) -> dict[str, Any]:
        """A method of a task's present attempt."""
        return self(f"awf.task/{method}", {"id": task["id"], "execId": task["execId"], **params})
