"""Waiting for a fact, with a deadline. The only place in the tests that sleeps."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar, overload

T = TypeVar("T")
FIRST, LONGEST = 0.02, 0.1  # seconds between two looks: a look often costs milliseconds of CPU in several processes


def eventually(fact: Callable[[], T], timeout: float = 10.0) -> T:
    """The value of `fact()` as soon as it is true; AssertionError with its last answer after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    pauses = _pauses()
    while not (answer := fact()):
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(fact, answer, timeout))
        time.sleep(next(pauses))
    return answer


def until_by_chance(seconds: float) -> None:
    """For a test that strikes at moments of chance: nothing is waited for."""
    time.sleep(seconds)


@overload
async def eventually_async(fact: Callable[[], Awaitable[T]], timeout: float = ...) -> T: ...
@overload
async def eventually_async(fact: Callable[[], T], timeout: float = ...) -> T: ...
async def eventually_async(fact: Callable[[], object], timeout: float = 10.0) -> object:
    """The same inside a running loop; `fact` may be a coroutine function."""
    deadline = time.monotonic() + timeout
    pauses = _pauses()
    while True:
        answer = fact()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(fact, answer, timeout))
        await asyncio.sleep(next(pauses))


def _pauses() -> Iterator[float]:
    """A fifth longer each time: a fact that came after a second is seen a tenth of a second later."""
    pause = FIRST
    while True:
        yield pause
        pause = min(pause * 1.2, LONGEST)


def _complaint(fact: Callable[[], object], answer: object, timeout: float) -> str:
    try:
        what = " ".join(inspect.getsource(fact).split())
    except (OSError, TypeError):
        what = getattr(fact, "__name__", repr(fact))
    return f"not within {timeout:g} s: {what} (last answer: {answer!r})"
