"""`async def` handlers, on the handlers' event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from taskflow._handlers import outcomes
from taskflow._jobs import calling_handler
from taskflow._process import forks
from taskflow._transport.io_thread import Mailbox
from taskflow._worker.attempt import Attempt


class LoopExecutor:
    """`async def` handlers, as tasks of the handlers' loop (the application's own, or `TaskFlow.run`'s)."""

    stoppable = True

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbox: Mailbox[Attempt] = Mailbox(loop, self._begin)

    def submit(self, attempts: list[Attempt]) -> None:
        self._inbox.put_all(attempts)

    def _begin(self, arrived: deque[Attempt]) -> None:
        create = self.loop.create_task
        while arrived:
            attempt = arrived.popleft()
            if attempt.start():
                work = self._run(attempt)
                try:
                    task = create(work)
                except Exception as error:  # a task factory of the application's
                    work.close()
                    attempt.finish(outcomes.of_exception(error))
                    continue
                attempt.runner = task
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _run(self, attempt: Attempt) -> None:
        handler, depth = attempt.handler, forks.depth
        token = calling_handler.waits.set(attempt.waits)
        try:
            value: Any = await handler.binding.call(handler.function, attempt.job())
        except BaseException as error:
            # CancelledError: by us, and then `forced` says why; else by the handler itself or the loop's end.
            forks.end_if_fork(depth, error)
            verdict = outcomes.of_exception(error)
        else:
            if forks.depth != depth:  # asked here, for it is asked once per job
                forks.end_if_fork(depth, None)
            verdict = outcomes.of_value(value)
        # The attempt has its task, whose context has the attempt: only a full collection would free the two.
        calling_handler.waits.reset(token)
        attempt.finish(verdict)

    def stop(self, attempt: Attempt, gently: bool) -> None:
        self.loop.call_soon_threadsafe(self._cancel, attempt)

    def _cancel(self, attempt: Attempt) -> None:
        if attempt.runner is not None:
            attempt.runner.cancel()

    async def close(self) -> None:
        """Handlers that ignored their cancellation are left behind."""
