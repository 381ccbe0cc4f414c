"""`POST /rpc`: the executor protocol, for programs in any language (docs/reference/executor-protocol.md).

`{method, params}` in JSON or YAML, answered by `{result}` or `{error}`. It keeps nothing of its own: what a client
holds is its `execId`, and every answer is asked of the services.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.gateway.rpc import formats, search
from taskflow_server.gateway.rpc.cluster import ClusterCalls
from taskflow_server.gateway.rpc.definitions import Definitions
from taskflow_server.gateway.rpc.executor_methods import Executing
from taskflow_server.gateway.rpc.params import Params, shown
from taskflow_server.gateway.rpc.tasks import Gone, Tasks
from taskflow_server.gateway.rpc.workflows import Workflows
from taskflow_server.runtime import logs

log = logs.get("rpc")

Method = Callable[[Params, Gone], Awaitable[dict[str, Any]]]

PREFIXES = ("awf.", "taskflow.")
WAITING = "task/long-poll"


def routes(gateway: Gateway) -> list[Route]:
    rpc = Rpc(gateway)
    return [Route("/rpc", rpc.serve, methods=["POST"], name="rpc"), *search.routes(rpc.tasks, rpc.workflows)]


class Rpc:
    def __init__(self, gateway: Gateway) -> None:
        definitions = Definitions(gateway)
        tasks = self.tasks = Tasks(gateway, definitions)
        workflows = self.workflows = Workflows(gateway, tasks)
        executing = Executing(gateway, ClusterCalls(gateway), tasks, workflows, definitions)
        self.methods: Mapping[str, Method] = {
            "task/poll": executing.poll,
            WAITING: executing.long_poll,
            "task/start": executing.start,
            "task/notify": executing.notify,
            "task/success": executing.success,
            "task/fail": executing.fail,
            "task/create-and-execute": tasks.create,
            "task/status": tasks.status,
            "task/cancel": tasks.cancel,
            "task/list": tasks.listed,
            "workflow/create-and-execute": workflows.create,
            "workflow/status": workflows.status,
            "workflow/cancel": workflows.cancel,
            "workflow/list": workflows.listed,
        }

    async def serve(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        kind = formats.of_answer(accept, formats.JSON)
        try:
            asked = formats.of_request(request.headers.get("content-type", ""))
            kind = formats.of_answer(accept, asked)
            body = await request.body()
            large = len(body) > formats.LARGE
            call = await asyncio.to_thread(formats.read, body, asked) if large else formats.read(body, asked)
            return await _answer({"result": await self._call(call, request)}, kind)
        except Failure as failure:
            return await _answer({"error": _error(failure)}, kind, failure)
        except Exception as error:
            log.error("a call failed", exc_info=error)
            broken = Failure(500, "INTERNAL", "an error of the gateway's own; its log has the details")
            return await _answer({"error": _error(broken)}, kind, broken)

    async def _call(self, call: Any, request: Request) -> dict[str, Any]:
        if not isinstance(call, dict):
            raise _bad("", f"the body is {shown(call)}; it must be an object with `method` and `params`")
        name, params = call.get("method"), call.get("params")
        if not isinstance(name, str):
            raise _bad("method", f"method: {shown(name)} is not text")
        if params is not None and not isinstance(params, dict):
            raise _bad("params", f"params: {shown(params)} is not an object")
        bare = next((name.removeprefix(prefix) for prefix in PREFIXES if name.startswith(prefix)), "")
        method = self.methods.get(bare)
        if method is None:
            there = ", ".join(f"awf.{known}" for known in self.methods)
            raise Failure(
                404, "NOT_FOUND", f"method: there is no {name[:80]!r}; there are {there}", "method", "NO_METHOD"
            )
        request.scope["waits"] = bare == WAITING

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        return await method(Params(params or {}), gone)


def _bad(field: str, words: str) -> Failure:
    return Failure(400, "INVALID_ARGUMENT", words, field, "BAD_CALL")


def _error(failure: Failure) -> dict[str, Any]:
    data = {"field": failure.field, "reason": failure.reason}
    return {
        "code": failure.code,
        "type": (failure.reason or failure.code).lower().replace("_", "-"),
        "message": failure.message,
        "data": {name: value for name, value in data.items() if value},
    }


async def _answer(value: dict[str, Any], kind: str, failure: Failure | None = None) -> Response:
    headers = {}
    if failure is not None and failure.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(failure.retry_after)))
    body = await asyncio.to_thread(formats.write, value, kind) if kind == formats.YAML else formats.write(value, kind)
    return Response(body, _status(failure), headers, media_type=kind)


def _status(failure: Failure | None) -> int:
    if failure is None:
        return 200
    return 413 if failure.reason == "TOO_LARGE" else failure.status
