"""Everything that TaskFlow raises, as one small tree.

    TaskFlowError
    ├── InvalidArgument      an argument is wrong; `.field` says which (also a ValueError)
    ├── NotFound             there is no job or queue of that name
    ├── AlreadyExists        the id belongs to another job
    ├── FailedPrecondition   not possible in the present state, e.g. cancelling a finished job
    │   └── StaleAttempt     what `job.fenced` raises in an attempt that is not its job's present one
    ├── PermissionDenied     the caller may not do this
    ├── Unavailable          the cluster cannot be reached now; the same call may be made again
    ├── DeadlineExceeded     no answer in time (also a TimeoutError)
    ├── ResourceExhausted    over a limit of size or number
    │   └── QuotaExceeded    over a quota of a namespace; `.quota`, `.used` and `.limit` say which and by how much
    ├── InternalError        a fault of the server's own
    ├── JobUnsuccessful      what `wait` raises; `.job` is the job
    │   ├── JobFailed
    │   └── JobCancelled
    └── RunUnsuccessful      what `workflows.wait` raises; `.run` is the run
        ├── RunFailed
        └── RunCancelled

The exceptions by which a handler decides its attempt's outcome are not errors and are separate:
Retry, Fail, Snooze, Cancelled.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taskflow._values.jobs import JobInfo
    from taskflow._values.workflows import RunInfo


def _rebuilt(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error: BaseException = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


def _reduce(error: BaseException) -> tuple[Any, ...]:
    """For pickle and copy: by its state. Exception's own way calls `__init__` with `args`, which most classes here, and
    subclasses with an `__init__` of their own, cannot take; a process pool then hangs on the error it should raise."""
    return _rebuilt, (type(error), error.args, error.__dict__.copy())


class TaskFlowError(Exception):
    """Base of the tree. `reason` is a stable word for programs, '' where there is none."""

    __reduce__ = _reduce

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


class InvalidArgument(TaskFlowError, ValueError):
    """An argument is wrong. `field` names it, as in `retries` or `jobs[3].payload`. `problems` are all that were found,
    each a path and what is wrong there, where an argument is a whole document."""

    def __init__(
        self, message: str, *, field: str = "", reason: str = "", problems: Sequence[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message, reason=reason)
        self.field = field
        self.problems = problems


class NotFound(TaskFlowError):
    """There is nothing of that id or name."""


class AlreadyExists(TaskFlowError):
    """The id or name belongs to something else."""


class FailedPrecondition(TaskFlowError):
    """Not possible in the present state; `reason` says why, e.g. JOB_FINISHED."""


class StaleAttempt(FailedPrecondition):
    """The attempt is not its job's present one: it was declared lost, has timed out, or was replaced. Its outcome does
    not count, and its transaction is not committed. `reason` is STALE_EXEC_ID."""

    def __init__(self, message: str, *, reason: str = "STALE_EXEC_ID") -> None:
        super().__init__(message, reason=reason)


class PermissionDenied(TaskFlowError):
    """The caller is not known, or may not do this."""


class Unavailable(TaskFlowError):
    """The cluster cannot be reached now. Nothing was done, or the same call may be made again."""


class DeadlineExceeded(TaskFlowError, TimeoutError):
    """No answer in time. The request may still take effect."""


class ResourceExhausted(TaskFlowError):
    """Over a limit of size or number."""


class QuotaExceeded(ResourceExhausted):
    """Over a quota of `namespace`: nothing of the call was stored. `quota` is a field of Quotas, `used` how much of it
    is used (of a payload: its size) and `limit` what is allowed. `retry_after`: seconds after which the same call may
    succeed; None where time does not help. `reason`: QUOTA_TASKS, QUOTA_WAITING_JOBS or QUOTA_PAYLOAD_BYTES."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        namespace: str = "",
        quota: str = "",
        used: int = 0,
        limit: int = 0,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, reason=reason)
        self.namespace = namespace
        self.quota = quota
        self.used = used
        self.limit = limit
        self.retry_after = retry_after


class InternalError(TaskFlowError):
    """A fault of the server's own; its log has the details."""


class JobUnsuccessful(TaskFlowError):
    """A job that was waited for ended without a result. `job` is its last state."""

    def __init__(self, message: str, job: JobInfo) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobUnsuccessful):
    """Its last try failed, timed out or was lost. `job.error` has type, message and traceback."""


class JobCancelled(JobUnsuccessful):
    """It was cancelled, or not started before its `start_by`."""


class RunUnsuccessful(TaskFlowError):
    """A run of a workflow that was waited for ended without success. `run` is its last state."""

    def __init__(self, message: str, run: RunInfo) -> None:
        super().__init__(message)
        self.run = run


class RunFailed(RunUnsuccessful):
    """A step's failure was not handled, or an executor ended it so. `run.error` says why."""


class RunCancelled(RunUnsuccessful):
    """It was cancelled."""


class Signal(Exception):
    """Base of the exceptions with which a handler decides the outcome of its attempt."""

    __reduce__ = _reduce


class Retry(Signal):
    """The attempt failed; try again after `delay` (seconds), or by the job's backoff. Uses a try."""

    delay: float | None = None  # of a subclass that does not call this __init__: the job's backoff

    def __init__(self, message: str = "the handler asked for another try", *, delay: float | timedelta | None = None):
        super().__init__(message)
        self.delay = _seconds(delay)


class Fail(Signal):
    """The job has failed, and no retry can help."""

    def __init__(self, message: str = "the handler gave up") -> None:
        super().__init__(message)


class Snooze(Signal):
    """Not now: run the job again after `delay` (seconds). Uses no try."""

    def __init__(self, delay: float | timedelta) -> None:
        super().__init__(f"snoozed for {delay} s")
        self.delay: float = _seconds(delay) or 0.0


class Cancelled(Signal):
    """The handler has noticed `job.cancelled`, or wishes the job cancelled itself."""

    def __init__(self, message: str = "the handler stopped") -> None:
        super().__init__(message)


def _seconds(delay: object) -> float | None:
    """A delay in seconds; InvalidArgument for anything that is not one."""
    if delay is None:
        return None
    given = delay.total_seconds() if isinstance(delay, timedelta) else delay
    try:
        seconds = -1.0 if isinstance(given, (str, bytes)) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < 10 * 365 * 86_400:
        raise InvalidArgument(f"delay: {given} is not a number of seconds from 0 to ten years", field="delay")
    return seconds
