"""A job just made: its id, and what can be done with it."""

from __future__ import annotations

from taskflow._jobs import calling_handler
from taskflow._jobs.core import outcome_or_raise
from taskflow._jobs.handles import Handle
from taskflow._values.jobs import JobInfo


class AsyncJobHandle(Handle):
    """The result of `new_job`."""

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> JobInfo:
        """The finished job, with `.result`. JobFailed, JobCancelled; DeadlineExceeded after `timeout` seconds."""
        calling_handler.will_wait()
        return outcome_or_raise(await self._core.io.acall(lambda: self._core.wait_job(self.id, timeout)))

    async def get(self) -> JobInfo:
        """The job as it stands now."""
        return await self._core.io.acall(lambda: self._core.get_job(self.id))

    async def cancel(self, reason: str = "") -> JobInfo:
        """A waiting job is cancelled at once; a running one is asked to stop (`.cancelling`).

        FailedPrecondition, reason JOB_FINISHED, when it is final already.
        """
        return await self._core.io.acall(lambda: self._core.cancel_job(self.id, reason))

    async def retry(self) -> JobInfo:
        """Puts a finished job in its queue once more, with fresh tries. FailedPrecondition when it is not final."""
        return await self._core.io.acall(lambda: self._core.retry_job(self.id))
