# Generated from ../_async/handles.py by `make faces`. Change that instead.
"""A job just made: its id, and what can be done with it."""

from __future__ import annotations

from taskflow._jobs import calling_handler
from taskflow._jobs.core import outcome_or_raise
from taskflow._jobs.handles import Handle
from taskflow._values.jobs import JobInfo


class JobHandle(Handle):
    """The result of `new_job`."""

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
