"""The handler that makes a call, as the call sees it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

waits: ContextVar[Callable[[], None] | None] = ContextVar("taskflow_waits", default=None)
"""In a handler: to be called when it waits for another job."""


def will_wait() -> None:
    """Before a wait for a job."""
    tell = waits.get()
    if tell is not None:
        tell()
