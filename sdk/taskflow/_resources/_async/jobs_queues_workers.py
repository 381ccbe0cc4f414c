"""`tf.jobs`, `tf.queues`, `tf.workers`: what is there, and what can be done with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Unpack

from taskflow._jobs import calling_handler
from taskflow._jobs.core import Core
from taskflow._messages.filters import PAGE_SIZE, JobFilter, JobFilters
from taskflow._resources.pages import aeach
from taskflow._values.jobs import AttemptInfo, JobInfo, LogInfo, QueueInfo, WorkerInfo


class AsyncJobs:
    """`tf.jobs`"""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._call = core.io.acall

    async def get(self, id: str) -> JobInfo:
        """NotFound when there is no job of that id."""
        return await self._call(lambda: self._core.get_job(id))

    def list(self, **filters: Unpack[JobFilters]) -> AsyncIterator[JobInfo]:
        """Newest first, read page by page while iterating; narrowed by `queue`, `task`, `states`, `tags`, `metadata`,
        `error`, `created_after`, `created_before`, and of what runs by `worker` and `running_longer_than`. Payloads and
        results over 1 KiB are left out. Final jobs are those of the last 7 days, unless `created_after` says
        otherwise. InvalidArgument names the field at fault.
        """
        wanted = JobFilter.of(filters)
        return aeach(self._call, lambda token: self._core.list_jobs(wanted, token))

    async def wait(self, id: str, timeout: float | None = None) -> JobInfo:
        """The job once it is final, whatever its state. DeadlineExceeded after `timeout` seconds."""
        calling_handler.will_wait()
        return await self._call(lambda: self._core.wait_job(id, timeout))

    async def cancel(self, id: str, reason: str = "") -> JobInfo:
        """As JobHandle.cancel."""
        return await self._call(lambda: self._core.cancel_job(id, reason))

    async def retry(self, id: str) -> JobInfo:
        """As JobHandle.retry."""
        return await self._call(lambda: self._core.retry_job(id))

    async def attempts(self, id: str) -> Sequence[AttemptInfo]:
        """Its tries, in order."""
        return await self._call(lambda: self._core.list_attempts(id))

    def logs(self, id: str, *, page_size: int = PAGE_SIZE) -> AsyncIterator[LogInfo]:
        """Its log, oldest first."""
        return aeach(self._call, lambda token: self._core.list_logs(id, page_size, token))


class AsyncQueues:
    """`tf.queues`"""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._call = core.io.acall

    async def get(self, name: str) -> QueueInfo:
        """NotFound when there is no such queue; never for an empty one."""
        return await self._call(lambda: self._core.get_queue(name))

    async def pause(self, name: str) -> QueueInfo:
        """Nothing more of it is handed out until `resume`; what runs goes on. NotFound when there is none."""
        return await self._call(lambda: self._core.pause_queue(name))

    async def drain(self, name: str) -> QueueInfo:
        """It accepts no new jobs until `resume`; those that wait or run, and their retries, go on until it is empty.

        NotFound when there is none. Submitting to it raises FailedPrecondition, with the reason QUEUE_DRAINING.
        """
        return await self._call(lambda: self._core.drain_queue(name))

    async def resume(self, name: str) -> QueueInfo:
        """Takes `pause` and `drain` back."""
        return await self._call(lambda: self._core.resume_queue(name))

    def list(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[QueueInfo]:
        """By name."""
        return aeach(self._call, lambda token: self._core.list_queues(page_size, token))


class AsyncWorkers:
    """`tf.workers`"""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._call = core.io.acall

    def list(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[WorkerInfo]:
        """The live ones."""
        return aeach(self._call, lambda token: self._core.list_workers(page_size, token))
