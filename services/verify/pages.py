"""Pages of rows by their ids. They are found once, and every check walks through the same ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from taskflow_server.store.verify import History
from taskflow_server.verify.checks import Rows

FIRST, LAST = UUID(int=0), UUID(int=(1 << 128) - 1)
BY_TWO: Mapping[Rows, tuple[str, Mapping[str, Any]]] = {
    Rows.KEYS: ("verify_keys_page", {"namespace": "", "key": ""}),
    Rows.FIRINGS: ("verify_firings_page", {"schedule_id": FIRST, "instant": datetime(1, 1, 1, tzinfo=UTC)}),
}
_QUERIES = {
    Rows.JOBS: "verify_jobs_page",
    Rows.RUNS: "verify_runs_page",
    Rows.SCHEDULES: "verify_schedules_page",
}


class Page(NamedTuple):
    """Ids above `low`, up to `high`, of which `n` were there."""

    low: UUID
    high: UUID
    n: int


async def pages(history: History, rows: Rows, low: UUID, high: UUID, beyond: UUID | None, limit: int) -> list[Page]:
    """The pages from `low` to `high`, and one of what has an id from `beyond` on, that no job of ours can have.

    Schedules have no time in their ids: all are walked.
    """
    if rows is Rows.SCHEDULES:
        low, high, beyond = FIRST, LAST, None
    found: list[Page] = []
    while True:
        page = await history.row(_QUERIES[rows], low=low, high=high, limit=limit)
        if page["n"] < limit:  # what has no row here may have one beside: the page reaches to the end
            found.append(Page(low, high, page["n"]))
            break
        found.append(Page(low, page["last"], page["n"]))
        low = page["last"]
    if beyond is not None:
        found.append(Page(beyond, LAST, 0))
    return found


async def pages_by_two(
    history: History, query: str, first: Mapping[str, Any], limit: int
) -> AsyncIterator[tuple[dict[str, Any], int]]:
    """Pages of rows that two columns tell apart: the bounds of each, and how many rows it has. `first`: below all."""
    after = dict(first)
    while (page := await history.row(query, **after, limit=limit))["n"]:
        last = {name: page[name] for name in first}
        yield {**after, **{f"last_{name}": value for name, value in last.items()}}, page["n"]
        after = last
