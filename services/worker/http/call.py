"""The handler `http.call`: one request, redirects followed, its answer as the result.

Each attempt has connections of its own: none is found stale that another call left open, and what the guard has allowed
for one host serves no other.
"""

from __future__ import annotations

import asyncio
import json
import socket
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn
from urllib.parse import SplitResult, urljoin

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from taskflow import Job
from taskflow_server.worker.failures import give_up, read, try_again
from taskflow_server.worker.http import answer as answers
from taskflow_server.worker.http.guard import Forbidden, Guard, check_url
from taskflow_server.worker.http.payload import INSTEAD, Auth, HttpCall
from taskflow_server.worker.http.secrets import SHOWN, NoSecret, Secrets, basic, cleaned
from taskflow_server.worker.settings import WorkerSettings

_REDIRECTS = {301, 302, 303, 307, 308}
_AGAIN = {408, 429}
_OF_THE_FIRST_HOST = {"authorization", "cookie"}  # what a job's own headers may hold and another host must not see
_SHOWN = 500  # characters of a body in an error


class _Way(AbstractResolver):
    """The connections of one attempt, each checked when it is about to be made."""

    def __init__(self, guard: Guard, inner: AbstractResolver) -> None:
        self._guard = guard
        self._inner = inner
        self.begin()

    def begin(self) -> None:
        """Begins one request: no address that was resolved for the one before counts."""
        self._names: dict[str, str] = {}
        self.refused: Forbidden | None = None

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        self._names.update((each["host"], host) for each in found)
        return found

    async def close(self) -> None:
        """The inner one is shared."""

    def socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """For the connector, right before it connects."""
        family, kind, protocol, _, place = address
        where, port = str(place[0]), int(place[1])
        try:
            self._guard.check(self._names.get(where, where), where, port)
        except Forbidden as error:
            self.refused = error
            raise OSError(str(error)) from None
        return socket.socket(family, kind, protocol)


class HttpCaller:
    """Callable with a job. One per worker."""

    def __init__(self, settings: WorkerSettings, resolver: AbstractResolver | None = None) -> None:
        self._settings = settings
        self._secrets = Secrets(settings.secrets_dir, settings.secret_hosts)
        self._resolver = resolver

    async def __call__(self, job: Job) -> dict[str, Any]:
        call = read(HttpCall, job.payload, INSTEAD)
        timeout = call.timeout or self._settings.http_timeout
        attempt = Attempt(call, self._settings, self._secrets, self._resolver or aiohttp.ThreadedResolver())
        try:
            async with asyncio.timeout(timeout):
                return await attempt.run()
        except TimeoutError:
            raise try_again("HttpTimeout", f"{attempt.shown}: no whole answer within {timeout:g} s") from None


