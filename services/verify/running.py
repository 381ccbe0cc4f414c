"""Runs checks over a database: pages in turn, findings counted and the first ones kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from taskflow_server.store.verify import History
from taskflow_server.verify import special
from taskflow_server.verify.checks import CHECKS, Check, Rows
from taskflow_server.verify.pages import BY_TWO, Page, pages, pages_by_two

Row = dict[str, Any]
LOOKS = 12  # at what may be on its way, `pause` apart: an owner takes an event in well under a second
SETTLING = 5.0  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Options:
    """`since` and `until` bound the history by the time at which jobs and runs were made, and schedules fired."""

    checks: Sequence[Check] = CHECKS
    since: datetime | None = None
    until: datetime | None = None
    limit: int = 20  # findings of a check that are kept
    page: int = 5000


@dataclass(frozen=True, slots=True)
class Finding:
    """A job, a run or an instant that contradicts a promise, and the facts that show it."""

    subject: str
    proof: Row


@dataclass(slots=True)
class Result:
    """One check. `found` counts all findings; the first are in `findings`. `skipped`: why there is no answer."""

    check: Check
    looked: int = 0
    found: int = 0
    findings: list[Finding] = field(default_factory=list)
    skipped: str = ""


Progress = Callable[[Check, int, int], None]  # rows looked at, of how many


async def _pause() -> None:
    await asyncio.sleep(SETTLING)


class Verification:
    """One run of checks. `progress` hears of each page; `pause` lets time pass between two looks at what may settle."""

    def __init__(
        self,
        history: History,
        options: Options,
        progress: Progress = lambda check, looked, of: None,
        pause: Callable[[], Awaitable[None]] = _pause,
    ) -> None:
        self._history = history
        self._options = options
        self._progress = progress
        self._pause = pause
        self._pages: dict[Rows, list[Page]] = {}
        self._bounds: Row = {}
        self._counts: list[Row] = []

    async def run(self) -> AsyncIterator[Result]:
        """The result of each check, as it ends."""
        self._bounds = await self._read_bounds()
        # Before the pages are found: attempts only become more, so that no count may exceed them later.
        self._counts = await self._history.rows("verify_counts")
        for check in self._options.checks:
            result = await self._run(check)
            if result.found and check.pruned and await self._is_pruned():
                result = Result(
                    check, result.looked, skipped="a prune deletes history meanwhile; verify again after it"
                )
            yield result

    async def _read_bounds(self) -> Row:
        return await self._history.row("verify_bounds", since=self._options.since, until=self._options.until)

    async def _is_pruned(self) -> bool:
        """Whether a prune runs, or has run since we began: what it deletes is no finding."""
        if (await self._history.row("verify_prune_runs"))["runs"]:
            return True
        oldest = self._bounds["oldest_count"]
        return oldest is not None and (await self._read_bounds())["oldest_count"] != oldest

    async def _run(self, check: Check) -> Result:
        result = Result(check)
        match check.rows:
            case Rows.LANES:
                self._add(result, await self._history.rows(check.query), 0)
                result.looked = (await self._history.row("verify_lanes_page"))["n"]
            case Rows.KEYS | Rows.FIRINGS:
                query, first = BY_TWO[check.rows]
                async for bounds, n in pages_by_two(self._history, query, first, self._options.page):
                    self._add(result, await self._history.rows(check.query, **bounds, **self._common()), n)
            case Rows.LEDGER:
                for page in await self._pages_of(Rows.SCHEDULES):
                    async for looked, rows in special.ledgers(self._history, page, self._common()):
                        self._add(result, rows, looked)
            case Rows.TASKS:
                async for looked, rows in special.limits(self._history, self._options.since, self._options.until):
                    self._add(result, rows, looked)
            case Rows.COUNTS:
                await self._count(result)
            case _:
                await self._walk(result)
        return result

    async def _count(self, result: Result) -> None:
        if self._options.since or self._options.until:
            result.skipped = "counts are compared with the whole history: leave out --since and --until"
            return
        ends = special.Ends()
        for page in await self._pages_of(Rows.JOBS):
            ends.add(await self._history.rows("verify_ends", low=page.low, high=page.high))
        self._add(result, ends.exceeded(self._counts), len(self._counts))

    async def _walk(self, result: Result) -> None:
        check, all_pages = result.check, await self._pages_of(result.check.rows)
        total = sum(page.n for page in all_pages)
        for page in all_pages:
            rows = await self._page(check, page)
            if rows and check.settles:
                rows = await self._settled(check, page, rows)
            self._add(result, rows, page.n)
            self._progress(check, result.looked, total)

    def _common(self) -> Row:
        """The parameters of every page."""
        return {
            "since": self._options.since,
            "until": self._options.until,
            "kept_from": self._bounds["kept_from"],
        }

    async def _page(self, check: Check, page: Page) -> list[Row]:
        return await self._history.rows(check.query, low=page.low, high=page.high, **self._common())

    async def _settled(self, check: Check, page: Page, rows: list[Row]) -> list[Row]:
        """Those that stay, whose owner lives: its pulse has moved at every look. Without an owner nothing is late."""
        for _ in range(LOOKS):
            if not rows:
                break
            await self._pause()
            before = {row["subject"]: row["pulse"] for row in rows}
            now = await self._page(check, page)
            rows = [row for row in now if row["pulse"] not in ("", before.get(row["subject"], ""))]
            rows = [row for row in rows if row["subject"] in before]
        return rows

    async def _pages_of(self, rows: Rows) -> list[Page]:
        if rows not in self._pages:
            bounds = self._bounds
            beyond = None if self._options.until else bounds["beyond"]
            found = await pages(self._history, rows, bounds["low"], bounds["high"], beyond, self._options.page)
            self._pages[rows] = found
        return self._pages[rows]

    def _add(self, result: Result, rows: Sequence[Row], looked: int) -> None:
        result.looked += looked
        result.found += len(rows)
        room = self._options.limit - len(result.findings)
        result.findings += [Finding(row["subject"], row["proof"]) for row in rows[: max(room, 0)]]


async def verify(history: History, options: Options, **more: Any) -> list[Result]:
    """All results at once."""
    return [result async for result in Verification(history, options, **more).run()]
