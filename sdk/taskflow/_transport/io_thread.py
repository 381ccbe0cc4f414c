"""The I/O thread: one per client, with an event loop of its own that holds every channel and stream.

User code never runs on it, so that a handler or an application's loop that blocks does not hold up heartbeats.
Work crosses threads in batches: a deque, and one wake-up for whatever has gathered.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from taskflow._process import forks
from taskflow._transport.clock import SYSTEM
from taskflow.errors import FailedPrecondition, Unavailable

T = TypeVar("T")
log = logging.getLogger("taskflow")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed (10 to 25 % faster with gRPC), else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        loop = asyncio.new_event_loop()
        loop.time = SYSTEM.monotonic  # type: ignore[method-assign]  # its own stands still with a frozen clock
        return loop
    return uvloop.new_event_loop()


def complain(message: str, error: BaseException | None = None) -> None:
    """Logs an error of a loop that goes on. Never raises: the application's own filters and handlers run in here."""
    try:
        log.error("%s", message, exc_info=error)
    except Exception:
        print(f"taskflow: {message}", file=sys.stderr)
        traceback.print_exc()
        if error is not None:
            traceback.print_exception(error)


def was_closed() -> Unavailable:
    """For calls under way when their client is closed."""
    return Unavailable("this TaskFlow was closed before the answer; the call may have been executed", reason="CLOSED")


def _is_closed() -> FailedPrecondition:
    return FailedPrecondition("this TaskFlow is closed; make a new one", reason="CLOSED")


