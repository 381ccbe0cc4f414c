"""Streams that a client keeps open for its next request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

R = TypeVar("R")


async def until_closing(requests: AsyncIterator[R], closing: asyncio.Event) -> AsyncIterator[R]:
    """A stream's requests, until the client ends it or this process stops: a stream at rest must not hold up a stop.

    Requests that have been read are answered first.
    """
    task = asyncio.current_task()
    assert task is not None
    resting = False

    async def end() -> None:
        await closing.wait()
        if resting:
            task.cancel()

    ender = asyncio.create_task(end())
    try:
        while not closing.is_set():
            resting = True
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            except asyncio.CancelledError:
                if not closing.is_set():
                    raise
                task.uncancel()
                return
            finally:
                resting = False
            yield request
    finally:
        ender.cancel()
