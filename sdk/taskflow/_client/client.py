"""`TaskFlow`: the face for threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from taskflow._client.base import BaseClient
from taskflow._handlers.task import Task
from taskflow._jobs._sync.handles import JobHandle
from taskflow._jobs.batching import Created, SyncWaiter
from taskflow._jobs.specs import JobLike, numbered_chunks
from taskflow._messages.options import JobKeywords, JobOptions, Seconds, build_spec, options_of
from taskflow._resources._sync.alerts import Alerts
from taskflow._resources._sync.jobs_queues_workers import Jobs, Queues, Workers
from taskflow._resources._sync.namespaces import Namespaces
from taskflow._resources._sync.schedules import Schedules
from taskflow._resources._sync.tasks import Tasks
from taskflow._resources._sync.workflows import Workflows
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
from taskflow._worker.run import run_blocking

P = ParamSpec("P")
R = TypeVar("R")


class TaskFlow(BaseClient):
    """A cluster, for threads. Safe to share between them; one per process is enough.

    >>> tf = TaskFlow("localhost:9003")
    >>> job = tf.new_job("EmailQueue", {"to": "ada@example.org"}, retries=5)
    >>> job.wait(timeout=10).result
    """

    def __init__(self, scheduler: str | None = None, queue: str | None = None, *, timeout: float | None = None) -> None:
        super().__init__(scheduler, queue, timeout=timeout)
        self.jobs = Jobs(self._core)
        self.queues = Queues(self._core)
        self.workers = Workers(self._core)
        self.schedules = Schedules(self._core)
        self.tasks = Tasks(self._core)
        self.workflows = Workflows(self._core)
        self.namespaces = Namespaces(self._core)
        self.alerts = Alerts(self._core)

    def new_job(
        self,
        queue: str | None = None,
        payload: Any = None,
        *,
        options: JobOptions | None = None,
        **more: Unpack[JobKeywords],
    ) -> JobHandle:
        """Makes a job, and returns once it is on disk.

        `more`: the fields of JobOptions (`retries=`, `task=`, `priority=`, `delay=`, `run_at=`, `key=`, `timeout=`,
        `heartbeat_timeout=`, `backoff=`, `start_by=`, `sla=`, `metadata=`, `tags=`, `requester=`, `label=`), which go
        before those of `options`. With `task=`, what is left out of queue, retries, priority, timeout,
        heartbeat_timeout, backoff and sla is as the workers say that have the task. `warnings` of the handle says if
        nobody is there to run it.
        InvalidArgument names the field at fault; Unavailable when the cluster cannot be reached: the job was
        then not made, or may be, so that a repeat by the app wants a `key`.
        """
        importing.forbid("new_job")
        waiter = SyncWaiter(build_spec(queue, payload, options_of(more, options) if more else options))
        self._core.creator.put(waiter)
        return JobHandle(self._core, *waiter.wait())

    def new_jobs(self, jobs: Iterable[JobLike]) -> list[JobHandle]:
        """Makes many jobs: NewJob(queue, payload, …), (queue, payload), or {"queue": …, "payload": …, …}.

        They go in calls of up to 5,000 jobs, each all or nothing. InvalidArgument names the place, as in
        `jobs[3].retries`; jobs of earlier calls are then made already.
        """
        importing.forbid("new_jobs")
        handles: list[JobHandle] = []
        under_way: deque[Future[list[Created]]] = deque()
        core = self._core
        for first, specs in numbered_chunks(jobs):
            under_way.append(core.io.submit(partial(core.create_chunk, specs, first)))
            if len(under_way) > 1:
                handles.extend(JobHandle(core, *made) for made in under_way.popleft().result())
        for future in under_way:
            handles.extend(JobHandle(core, *made) for made in future.result())
        return handles

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
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
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
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
        """Registers a function as a task, under its own name or `name`. The function stays callable.

        `async def` runs on the event loop, `def` in a thread, and with `processes=N` either runs in one of N
        processes of its own, which its timeout can kill. The other options are those of its jobs.

        `declared`: fields of a named task (`title=`, `description=`, `active=`, `payload=`,
        `concurrency=`; `schedule=`, a cron expression, with `time_zone=` (UTC by default), `start=` and `end=`). With
        any of them, whenever `run` starts, the cluster's task of this name is made, or changed where it differs.
        """
        options = JobOptions(
            retries=retries, timeout=timeout, backoff=backoff, priority=priority, heartbeat_timeout=heartbeat_timeout,
            sla=sla,
        )  # fmt: skip

        def register(target: Callable[..., Any]) -> Task[..., Any]:
            task: Task[..., Any] = self._register(Task, target, name, queue, processes, options, declared)
            return task

        return register if function is None else register(function)

    def run(
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
        """Runs jobs until SIGTERM, SIGINT or `stop()`; then drains and returns.

        With `queue` and `handler`: the jobs of that queue that have no task. Without: those of every registered
        task, of `queues` only if any are named. `concurrency`: how many at once (async and thread handlers).
        Draining: running handlers get `grace` seconds, what is left is given back and uses no try. A second signal
        ends at once. `cancel_grace`: seconds that a cancelled process handler gets before it is killed.
        `start_timeout`: seconds that a process of a handler may take to import it. `prefetch`: seconds of work, by the
        recent run times, that the worker fetches beyond its free slots: at most 10 jobs for each slot, and 256. One
        that has not started after five times as long is returned. 0: none. `strict`: the process ends, with status 70,
        when a thread handler outlives the lease of a worker that was cut off. It also drains and ends when a handler
        goes on `strict_after` seconds after the end of its attempt (a thread cannot be ended at its timeout), or when
        such handlers take every slot. A supervisor must start it again. `signals`: False where the application answers
        signals itself, and calls `stop()`.
        """
        options = RunOptions(
            concurrency=concurrency, grace=grace, cancel_grace=cancel_grace, start_timeout=start_timeout,
            prefetch=prefetch, name=name, strict=strict, strict_after=strict_after, signals=signals,
        )
        run_blocking(self._core, self._run_options(queue, handler, processes, queues, options), self._running)

    def advance_clock(self, seconds: Seconds, *, step: Seconds = 5.0) -> datetime:
        """Moves the clock of a cluster started with `taskflow up --clock=manual`: for tests.

        Everything that the cluster times follows, in steps of `step` seconds: due times, retries, timeouts, leases, in
        workers too. Between steps there are 20 ms of real time for what became due. Steps over a third of the lease
        (15 s) carry the leases along. The new time. FailedPrecondition on a cluster whose clock is the real one.
        """
        return self._core.io.call(lambda: self._core.advance_clock(seconds, step))

    def close(self) -> None:
        """Closes the connections. Also done by `with`, and at the interpreter's exit."""
        self.stop()
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
