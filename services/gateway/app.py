"""The gateway's routes put together, and what holds for every one of them.

No answer shows a stack trace. A browser's page may load nothing from elsewhere and run no script but ours, nobody may
frame it, and nothing is kept in a cache that does not say so itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from taskflow_server.gateway import console, rpc
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.guard import Guard
from taskflow_server.runtime import logs

log = logs.get("gateway")

CODES = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}  # of what the router itself refuses


def build(gateway: Gateway) -> Starlette:
    """The ASGI app. A part that serves something has a function `routes(gateway)`, which is named here."""
    routes: list[BaseRoute] = [
        Route("/healthz", _health(gateway), name="healthz"),
        *console.routes(gateway),
        *rpc.routes(gateway),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, gateway=gateway, answer=answer, routes=routes)],
        exception_handlers={Failure: _failed, HTTPException: _refused, Exception: _broken},
    )


def _health(gateway: Gateway) -> Callable[[Request], object]:
    async def health(request: Request) -> Response:
        """200 while the scheduler says that it serves, else 503."""
        if await gateway.upstream.ready():
            return JSONResponse({"status": "serving"})
        why = f"the scheduler at {gateway.upstream.scheduler} is not serving: it is away, or waits for Postgres"
        return JSONResponse({"status": "not serving", "why": why}, status_code=503)

    return health


def answer(request: Request, failure: Failure) -> Response:
    """A failure as a page for browsers, as JSON for everybody else."""
    headers = {} if failure.retry_after is None else {"Retry-After": str(max(1, round(failure.retry_after)))}
    if "text/html" in request.headers.get("accept", ""):
        return console.error_page(request, failure, headers)
    return JSONResponse({"error": as_json(failure)}, failure.status, headers)


def as_json(failure: Failure) -> Mapping[str, object]:
    """The value of `error` in an answer (R25)."""
    data = {"field": failure.field, "reason": failure.reason}
    return {
        "code": failure.code,
        "type": failure.reason or failure.code,
        "message": failure.message,
        "data": {name: value for name, value in data.items() if value},
    }


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, Failure)
    return answer(request, error)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path}"
    elif error.status_code == 405:
        message = f"{request.method} is not possible at {request.url.path}"
    else:
        message = error.detail
    code = CODES.get(error.status_code, "INVALID_ARGUMENT")
    given = answer(request, Failure(error.status_code, code, message))
    given.headers.update(error.headers or {})
    return given


async def _broken(request: Request, error: Exception) -> Response:
    """A fault in TaskFlow: the log has the trace, and the answer says where to look."""
    log.error("a request failed", method=request.method, path=request.url.path, exc_info=error)
    return answer(request, Failure(500, "INTERNAL", "an error of the gateway's own; its log has the details"))
