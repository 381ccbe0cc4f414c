"""Lists that are read page by page while the caller iterates."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
Page = tuple[list[T], str]


def each(
    call: Callable[[Callable[[], Coroutine[Any, Any, Page[T]]]], Page[T]], page: Callable[[str], Any]
) -> Iterator[T]:
    token = ""
    while True:
        items, token = call(lambda: page(token))  # noqa: B023
        yield from items
        if not token:
            return


async def aeach(
    call: Callable[[Callable[[], Coroutine[Any, Any, Page[T]]]], Awaitable[Page[T]]], page: Callable[[str], Any]
) -> AsyncIterator[T]:
    token = ""
    while True:
        items, token = await call(lambda: page(token))  # noqa: B023
        for item in items:
            yield item
        if not token:
            return
