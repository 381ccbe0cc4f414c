"""Checks of every request before its handler, and of every answer after it: names, sizes, headers, counts.

**Names.** A page elsewhere can have its own name resolve to this machine and so speak to the gateway from a user's
browser (DNS rebinding). Such a name has a dot in it and is none that the operator has named; it is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.runtime import metrics

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # without any, a browser hides the origin of the console's forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """An endpoint whose answers wait on purpose sets `scope["waits"]`: they are counted and not timed."""

    def __init__(
        self,
        app: ASGIApp,
        gateway: Gateway,
        answer: Callable[[Request, Failure], Response],
        routes: Sequence[BaseRoute],
    ) -> None:
        self._app = app
        self._settings = gateway.settings
        self._monotonic = gateway.clock.real.monotonic
        self._answer = answer
        self._paths: dict[object, str] = {route.endpoint: route.path for route in routes if isinstance(route, Route)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began = self._monotonic()
        body = 0

        async def received() -> Message:
            nonlocal body
            message = await receive()
            body += len(message.get("body", b""))
            if body > self._settings.max_body_bytes:
                raise self._too_large()
            return message

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                self._count(scope, message["status"], self._monotonic() - began)
            await send(message)

        request = Request(scope)
        refused = self._refusal(request)
        if refused is not None:
            return await self._answer(request, refused)(scope, receive, sent)
        await self._app(scope, received, sent)

    def _refusal(self, request: Request) -> Failure | None:
        host = request.headers.get("host", "")
        if not known_host(host, self._settings.host_names):
            words = f"this gateway is not known as {host[:200]!r}; TASKFLOW_ALLOWED_HOSTS names what it is known as"
            return Failure(421, "PERMISSION_DENIED", words, reason="UNKNOWN_HOST")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            return self._too_large()
        return None

    def _too_large(self) -> Failure:
        words = f"the body has more than {self._settings.max_body_bytes} bytes (TASKFLOW_MAX_BODY_BYTES)"
        return Failure(413, "INVALID_ARGUMENT", words, reason="TOO_LARGE")

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        """By the route's own pattern: paths have no end."""
        route = self._paths.get(scope.get("endpoint"), "(none)")
        metrics.http_requests.labels(route, status).inc()
        if not scope.get("waits"):
            metrics.http_seconds.labels(route).observe(seconds)


def known_host(host: str, names: frozenset[str]) -> bool:
    """Whether `host`, as a request's header has it, is an address, a name without a dot, or one of `names`."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    name = name.lower().rstrip(".")
    if "*" in names or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name.endswith(".localhost"))
    return True