def _refuse_green_threads() -> None:
    """FailedPrecondition where threads are no threads: the I/O thread would hold up all others for ever."""
    for library, module, asked, threads in (
        ("gevent", "gevent.monkey", "is_module_patched", "threading"),
        ("eventlet", "eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        is_patched = getattr(sys.modules.get(module), asked, None)
        if is_patched is not None and is_patched(threads):
            raise FailedPrecondition(
                f"{library} has replaced the threads of this process, and TaskFlow needs real ones: leave them out"
                f" (gevent: monkey.patch_all(thread=False)), or use TaskFlow in a process without {library}",
                reason="MONKEY_PATCHED",
            )


class Mailbox(Generic[T]):
    """Hands items from any thread to a callback on a loop, many at once, in order.

    The callback gets the deque and empties it. When it fails, it is called again for what is left. `put` is safe
    against itself: the thread that finds no wake-up under way sends one, and the flag falls before the deque is read.
    """

    __slots__ = ("_callback", "_items", "_loop", "_woken")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[deque[T]], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._items: deque[T] = deque()
        self._woken = False

    def put(self, item: T) -> None:
        self._items.append(item)
        if not self._woken:
            self._wake()

    def put_all(self, items: list[T]) -> None:
        self._items.extend(items)
        if not self._woken:
            self._wake()

    def _wake(self) -> None:
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._open)
        except BaseException:
            # As a RecursionError in a handler that reports from the bottom of its stack: the next put wakes.
            self._woken = False
            raise

    def _open(self) -> None:
        self._woken = False
        try:
            self._callback(self._items)
        except Exception as error:
            if self._items:  # what came behind the item that failed is not held up by it
                self._woken = True
                self._loop.call_soon(self._open)
            complain("an item could not be handled", error)

    def take_all(self, each: Callable[[T], None]) -> None:
        """For items that nobody will open any more: the loop has ended."""
        take_all(self._items, each)


def take_all(items: deque[T], each: Callable[[T], None]) -> None:
    """Empties a deque. From any thread, and from several."""
    while items:
        try:
            item = items.popleft()
        except IndexError:  # another thread was quicker
            return
        each(item)


class IoThread:
    """Starts with its first use. Everything given to it runs on its loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._calls: Mailbox[Callable[[], object]] | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._closed = False
        self._background: set[asyncio.Task[Any]] = set()
        self._unanswered: set[Future[Any]] = set()
        self._at_end: list[Callable[[], None]] = []
        self._ended = False  # nothing runs on the loop any more

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        if self._pid != os.getpid() or self._loop is None:
            return self._start()
        return self._loop

    def _start(self) -> asyncio.AbstractEventLoop:
        if self._is_of_parent:
            forks.used_grpc()  # says so; before the lock, which another thread may have held at the fork
        with self._lock:
            if self._closed:
                raise _is_closed()
            if self._loop is not None:
                return self._loop
            _refuse_green_threads()
            forks.used_grpc()
            self._pid = os.getpid()
            loop = new_event_loop()
            ready = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(loop, ready), name="taskflow-io", daemon=True)
            self._thread.start()
            ready.wait()
            self._calls = Mailbox(loop, _call_all)
            self._loop = loop
            _open_threads.add(self)
            return loop

    @property
    def _is_of_parent(self) -> bool:
        """Whether this process is a fork of the one that has used it."""
        return self._pid not in (0, os.getpid())

    def _run(self, loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
        asyncio.set_event_loop(loop)
        loop.call_soon(ready.set)
        try:
            loop.run_forever()
        finally:
            try:
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                self._ended = True  # before the close: a put that fails on the closed loop looks at it
                loop.close()
                self._end()

    def at_end(self, call: Callable[[], None]) -> None:
        """Runs `call` when the loop is gone, to answer those who wait for it. A call that begins later asks `ended`."""
        self._at_end.append(call)

    @property
    def ended(self) -> bool:
        return self._ended

    def _end(self) -> None:
        self._answer_all()
        for call in self._at_end:
            try:
                call()
            except Exception as error:
                complain("callers could not be notified that their client is closed", error)

    def _answer_all(self) -> None:
        """Nobody waits for an answer that cannot come. From any thread, and from several."""
        while self._unanswered:
            try:
                result = self._unanswered.pop()
            except KeyError:  # another thread was quicker
                return
            if not result.done() and result.set_running_or_notify_cancel():
                result.set_exception(was_closed())

    def post(self, call: Callable[[], object]) -> None:
        """Runs `call` on the loop, soon. FailedPrecondition when it is closed."""
        loop = self.loop
        if threading.current_thread() is self._thread:
            loop.call_soon(call)
        elif self._calls is not None:
            try:
                self._calls.put(call)
            except RuntimeError:  # closed since the line above
                raise _is_closed() from None

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task of the loop, held until it is done; its failure is logged. To be called on the loop."""
        task = self._hold(work)
        task.add_done_callback(_complain_of)
        return task

    def _hold(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Runs a coroutine on the loop; its result, for a thread. Unavailable when the client is closed meanwhile."""
        result: Future[T] = Future()

        def begin() -> None:
            if result.done():
                return
            try:
                if self._closed:
                    raise _is_closed()
                task = self._hold(make())
            except Exception as error:
                if result.set_running_or_notify_cancel():
                    result.set_exception(error)
                return
            task.add_done_callback(finish)
            result.add_done_callback(lambda f: self._cancel(task) if f.cancelled() else None)

        def finish(task: asyncio.Task[T]) -> None:
            error = was_closed() if task.cancelled() else task.exception()
            if task.cancelled() and not self._closed:
                result.cancel()
            elif not result.done() and result.set_running_or_notify_cancel():
                if error is not None:
                    result.set_exception(error)
                else:
                    result.set_result(task.result())

        self._unanswered.add(result)
        result.add_done_callback(self._unanswered.discard)
        self.post(begin)
        if self._ended:  # since: then `begin` may never run
            self._answer_all()
        return result

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        try:
            self.post(task.cancel)
        except FailedPrecondition:
            pass  # closing cancels every task

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine on the loop and blocks for its result."""
        if threading.current_thread() is self._thread:
            raise FailedPrecondition("a blocking call on TaskFlow's own I/O thread would never end")
        future = self.submit(make)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def acall(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The same for a coroutine on any other loop."""
        return await asyncio.wrap_future(self.submit(make))

    def close(self, last: Callable[[], Coroutine[Any, Any, None]] | None = None, timeout: float = 5.0) -> None:
        """Cancels what is under way and ends the thread, after `last` on its loop. Safe to repeat; nothing can be
        called afterwards. Calls under way in other threads end with Unavailable."""
        if self._is_of_parent:
            self._closed = True
            return
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        _open_threads.discard(self)
        if loop is None or self._thread is None:
            return

        async def finish() -> None:
            try:
                tasks = list(self._background)
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks, timeout=timeout / 2)
                if last is not None:  # behind the tasks: a call on a channel that is closed raises an error of gRPC's
                    await asyncio.wait_for(last(), timeout / 2)
            except TimeoutError:
                log.warning("connections could not be closed within %g s", timeout / 2)
            except Exception as error:
                complain("connections could not be closed", error)
            finally:
                asyncio.get_running_loop().stop()

        loop.call_soon_threadsafe(lambda: setattr(self, "_last", loop.create_task(finish())))
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)


_open_threads: weakref.WeakSet[IoThread] = weakref.WeakSet()


def _complain_of(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        complain("a task of the I/O thread failed", error)


def _call_all(calls: deque[Callable[[], object]]) -> None:
    while calls:
        calls.popleft()()


@atexit.register
def _close_all() -> None:
    """gRPC must not be at work while the interpreter comes down."""
    for thread in list(_open_threads):
        thread.close(timeout=1.0)
