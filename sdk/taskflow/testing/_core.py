"""The cluster that a client of `taskflow.testing` speaks to: the calls of `Core`, answered from memory, at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from datetime import UTC, timedelta
from typing import Any, TypeVar

from taskflow import errors
from taskflow._jobs.batching import Created, Creator, _settle_futures, _Waiter
from taskflow._jobs.core import Core
from taskflow._messages import ids
from taskflow._messages.filters import JobFilter
from taskflow._messages.jobs import attempt_info, job_info, queue_info
from taskflow._messages.options import check_name
from taskflow._policy import JobState
from taskflow._transport.io_thread import IoThread
from taskflow._values.jobs import AttemptInfo, JobInfo, LogInfo, QueueInfo, WorkerInfo
from taskflow.testing._handlers import AppHandlers
from taskflow.testing._jobs import LIST_BYTES, WORKER, MemoryJob
from taskflow.testing._specs import qualified
from taskflow.testing._store import MemoryJobs
from taskflow.v1 import jobs_pb2, queues_pb2

T = TypeVar("T")


class InlineIo(IoThread):
    """No thread: what is asked is answered where it is asked."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        raise errors.FailedPrecondition("in taskflow.testing there is nothing to connect to", reason="IN_MEMORY")

    def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        work = make()
        try:
            work.send(None)
        except StopIteration as done:
            result: T = done.value
            return result
        work.close()
        raise errors.FailedPrecondition(
            "an async handler that blocks for another job would hold up every other one; use AsyncTaskFlow, and"
            " await it",
            reason="IN_HANDLER",
        )

    async def acall(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return await make()

    def submit(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(self.call(make))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self, last: object = None, timeout: float = 0.0) -> None:
        """Nothing was opened."""


class MemoryCreator(Creator):
    """Makes each job at once."""

    def __init__(self, jobs: MemoryJobs) -> None:
        self._jobs = jobs

    def put(self, waiter: _Waiter) -> None:
        answer: Created | Exception
        try:
            answer = self._jobs.admit([waiter.spec])[0]
        except errors.InvalidArgument as error:
            bare = error.field.partition("].")[2]
            message = error.message.replace(error.field, bare, 1)
            answer = errors.InvalidArgument(message, field=bare, reason=error.reason)
        except errors.TaskFlowError as error:
            answer = error
        later: dict[Any, Any] = {}
        waiter.settle(answer, later)
        for settled in later.values():
            _settle_futures(settled)  # the submitter is on that loop


class MemoryCore(Core):
    """Takes the place of the `Core` of an app. `await_final` waits for a job, by the moved clock."""

    def __init__(
        self,
        instead_of: Core,
        jobs: MemoryJobs,
        handlers: AppHandlers,
        concurrency: int,
        await_final: Callable[[MemoryJob, float | None], Awaitable[None]],
    ) -> None:
        super().__init__(instead_of.scheduler, None, instead_of.timeout, jobs.clock)
        self.io = InlineIo()
        self._jobs = jobs
        self._handlers = handlers
        self._concurrency = concurrency
        self._await_final = await_final
        self._maker = MemoryCreator(jobs)

    @property
    def creator(self) -> Creator:
        return self._maker

    def close(self) -> None:
        """The cluster goes on: it belongs to the test."""

    def _find(self, job_id: str) -> MemoryJob:
        return self._jobs.find(ids.parse(job_id))

    async def create_chunk(self, specs: list[jobs_pb2.JobSpec], first: int) -> list[Created]:
        return self._jobs.admit(specs, first)

    async def get_job(self, job_id: str) -> JobInfo:
        return self._find(job_id).info

    async def wait_job(self, job_id: str, timeout: float | None) -> JobInfo:
        """Runs what is ready. The clock stands still: DeadlineExceeded at once for a job that waits for it."""
        job = self._find(job_id)
        if not job.final:
            await self._await_final(job, timeout)
        if not job.final:
            when = f", due in {(job.due - self.clock.now()).total_seconds():g} s" if job.due else ""
            raise errors.DeadlineExceeded(
                f"job {job.id} is {job.state}{when}, and the clock is stopped; move it with advance(seconds),"
                " then wait again",
                reason="NOT_FINISHED",
            )
        return job.info

    async def cancel_job(self, job_id: str, reason: str) -> JobInfo:
        return self._jobs.cancel(self._find(job_id), reason)

    async def retry_job(self, job_id: str) -> JobInfo:
        return self._jobs.retry(self._find(job_id))

    async def list_jobs(self, wanted: JobFilter, token: str) -> tuple[list[JobInfo], str]:
        newest_first = sorted(self._jobs.all(), key=lambda job: job.id, reverse=True)
        found = [job_info(job.message(LIST_BYTES)) for job in newest_first]
        return [job for job in found if wanted.matches(job)], ""

    async def list_attempts(self, job_id: str) -> list[AttemptInfo]:
        return [attempt_info(message) for message in self._find(job_id)._attempt_messages()]

    async def list_logs(self, job_id: str, page_size: int, token: str) -> tuple[list[LogInfo], str]:
        return list(self._find(job_id).logs), ""

    # -- queues and workers --------------------------------------------------------------------------------------

    async def get_queue(self, name: str) -> QueueInfo:
        name = qualified(check_name(name, "name"))
        if name not in self._jobs.queue_names():
            raise errors.NotFound(f"there is no queue {name!r}", reason="QUEUE_NOT_FOUND")
        return self._queue(name)

    async def list_queues(self, page_size: int, token: str) -> tuple[list[QueueInfo], str]:
        return [self._queue(name) for name in sorted(self._jobs.queue_names())], ""

    def _queue(self, name: str) -> QueueInfo:
        states = [job.present_state for job in self._jobs.all() if job.queue == name]
        space, _, bare = name.rpartition("/")
        return queue_info(
            queues_pb2.Queue(
                name=bare,
                namespace=space or "default",
                ready=states.count(JobState.READY),
                scheduled=states.count(JobState.SCHEDULED) + states.count(JobState.RETRYING),
                running=states.count(JobState.REQUESTED) + states.count(JobState.RUNNING),
                workers=1,
                finished=self._finished(name),
            )
        )

    def _finished(self, name: str) -> list[queues_pb2.OutcomeCount]:
        hour_ago = self.clock.now() - timedelta(hours=1)
        over = (job.message() for job in self._jobs.all() if job.queue == name and job.final)
        counts = Counter(m.last_outcome for m in over if m.finish_time.ToDatetime(tzinfo=UTC) >= hour_ago)
        return [queues_pb2.OutcomeCount(outcome=outcome, count=n) for outcome, n in sorted(counts.items())]

    async def list_workers(self, page_size: int, token: str) -> tuple[list[WorkerInfo], str]:
        jobs = self._jobs.all()
        return [
            WorkerInfo(
                id=WORKER,
                name=WORKER,
                host="",
                pid=0,
                queues=tuple(sorted(self._handlers.of_queue)),
                tasks=tuple(self._handlers.tasks()),
                concurrency=self._concurrency,
                running=sum(job.under_way is not None for job in jobs),
                requested=0,
                start_time=None,
                coordinator="",
                sdk="",
                draining=False,
            )
        ], ""
