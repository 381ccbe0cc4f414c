"""Where a worker's jobs run: which executor and which slots for which handler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from taskflow._handlers.task import Handler
from taskflow._transport.io_thread import IoThread
from taskflow._worker.attempt import Attempt, HandlerExecutor, HandlerSlot
from taskflow._worker.executors.loop import LoopExecutor
from taskflow._worker.executors.processes import ProcessExecutor
from taskflow._worker.executors.threads import ThreadExecutor
from taskflow._worker.options import RunOptions
from taskflow._worker.pool import Pool
from taskflow._worker.timers import Timers


class HandlerSlots:
    """Async and thread handlers share one pool of slots; a handler with processes has one of its own."""

    def __init__(
        self,
        options: RunOptions,
        handler_loop: asyncio.AbstractEventLoop,
        io: IoThread,
        timers: Timers,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._loop = LoopExecutor(handler_loop)
        self._threads = ThreadExecutor(options.concurrency, later)
        self._processes: list[ProcessExecutor] = []
        self._by_task: dict[str, HandlerSlot] = {}
        self._by_queue: dict[str, HandlerSlot] = {}
        shared: Pool[Attempt] = Pool(options.concurrency, [], [], options.prefetch)
        self.pools = [shared]
        self.has_async = False

        def slot(handler: Handler, tasks: list[str], queues: list[str]) -> HandlerSlot:
            if handler.processes:
                own: Pool[Attempt] = Pool(handler.processes, tasks, queues, options.prefetch)
                processes = ProcessExecutor(handler, io, timers, own, options)
                self._processes.append(processes)
                self.pools.append(own)
                return HandlerSlot(handler, processes, own)
            shared.tasks.extend(tasks)
            shared.queue_handlers.extend(queues)
            self.has_async = self.has_async or handler.is_async
            executor: HandlerExecutor = self._loop if handler.is_async else self._threads
            return HandlerSlot(handler, executor, shared)

        for name, handler in options.tasks.items():
            self._by_task[name] = slot(handler, [name], [])
        for name, handler in options.queue_handlers.items():
            self._by_queue[name] = slot(handler, [], [name])
        if not shared.tasks and not shared.queue_handlers:
            self.pools.remove(shared)

    def find(self, queue: str, task: str) -> HandlerSlot | None:
        return self._by_task.get(task) if task else self._by_queue.get(queue)

    def busy_loop(self, held: Mapping[bytes, Attempt]) -> Callable[[], bool]:
        """Whether async handlers run."""
        return lambda: any(a.executor is self._loop and not a.released for a in held.values())

    async def start(self) -> None:
        await asyncio.gather(*(p.start() for p in self._processes))

    def kill(self) -> None:
        for executor in self._processes:
            executor.kill()

    async def close(self) -> None:
        executors: list[HandlerExecutor] = [self._loop, self._threads, *self._processes]
        await asyncio.gather(*(e.close() for e in executors))
