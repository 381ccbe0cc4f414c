"""`GET /AidboxTask` and `/AidboxWorkflow`: how many there are, as clients count them, and one by its id."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.rpc import formats
from taskflow_server.gateway.rpc.listing import MAX_COUNT
from taskflow_server.gateway.rpc.params import Params
from taskflow_server.gateway.rpc.tasks import Gone, Tasks
from taskflow_server.gateway.rpc.workflows import Workflows

# A search's parameter, and the one of the list that it stands for. `.status` is how clients write a resource's field.
_FILTERS = {
    "definition": "includeDefinitions",
    "definition-not": "excludeDefinitions",
    ".status": "status",
    ".outcome": "outcome",
}
_KNOWN = ("_count", *_FILTERS)

Method = Callable[[Params, Gone], Awaitable[dict[str, Any]]]


def routes(tasks: Tasks, workflows: Workflows) -> list[Route]:
    found = []
    for kind, listed, status in (
        ("AidboxTask", tasks.listed, tasks.status),
        ("AidboxWorkflow", workflows.listed, workflows.status),
    ):
        resources = Resources(listed, status)
        found += [
            Route(f"/{kind}", resources.search, methods=["GET"]),
            Route(f"/{kind}/{{id:path}}", resources.one, methods=["GET"]),
        ]
    return found


class Resources:
    """One type of resource, read by the methods of /rpc."""

    def __init__(self, listed: Method, status: Method) -> None:
        self._listed = listed
        self._status = status

    async def search(self, request: Request) -> Response:
        """`{"total": n}`, and of those the newest `_count` in `entry`: none by default."""
        given = {name: ",".join(request.query_params.getlist(name)) for name in request.query_params}
        asked = Params(given, "query")
        asked.only(_KNOWN)
        count = _count(asked, given)
        filters = {_FILTERS[name]: words.split(",") for name, words in given.items() if name in _FILTERS}
        try:
            found = await self._listed(Params({"filter": filters, "count": max(count, 1)}, "query"), _stays)
        except Failure as failure:
            raise _renamed(failure) from None
        answer: dict[str, Any] = {"total": found["total"]}
        if count:
            answer |= {"resourceType": "Bundle", "type": "searchset"}
            answer["entry"] = [{"resource": each} for each in found["resources"]]
        if found.get("totalCapped"):
            answer["totalCapped"] = True
        return _json(answer)

    async def one(self, request: Request) -> Response:
        found = await self._status(Params({"id": request.path_params["id"]}), _stays)
        return _json(found["resource"])


def _count(asked: Params, given: Mapping[str, str]) -> int:
    words = given.get("_count", "0")
    if not words.isdecimal() or not words.isascii() or int(words[:9]) > MAX_COUNT:
        raise asked.bad("_count", f"{words[:80]!r} is not a whole number from 0 to {MAX_COUNT}")
    return int(words)


def _renamed(failure: Failure) -> Failure:
    """With the names of the search's own parameters."""
    for ours, listed in _FILTERS.items():
        before, after = f"query.filter.{listed}", f"query.{ours}"
        if failure.field.startswith(before):
            words = failure.message.replace(before, after)
            return replace(failure, message=words, field=failure.field.replace(before, after))
    return failure


async def _stays() -> None:
    """Nothing is waited for here."""
    await asyncio.Event().wait()


def _json(value: dict[str, Any]) -> Response:
    return Response(formats.to_json(value), media_type=formats.JSON)
