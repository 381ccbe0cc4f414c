"""Lists of tasks and of workflows: filters, order and pages, the same for both; and the counts of `GET /AidboxTask`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskflow_server.gateway.rpc.formats import to_json
from taskflow_server.gateway.rpc.params import Params

MOST = 10_000  # tasks or runs that a list looks at, the newest
MAX_COUNT = 1000
DEFAULT_COUNT = 100
_FIELDS = ("filter", "sort", "definitions", "status", "outcome", "page", "count", "include-settings?")
_FILTERS = ("includeDefinitions", "excludeDefinitions", "definitions", "status", "outcome", "ilike")
_SORTS = ("createdAt", "lastUpdated")

States = dict[str, list[Any]]  # by the name that a client knows them by


@dataclass(slots=True)
class Wanted:
    """The parameters of a list."""

    definitions: list[str] = field(default_factory=list)  # empty: all
    excluded: frozenset[str] = frozenset()
    states: list[Any] | None = field(default_factory=list)  # empty: all; None: nothing can be in them
    ilike: re.Pattern[str] | None = None
    order: str = "createdAt"
    ascending: bool = False
    count: int = DEFAULT_COUNT
    page: int = 1
    settings: bool = False

    def wants(self, definition: str) -> bool:
        return (not self.definitions or definition in self.definitions) and definition not in self.excluded


def wanted(params: Params, of_status: States, of_outcome: States) -> Wanted:
    params.only(_FIELDS)
    filters, sort = params.within("filter"), params.within("sort")
    filters.only(_FILTERS)
    sort.only(_SORTS)
    ilike = filters.text("ilike")
    found = Wanted(
        [*params.names("definitions"), *filters.names("definitions"), *filters.names("includeDefinitions")],
        frozenset(filters.names("excludeDefinitions")),
        _states((params, filters), of_status, of_outcome),
        _pattern(ilike) if ilike else None,
        count=params.whole("count", DEFAULT_COUNT, 1, MAX_COUNT),
        page=params.whole("page", 1, 1, MOST),
        settings=params.flag("include-settings?"),
    )
    orders = [name for name in _SORTS if sort.has(name)]
    if len(orders) > 1:
        raise params.bad("sort", f"sort by one of {' and '.join(_SORTS)}")
    for found.order in orders:
        way = sort.text(found.order)
        if way not in ("asc", "desc"):
            raise sort.bad(found.order, f"{way[:80]!r} is neither asc nor desc")
        found.ascending = way == "asc"
    return found


def select(items: Sequence[Any], asked: Wanted, shown: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """`resources` and `total`, of items that are the newest first."""
    found: list[Any] = list(items)
    if asked.ilike is not None or asked.order != "createdAt":
        resources = [shown(item) for item in found]
        if asked.ilike is not None:
            resources = [each for each in resources if asked.ilike.search(to_json(each).decode())]
        if asked.order != "createdAt":
            resources.sort(key=lambda each: int(each["meta"]["versionId"]), reverse=True)
        found, shown = resources, _itself
    if asked.ascending:
        found.reverse()
    page = found[(asked.page - 1) * asked.count : asked.page * asked.count]
    answer: dict[str, Any] = {"resources": [shown(item) for item in page], "total": len(found)}
    return answer | ({"totalCapped": True} if len(items) >= MOST else {})


def _itself(resource: dict[str, Any]) -> dict[str, Any]:
    return resource


def _pattern(ilike: str) -> re.Pattern[str]:
    """As SQL's `ilike '%…%'`: `%` is any text, `_` any character."""
    parts = {"%": ".*?", "_": "."}
    return re.compile("".join(parts.get(letter, re.escape(letter)) for letter in ilike), re.IGNORECASE | re.DOTALL)


def _states(where: Iterable[Params], of_status: States, of_outcome: States) -> list[Any] | None:
    """The states that `status` and `outcome` ask for together: empty for all, None when none can be both."""
    sets: list[set[Any]] = []
    for name, known in (("status", of_status), ("outcome", of_outcome)):
        words = [(params, word) for params in where for word in params.texts(name)]
        for params, word in words:
            if word not in known:
                raise params.bad(name, f"{word[:80]!r} is none of {', '.join(known)}")
        if words:
            sets.append({state for _, word in words for state in known[word]})
    if not sets:
        return []
    return sorted(set.intersection(*sets)) or None
