"""A job just made: its id, and what can be done with it."""

from __future__ import annotations

from taskflow._jobs import calling_handler
from taskflow._jobs.core import Core, outcome_or_raise
from taskflow._messages import ids
from taskflow._values.jobs import JobInfo, JobWarning


class _Handle:
    __slots__ = ("_core", "_id", "existing", "warnings")

    def __init__(
        self, core: Core, job_id: bytes, existing: bool = False, warnings: tuple[JobWarning, ...] = ()
    ) -> None:
        self._core = core
        self._id = job_id
        self.existing = existing
        """Whether its idempotency key named a job that was there already."""
        self.warnings = warnings
        """That nobody was there to run it when it was made: a misspelt queue or task, or no worker yet."""

    @property
    def id(self) -> str:
        return ids.show(self._id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"


class JobHandle(_Handle):
    """The result of `TaskFlow.new_job`."""

    __slots__ = ()

    def wait(self, timeout: float | None = None) -> JobInfo:
        """The finished job, with `.result`. JobFailed, JobCancelled; DeadlineExceeded after `timeout` seconds."""
        calling_handler.will_wait()
        return outcome_or_raise(self._core.io.call(lambda: self._core.wait_job(self.id, timeout)))

    def get(self) -> JobInfo:
        """The job as it stands now."""
        return self._core.io.call(lambda: self._core.get_job(self.id))

    def cancel(self, reason: str = "") -> JobInfo:
        """A waiting job is cancelled at once; a running one is asked to stop (`.cancelling`).

        FailedPrecondition, reason JOB_FINISHED, when it is final already.
        """
        return self._core.io.call(lambda: self._core.cancel_job(self.id, reason))

    def retry(self) -> JobInfo:
        """Puts a finished job in its queue once more, with fresh tries. FailedPrecondition when it is not final."""
        return self._core.io.call(lambda: self._core.retry_job(self.id))


class AsyncJobHandle(_Handle):
    """The result of `AsyncTaskFlow.new_job`: the verbs of JobHandle as coroutines."""

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> JobInfo:
        """As JobHandle.wait."""
        calling_handler.will_wait()
        return outcome_or_raise(await self._core.io.acall(lambda: self._core.wait_job(self.id, timeout)))

    async def get(self) -> JobInfo:
        """As JobHandle.get."""
        return await self._core.io.acall(lambda: self._core.get_job(self.id))

    async def cancel(self, reason: str = "") -> JobInfo:
        """As JobHandle.cancel."""
        return await self._core.io.acall(lambda: self._core.cancel_job(self.id, reason))

    async def retry(self) -> JobInfo:
        """As JobHandle.retry."""
        return await self._core.io.acall(lambda: self._core.retry_job(self.id))