class Attempt:
    """`follow`: whether redirects are followed. `hidden`: the call's URL, if it is a secret itself."""

    def __init__(
        self,
        call: HttpCall,
        settings: WorkerSettings,
        secrets: Secrets,
        resolver: AbstractResolver,
        *,
        follow: bool = True,
        hidden: str = "",
    ) -> None:
        self._call = call
        self._settings = settings
        self._secrets = secrets
        self._follows = follow
        self._hidden = bool(hidden)
        self._used: list[str] = []  # secrets, in every form in which an answer may show them
        self._way = _Way(settings.guard, resolver)
        self._method: str = call.method
        self._url = call.full_url(settings.http_app_url)
        self._parts = self._checked(self._url)
        if hidden:
            self._used += [hidden, *filter(lambda part: len(part) > 1, (self._parts.path, self._parts.query))]
        self._headers, self._body = _content(call)
        if call.auth is not None:
            self._authorize(call.auth)

    @property
    def shown(self) -> str:
        """Where it goes, for people: without the query, which may hold what is not for all."""
        path = SHOWN if self._hidden else self._parts.path
        return f"{self._method} {self._parts.scheme}://{self._parts.netloc}{path}"[:300]

    def _checked(self, url: str) -> SplitResult:
        try:
            return check_url(url)
        except Forbidden as error:
            raise give_up("InvalidPayload", f"payload.url: {url[:80]!r}: {error}") from None

    def _authorize(self, auth: Auth) -> None:
        parts = self._parts
        try:
            secret = self._secrets.get(auth.secret, parts.hostname or "", port_of(parts))
        except NoSecret as error:
            raise give_up("NoSecret", f"payload.auth.secret: {error}") from None
        if auth.scheme == "header":
            self._headers[auth.header or ""] = secret
        elif auth.scheme == "bearer":
            self._headers["Authorization"] = f"Bearer {secret}"
        else:
            user, password = (auth.username, secret) if auth.username is not None else secret.partition(":")[::2]
            self._used.append(basic(user, password))
            self._used.append(password)
            self._headers["Authorization"] = f"Basic {basic(user, password)}"
        self._used.append(secret)
        self._used = [form for used in self._used if used for form in (used, json.dumps(used)[1:-1])]

    async def run(self) -> dict[str, Any]:
        connector = aiohttp.TCPConnector(
            resolver=self._way, socket_factory=self._way.socket, force_close=True, use_dns_cache=False
        )
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            try:
                for _ in range(self._settings.http_max_redirects + 1):
                    if (result := await self._hop(session)) is not None:
                        return result
            except (aiohttp.ClientError, OSError, ValueError) as error:
                self._could_not(error)
        limit = self._settings.http_max_redirects
        raise give_up("TooManyRedirects", f"{self.shown}: more than {limit} redirects (TASKFLOW_HTTP_MAX_REDIRECTS)")

    async def _hop(self, session: aiohttp.ClientSession) -> dict[str, Any] | None:
        """The result; None after a redirect, which has been entered for the next hop."""
        self._way.begin()
        async with session.request(
            self._method, self._url, headers=self._headers, data=self._body, allow_redirects=False
        ) as answer:
            expected = self._call.expects(answer.status)
            if not expected and self._follows and answer.status in _REDIRECTS and "Location" in answer.headers:
                self._follow(answer.status, answer.headers["Location"])
                return None
            if not expected:
                self._unexpected(answer, await answers.read_start(answer))
            try:
                body = await answers.read_body(answer, self._settings.http_max_response_bytes)
                result: dict[str, Any] = cleaned(answers.result_of(answer, body), self._used)
                answers.check_size(result)
            except answers.TooLarge as error:
                raise give_up("TooLarge", f"{self.shown}: status {answer.status}, but {error}") from None
            return result

    def _follow(self, status: int, location: str) -> None:
        before = self._parts
        url = urljoin(self._url, location.strip()).partition("#")[0]
        try:
            self._parts = check_url(url)
        except Forbidden as error:
            raise give_up("Forbidden", f"{self.shown}: redirects to {url[:80]!r}: {error}") from None
        self._url = url
        if _origin(self._parts) != _origin(before):
            own = {*_OF_THE_FIRST_HOST, (self._call.auth and self._call.auth.header) or ""}
            self._headers = _without(self._headers, *own)
        if (status == 303 and self._method != "HEAD") or (status in (301, 302) and self._method == "POST"):
            self._method, self._body = "GET", None
            self._headers = _without(self._headers, "content-type", "content-encoding", "content-language")

    def _unexpected(self, answer: aiohttp.ClientResponse, body: bytes) -> NoReturn:
        text = cleaned(answers.decoded(answer, body) or "", self._used)
        said = " ".join(text.split())[:_SHOWN]
        reason = cleaned(answer.reason or "", self._used)[:60]
        message = f"{self.shown}: status {answer.status} {reason}".rstrip() + (f"; it says: {said}" if said else "")
        if answer.status // 100 == 4 and answer.status not in _AGAIN:
            raise give_up("HttpStatus", message)
        asked = answers.retry_after(answer)
        delay = None if asked is None else min(asked, self._settings.http_max_retry_after)
        raise try_again("HttpStatus", message, delay)

    def _could_not(self, error: Exception) -> NoReturn:
        if self._way.refused is not None:
            raise give_up("Forbidden", f"{self.shown}: {self._way.refused}") from None
        why = cleaned(str(error) or type(error).__name__, self._used)[:_SHOWN]
        # A certificate's error is a ValueError, too, and may pass.
        if isinstance(error, aiohttp.InvalidURL) or not isinstance(error, (aiohttp.ClientError, OSError)):
            raise give_up("InvalidPayload", f"payload: {self.shown}: {why}") from None
        raise try_again("HttpConnection", f"{self.shown}: {why}") from None


def port_of(parts: SplitResult) -> int:
    return parts.port or {"http": 80, "https": 443}[parts.scheme]


def _origin(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, port_of(parts)


def _without(headers: dict[str, str], *names: str) -> dict[str, str]:
    gone = {name.lower() for name in names}
    return {name: value for name, value in headers.items() if name.lower() not in gone}


def _content(call: HttpCall) -> tuple[dict[str, str], bytes | None]:
    """Headers and body to send. A text goes as it is, everything else as JSON."""
    headers = {"User-Agent": f"taskflow-worker/{_version()}", **call.headers}
    if call.body is None:
        return headers, None
    text = isinstance(call.body, str)
    if "content-type" not in map(str.lower, headers):
        headers["Content-Type"] = "text/plain; charset=utf-8" if text else "application/json"
    return headers, (call.body if text else json.dumps(call.body, ensure_ascii=False)).encode()


def _version() -> str:
    try:
        return version("taskflow-server")
    except PackageNotFoundError:
        return "0"
