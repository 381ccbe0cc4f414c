"""Calls to the HTTP API of a destination that has no client library of its own: one attempt each, with time limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from taskflow_server.worker.push.destination import Away

CONNECT_TIMEOUT, READ_TIMEOUT = 5.0, 10.0  # seconds of one HTTP call
CALLS = 4  # connections that are kept


class HttpApi:
    """`speaks` is how the system is called in messages. The value of Authorization is read at each call."""

    def __init__(self, url: str, speaks: str, authorization_file: str = "", ca_file: str = "") -> None:
        """ValueError when urllib3 or a file is not there."""
        try:
            import urllib3
        except ImportError:
            raise ValueError(f"{speaks} needs urllib3: pip install urllib3") from None
        self.url = url.rstrip("/")
        self._speaks = speaks
        self._authorization_file = authorization_file
        self.no_answer = (urllib3.exceptions.HTTPError, OSError)
        self._timeout = urllib3.Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT)
        try:
            self.pool = urllib3.PoolManager(
                maxsize=CALLS, retries=False, ca_certs=ca_file or None, headers={"User-Agent": "taskflow"}
            )
            self._authorization()
        except OSError as error:
            raise ValueError(f"{error.filename}: {error.strerror}") from None

    def _authorization(self) -> dict[str, str]:
        path = self._authorization_file
        return {"Authorization": Path(path).read_text().strip()} if path else {}

    def call(self, method: str, path: str, body: Any = None) -> Answer:
        """Away when there is no answer, or none of such a system."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            headers |= self._authorization()
            data = json.dumps(body).encode() if body is not None else None
            answer = self.pool.request(method, self.url + path, body=data, headers=headers, timeout=self._timeout)
        except self.no_answer as error:
            raise Away(f"{type(error).__name__}: {error}") from None
        after = answer.headers.get("Retry-After", "")
        text = answer.data.decode(errors="replace")
        try:
            said = json.loads(text or "{}")
        except ValueError:
            if answer.status < 400:
                raise Away(f"{self.url} does not answer as {self._speaks}") from None
            said = None
        return Answer(answer.status, said, text, float(after) if after.isdecimal() else 0.0)


class Answer:
    """`said`: its JSON, None where it is none; `after`: seconds for which it asks to be left alone."""

    def __init__(self, status: int, said: Any, text: str, after: float) -> None:
        self.status = status
        self.said = said
        self.text = text
        self.after = after
