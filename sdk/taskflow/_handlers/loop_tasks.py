"""Tasks that async handlers make on a loop of the application's: sys.exit() in one of them is its own end.

asyncio keeps a SystemExit as the task's exception, for the awaiting task, and raises it out of the loop too, which
would end the application. A task that a handler makes here keeps it and goes no further.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Any

from taskflow._jobs import calling_handler

log = logging.getLogger("taskflow")

if TYPE_CHECKING:
    _Base = asyncio.Task[Any]
else:
    # The task that is written in Python: that in C has no place from which the loop's view of its end can be changed.
    _Base = getattr(asyncio.tasks, "_PyTask", asyncio.Task)


class HandlerTask(_Base):
    """As any task, but SystemExit goes only to those who await it. (A KeyboardInterrupt may be a real Ctrl-C.)"""

    def _Task__step(self, exc: BaseException | None = None) -> None:
        try:
            super()._Task__step(exc)  # type: ignore[misc]
        except SystemExit:
            if not self.done():
                raise
            log.error("a task that a handler started has called sys.exit(); the worker continues")


class _Factory:
    """The loop's task factory, while workers run on it."""

    def __init__(self) -> None:
        self.workers = 0

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        context: Context | None = options.get("context")
        of_handler = calling_handler.waits.get() if context is None else context.get(calling_handler.waits)
        kind: Any = asyncio.Task if of_handler is None else HandlerTask
        return kind(coro, loop=loop, **options)


@contextmanager
def kept_apart(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """For the body, unless the application has a task factory of its own: that one's tasks are as it makes them."""
    factory = loop.get_task_factory() or _Factory()
    if not isinstance(factory, _Factory) or not hasattr(_Base, "_Task__step"):
        yield
        return
    factory.workers += 1
    loop.set_task_factory(factory)
    try:
        yield
    finally:
        factory.workers -= 1
        if factory.workers == 0 and loop.get_task_factory() is factory:
            loop.set_task_factory(None)
