"""TaskFlow: hand jobs to a cluster, and run them.

>>> from taskflow import TaskFlow
>>> tf = TaskFlow("localhost:9003")
>>> job = tf.new_job("EmailQueue", {"to": "ada@example.org"}, retries=5)
>>> print(job.id, job.wait(timeout=10).result)
"""

from taskflow._client import AsyncTaskFlow, TaskFlow
from taskflow._handles import AsyncJobHandle, JobHandle
from taskflow._job import Job
from taskflow._options import Backoff, Constant, Exponential, JobOptions, NewJob
from taskflow._resources import (
    AttemptInfo,
    ErrorInfo,
    JobInfo,
    JobState,
    LogInfo,
    Outcome,
    ProgressInfo,
    QueueInfo,
    WorkerInfo,
)
from taskflow._tasks import AsyncTask, Task
from taskflow.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    Fail,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    JobCancelled,
    JobFailed,
    JobUnsuccessful,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Retry,
    Snooze,
    TaskFlowError,
    Unavailable,
)

__all__ = [
    "AlreadyExists",
    "AsyncJobHandle",
    "AsyncTask",
    "AsyncTaskFlow",
    "AttemptInfo",
    "Backoff",
    "Cancelled",
    "Constant",
    "DeadlineExceeded",
    "ErrorInfo",
    "Exponential",
    "Fail",
    "FailedPrecondition",
    "InternalError",
    "InvalidArgument",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobInfo",
    "JobOptions",
    "JobState",
    "JobUnsuccessful",
    "LogInfo",
    "NewJob",
    "NotFound",
    "Outcome",
    "PermissionDenied",
    "ProgressInfo",
    "QueueInfo",
    "ResourceExhausted",
    "Retry",
    "Snooze",
    "Task",
    "TaskFlow",
    "TaskFlowError",
    "Unavailable",
    "WorkerInfo",
]
