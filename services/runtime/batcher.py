"""Group commit: one flush at a time, and the items that arrive meanwhile are the next one. No timers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from taskflow_server.runtime import logs

log = logs.get("batcher")

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Calls `flush` with the items of all callers; each gets the results of its own items, in order.

    `flush` answers with one result for each item; an exception is every caller's. `limit` is the most items
    of one flush, `most` the most that they may weigh (a single caller's items stay together, even above it).
    `then` is called with a batch and its results once they are given out, so that no caller waits for it. A caller
    that is cancelled before its batch begins is left out of it; later, its items are flushed all the same.
    """

    def __init__(
        self,
        flush: Callable[[list[T]], Awaitable[Sequence[R]]],
        *,
        limit: int = 5000,
        weigh: Callable[[T], int] = lambda item: 0,
        most: int = 16 << 20,
        then: Callable[[list[T], Sequence[R]], Awaitable[None]] | None = None,
    ) -> None:
        self._flush = flush
        self._limit = limit
        self._weigh = weigh
        self._most = most
        self._then = then
        self._backlog = 0
        self._waiting: deque[tuple[Sequence[T], asyncio.Future[Sequence[R]]]] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def backlog(self) -> int:
        return self._backlog

    def submit(self, items: Sequence[T]) -> asyncio.Future[Sequence[R]]:
        future: asyncio.Future[Sequence[R]] = asyncio.get_running_loop().create_future()
        if not items:
            future.set_result(())  # an empty batch is never flushed
            return future
        self._waiting.append((items, future))
        self._backlog += len(items)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        return future

    async def idle(self) -> None:
        """Returns when nothing is submitted that has not been flushed."""
        while self._task is not None:
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch: list[T] = []
                futures = []
                weight = 0
                while self._waiting and (not batch or len(batch) + len(self._waiting[0][0]) <= self._limit):
                    if batch and weight >= self._most:
                        break
                    items, future = self._waiting.popleft()
                    self._backlog -= len(items)
                    if future.cancelled():
                        continue
                    weight += sum(map(self._weigh, items))
                    futures.append((len(batch), len(items), future))
                    batch.extend(items)
                if batch:
                    await self._settle(batch, futures)
        finally:
            self._task = None

    async def _settle(self, batch: list[T], futures: list[tuple[int, int, asyncio.Future[Sequence[R]]]]) -> None:
        try:
            results = await self._flush(batch)
        except Exception as error:
            for _, _, future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        for start, count, future in futures:
            if not future.done():
                future.set_result(results[start : start + count])
        if self._then is not None:
            try:
                await self._then(batch, results)
            except Exception as error:  # the batch is settled, and the next one must come
                log.error("the callback of a batch failed", exc_info=error)
