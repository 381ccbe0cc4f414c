"""`AsyncTaskFlow`: the face for coroutines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from taskflow._client.base import BaseClient
from taskflow._handlers.loop_tasks import kept_apart
from taskflow._handlers.task import AsyncTask
from taskflow._jobs._async.handles import AsyncJobHandle
from taskflow._jobs.batching import AsyncWaiter, Created
from taskflow._jobs.specs import JobLike, numbered_chunks
from taskflow._messages.options import JobKeywords, JobOptions, Seconds, build_spec, options_of
from taskflow._resources._async.alerts import AsyncAlerts
from taskflow._resources._async.jobs_queues_workers import AsyncJobs, AsyncQueues, AsyncWorkers
from taskflow._resources._async.namespaces import AsyncNamespaces
from taskflow._resources._async.schedules import AsyncSchedules
from taskflow._resources._async.tasks import AsyncTasks
from taskflow._resources._async.workflows import AsyncWorkflows
from taskflow._values.backoff import Backoff
from taskflow._worker import importing
from taskflow._worker.declared_tasks import DeclaredOptions
from taskflow._worker.options import (
    DEFAULT_CONCURRENCY,
    DEFAULT_GRACE,
    DEFAULT_PREFETCH,
    DEFAULT_START_TIMEOUT,
    DEFAULT_STRICT_AFTER,
    RunOptions,
)
from taskflow._worker.run import run_here

P = ParamSpec("P")
R = TypeVar("R")


class AsyncTaskFlow(BaseClient):
    """A cluster, for coroutines: the verbs of TaskFlow, to be awaited on any event loop.

    Calls of `new_job` made at the same time travel together.
    """

    def __init__(self, scheduler: str | None = None, queue: str | None = None, *, timeout: float | None = None) -> None:
        super().__init__(scheduler, queue, timeout=timeout)
        self.jobs = AsyncJobs(self._core)
        self.queues = AsyncQueues(self._core)
        self.workers = AsyncWorkers(self._core)
        self.schedules = AsyncSchedules(self._core)
        self.tasks = AsyncTasks(self._core)
        self.workflows = AsyncWorkflows(self._core)
        self.namespaces = AsyncNamespaces(self._core)
        self.alerts = AsyncAlerts(self._core)

    async def new_job(
        self,
        queue: str | None = None,
        payload: Any = None,
        *,
        options: JobOptions | None = None,
        **more: Unpack[JobKeywords],
    ) -> AsyncJobHandle:
        """As TaskFlow.new_job."""
        importing.forbid("new_job")
        waiter = AsyncWaiter(build_spec(queue, payload, options_of(more, options) if more else options))
        self._core.creator.put(waiter)
        return AsyncJobHandle(self._core, *await waiter.future)

    async def new_jobs(self, jobs: Iterable[JobLike]) -> list[AsyncJobHandle]:
        """As TaskFlow.new_jobs."""
        importing.forbid("new_jobs")
        handles: list[AsyncJobHandle] = []
        under_way: deque[asyncio.Future[list[Created]]] = deque()
        core = self._core
        for first, specs in numbered_chunks(jobs):
            under_way.append(asyncio.wrap_future(core.io.submit(partial(core.create_chunk, specs, first))))
            if len(under_way) > 1:
                handles.extend(AsyncJobHandle(core, *made) for made in await under_way.popleft())
        for future in under_way:
            handles.extend(AsyncJobHandle(core, *made) for made in await future)
        return handles

    @overload
    def task(self, function: Callable[P, R], /) -> AsyncTask[P, R]: ...
    @overload
    def task(
        self,
        *,
        queue: str = ...,
        name: str | None = ...,
        retries: int | None = ...,
        timeout: Seconds | None = ...,
        backoff: Backoff | None = ...,
        priority: int | str | None = ...,
        heartbeat_timeout: Seconds | None = ...,
        processes: int | None = ...,
        sla: Seconds | None = ...,
        **declared: Unpack[DeclaredOptions],
    ) -> Callable[[Callable[P, R]], AsyncTask[P, R]]: ...
    def task(
        self,
        function: Callable[..., Any] | None = None,
        *,
        queue: str = "default",
        name: str | None = None,
        retries: int | None = None,
        timeout: Seconds | None = None,
        backoff: Backoff | None = None,
        priority: int | str | None = None,
        heartbeat_timeout: Seconds | None = None,
        processes: int | None = None,
        sla: Seconds | None = None,
        **declared: Unpack[DeclaredOptions],
    ) -> Any:
        """As TaskFlow.task; the task's `new_job` is a coroutine."""
        options = JobOptions(
            retries=retries, timeout=timeout, backoff=backoff, priority=priority, heartbeat_timeout=heartbeat_timeout,
            sla=sla,
        )  # fmt: skip

        def register(target: Callable[..., Any]) -> AsyncTask[..., Any]:
            task: AsyncTask[..., Any] = self._register(AsyncTask, target, name, queue, processes, options, declared)
            return task

        return register if function is None else register(function)

    async def run(
        self,
        queue: str | None = None,
        handler: Callable[..., Any] | None = None,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        queues: Iterable[str] = (),
        processes: int | None = None,
        grace: float = DEFAULT_GRACE,
        cancel_grace: float = 10.0,
        start_timeout: float = DEFAULT_START_TIMEOUT,
        prefetch: float = DEFAULT_PREFETCH,
        name: str | None = None,
        strict: bool = False,
        strict_after: float = DEFAULT_STRICT_AFTER,
        signals: bool = True,
    ) -> None:
        """As TaskFlow.run, with async handlers on the caller's event loop."""
        options = RunOptions(
            concurrency=concurrency, grace=grace, cancel_grace=cancel_grace, start_timeout=start_timeout,
            prefetch=prefetch, name=name, strict=strict, strict_after=strict_after, signals=signals,
        )
        with kept_apart(asyncio.get_running_loop()):
            await run_here(self._core, self._run_options(queue, handler, processes, queues, options), self._running)

    async def advance_clock(self, seconds: Seconds, *, step: Seconds = 5.0) -> datetime:
        """As TaskFlow.advance_clock."""
        return await self._core.io.acall(lambda: self._core.advance_clock(seconds, step))

    async def close(self) -> None:
        """Closes the connections. Also done by `async with`, and at the interpreter's exit."""
        self.stop()
        await asyncio.to_thread(self._core.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()
