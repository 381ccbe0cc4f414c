"""`run`: a worker in the foreground, until a signal or `stop` ends it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from taskflow._jobs.core import Core
from taskflow._process import forks
from taskflow._transport.io_thread import new_event_loop
from taskflow._worker import importing
from taskflow._worker.declared_tasks import declare
from taskflow._worker.options import RunOptions
from taskflow._worker.overdue import EXIT_STATUS
from taskflow._worker.worker import Worker
from taskflow.errors import FailedPrecondition

log = logging.getLogger("taskflow")


class Running:
    """A `run` under way, seen from other threads."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.worker: Worker | None = None
        self._stopped = False

    async def serve(self, options: RunOptions, handler_loop: asyncio.AbstractEventLoop) -> None:
        """On the I/O loop. InvalidArgument when the cluster refuses a task that the app declares."""
        worker = self.worker = Worker(self._core, options, handler_loop)
        if self._stopped:
            worker.stop()
        declaring = asyncio.ensure_future(declare(self._core, options.declared))
        declaring.add_done_callback(lambda done: worker.stop() if _failed(done) else None)
        try:
            await worker.run()
        finally:
            declaring.cancel()
        if worker.overdue.replacing:
            logging.shutdown()
            os._exit(EXIT_STATUS)  # an exit in order would wait for the handlers' event loop
        if _failed(declaring):
            declaring.result()

    def stop(self) -> None:
        """From any thread, or from a signal's handler: drain."""
        self._stopped = True  # before the look at `worker`: `serve` sets that first, and looks at this behind it
        worker = self.worker
        if worker is None:
            return  # a signal may come while this thread starts the I/O thread, and holds the lock that posting takes
        with suppress(FailedPrecondition):  # closed: it ends already
            self._core.io.post(worker.stop)

    def kill(self) -> None:
        """From any thread: handler processes end with this one."""
        if self.worker is not None:
            self.worker.kill()


def _failed(done: asyncio.Future[None]) -> bool:
    return done.done() and not done.cancelled() and done.exception() is not None


def run_blocking(core: Core, options: RunOptions, running: list[Running]) -> None:
    """For TaskFlow.run: an event loop of its own for async handlers, in this thread."""
    importing.stop_at_run()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise FailedPrecondition(
            "run: an event loop runs in this thread already; use AsyncTaskFlow there, and await its run",
            reason="IN_EVENT_LOOP",
        )
    main: asyncio.Task[None] | None = None

    async def begin() -> None:
        nonlocal main
        main = asyncio.current_task()
        await run_here(core, options, running)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        try:
            runner.run(begin())
        except SystemExit:
            if main is None or main.done():
                raise
            _go_on(runner.get_loop(), main)


def _go_on(loop: asyncio.AbstractEventLoop, main: asyncio.Task[None]) -> None:
    """After sys.exit() in a task that a handler made, which ends the loop's run. Its await tells the handler."""
    while not main.done():
        log.error("a task that a handler started has called sys.exit(); the worker continues")
        try:
            loop.run_until_complete(main)
        except SystemExit:
            if main.done():
                raise


async def run_here(core: Core, options: RunOptions, running: list[Running]) -> None:
    """For AsyncTaskFlow.run: async handlers on the present loop. Its cancellation drains, too."""
    importing.stop_at_run()
    control = Running(core)
    handler_loop = asyncio.get_running_loop()
    running.append(control)
    try:
        with _signals(control, options):
            _say(_notice(core, options))
            serving = asyncio.wrap_future(core.io.submit(lambda: control.serve(options, handler_loop)))
            try:
                await asyncio.shield(serving)
            except asyncio.CancelledError:
                control.stop()
                await asyncio.shield(serving)
                raise
    finally:
        running.remove(control)


@contextmanager
def _signals(control: Running, options: RunOptions) -> Iterator[None]:
    """In the main thread, SIGTERM and SIGINT drain, and a second one ends the process at once."""
    if not options.signals or threading.current_thread() is not threading.main_thread():
        yield
        return
    got = 0

    def heard(number: int, frame: FrameType | None) -> None:
        nonlocal got
        got += 1
        if got == 1:
            name = signal.Signals(number).name
            _say(f"taskflow: {name}; draining, for {options.grace:g} s at most. Once more ends at once")
            control.stop()
        else:
            control.kill()
            os._exit(128 + number)

    before: dict[int, Callable[..., Any] | int | None] = {}
    for each in (signal.SIGTERM, signal.SIGINT):
        before[each] = signal.signal(each, heard)
    forget = forks.restore_in_forks({number: _of_a_fork(number, handler) for number, handler in before.items()})
    try:
        yield
    finally:
        forget()
        for number, handler in before.items():
            signal.signal(number, handler)


def _of_a_fork(number: int, handler: Any) -> Any:
    """The earlier handler; a fork has no use for what asyncio's runner does at a Ctrl-C, to cancel its main task."""
    if getattr(getattr(handler, "func", None), "__name__", "") == "_on_sigint":
        return signal.default_int_handler
    return signal.SIG_DFL if handler is None else handler


def _notice(core: Core, options: RunOptions) -> str:
    what = [f"task {name}" for name in options.tasks] + [f"queue {name}" for name in options.queue_handlers]
    shown = ", ".join(what[:6]) + (f" and {len(what) - 6} more" if len(what) > 6 else "")
    only = f" of {', '.join(options.queues)}" if options.queues else ""
    return f"taskflow: {options.name} runs {shown}{only}, {options.concurrency} at once, for {core.scheduler}"


def _say(line: str) -> None:
    """To the log if the application shows it, else to standard error."""
    if log.isEnabledFor(logging.INFO) and log.hasHandlers():
        log.info(line)
    else:
        print(line, file=sys.stderr, flush=True)
