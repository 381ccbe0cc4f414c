"""SDK workers inside the test's own process: a handler may then be any function of the test."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from taskflow import TaskFlow


@contextmanager
def working(tf: TaskFlow, *queue_and_handler: Any, **options: Any) -> Iterator[TaskFlow]:
    """`tf.run(…)` in a thread, for the body; drained at its end."""
    options.setdefault("grace", 5.0)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: tf.run(*queue_and_handler, **options))
        try:
            yield tf
        finally:
            tf.stop()
            running.result(30)
