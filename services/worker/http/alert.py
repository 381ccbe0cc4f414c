"""The handler `taskflow.alert`: delivers a message of an alert, to a webhook or to Slack.

The message of a webhook is signed with a secret of the worker, which the job names. It goes where `http.call` may go,
and no redirect is followed: the URL of a receiver that moved must be changed, else a message could count as delivered.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
import time
from typing import Any, Literal
from urllib.parse import SplitResult

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import BaseModel, ConfigDict, Field

from taskflow import Job
from taskflow_server.worker.failures import give_up, read, try_again
from taskflow_server.worker.http.call import Attempt, port_of
from taskflow_server.worker.http.guard import Forbidden, check_url
from taskflow_server.worker.http.payload import HttpCall
from taskflow_server.worker.http.secrets import NAME, NoSecret, Secrets
from taskflow_server.worker.settings import WorkerSettings

ID, TIMESTAMP, SIGNATURE = "TaskFlow-Alert-Id", "TaskFlow-Timestamp", "TaskFlow-Signature"
MAX_TEXT = 3_000  # characters of a text for Slack
_MARKS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})  # as Slack wants them written
_SECRET = rf"({NAME})?"


class Destination(BaseModel):
    """Where a message goes; of secrets the names."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Literal["webhook", "slack"]
    url: str = ""
    url_secret: str = Field("", pattern=rf"^{_SECRET}$")
    secret: str = Field("", pattern=rf"^{_SECRET}$")


class Delivery(BaseModel):
    """The payload of a job of `taskflow.alert`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    to: Destination
    message: dict[str, Any]


class AlertSender:
    """Callable with a job. One per worker."""

    def __init__(self, settings: WorkerSettings, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._secrets = Secrets(settings.secrets_dir, settings.secret_hosts)
        self._resolver = resolver

    async def __call__(self, job: Job) -> dict[str, Any]:
        given = read(Delivery, job.payload)
        url, parts = self._target(given.to)
        if given.to.kind == "slack":
            call = _call(url, json.dumps({"text": text_of(given.message)}, ensure_ascii=False), {})
        else:
            body = json.dumps(given.message, ensure_ascii=False)
            call = _call(url, body, self._signed(given, body, parts))
        hidden = url if given.to.url_secret else ""
        attempt = Attempt(
            call, self._settings, self._secrets, self._resolver or aiohttp.ThreadedResolver(), follow=False,
            hidden=hidden,
        )  # fmt: skip
        timeout = self._settings.http_timeout
        try:
            async with asyncio.timeout(timeout):
                answer = await attempt.run()
        except TimeoutError:
            raise try_again("HttpTimeout", f"{attempt.shown}: no whole answer within {timeout:g} s") from None
        return {"status": answer["status"]}

    def _target(self, to: Destination) -> tuple[str, SplitResult]:
        """The URL, which may be a secret: then no error shows it."""
        if not to.url_secret:
            try:
                return to.url, check_url(to.url)
            except Forbidden as error:
                raise give_up("InvalidPayload", f"payload.to.url: {error}") from None
        try:
            url = self._secrets.url(to.url_secret)
        except NoSecret as error:
            raise give_up("NoSecret", f"payload.to.url_secret: {error}") from None
        return url, check_url(url)

    def _signed(self, given: Delivery, body: str, parts: SplitResult) -> dict[str, str]:
        try:
            secret = self._secrets.get(given.to.secret, parts.hostname or "", port_of(parts))
        except NoSecret as error:
            raise give_up("NoSecret", f"payload.to.secret: {error}") from None
        timestamp = str(int(time.time()))
        return {
            ID: str(given.message.get("id", "")),
            TIMESTAMP: timestamp,
            SIGNATURE: f"sha256={signature(secret, timestamp, body)}",
        }


def signature(secret: str, timestamp: str, body: str) -> str:
    """HMAC-SHA256 in hex of `<timestamp>.<body>`, all in UTF-8."""
    return hmac.new(secret.encode(), f"{timestamp}.{body}".encode(), hashlib.sha256).hexdigest()


def _call(url: str, body: str, headers: dict[str, str]) -> HttpCall:
    headers = {"Content-Type": "application/json", **headers}
    return HttpCall(method="POST", url=url, headers=headers, body=body, timeout=None)


def text_of(message: dict[str, Any]) -> str:
    """For people: how many facts of which kinds, the first of them, and the message's id."""
    counts = ", ".join(f"{n} × {event.replace('_', ' ')}" for event, n in message.get("counts", {}).items())
    lines = [f"TaskFlow alert {message.get('rule', '')}: {counts}"]
    first = message.get("first", [])
    lines += [_line(fact) for fact in first]
    more = message.get("count", 0) - len(first)
    if more > 0:
        lines.append(f"and {more:,} more")
    lines.append(f"message {message.get('id', '')}")
    return "\n".join(lines).translate(_MARKS)[:MAX_TEXT]


def _line(fact: dict[str, Any]) -> str:
    what = str(fact.get("event", "")).replace("_", " ")
    where = ", ".join(f"{name} {fact[name]}" for name in ("workflow", "queue", "task") if fact.get(name))
    who = fact.get("job_id") or fact.get("run_id") or ""
    said = re.sub(r"\s+", " ", str(fact.get("error") or fact.get("detail") or ""))[:300]
    return "• " + ": ".join(filter(None, [" ".join(filter(None, [what, who])), where, said]))
