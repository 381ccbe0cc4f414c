"""TaskFlow: hand jobs to a cluster, and run them.

>>> from taskflow import TaskFlow
>>> tf = TaskFlow("localhost:9003")
>>> job = tf.new_job("EmailQueue", {"to": "ada@example.org"}, retries=5)
>>> print(job.id, job.wait(timeout=10).result)

Each name is imported when it is first used: the command line answers `--help`, and a Ctrl-C in its first moments,
without having loaded gRPC.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskflow._process.grpc_environment import prepare as _prepare_grpc

_prepare_grpc()

if TYPE_CHECKING:
    from taskflow._client.async_client import AsyncTaskFlow
    from taskflow._client.client import TaskFlow
    from taskflow._go_aliases import CreateJobRequest, NewServer, RunConfigurations, Server
    from taskflow._handlers.job import Caller, Job
    from taskflow._handlers.task import AsyncTask, Task
    from taskflow._jobs._async.handles import AsyncJobHandle
    from taskflow._jobs._sync.handles import JobHandle
    from taskflow._messages.options import JobOptions, NewJob
    from taskflow._policy import JobState
    from taskflow._values.alerts import AlertEvent, AlertKind, AlertRuleInfo
    from taskflow._values.backoff import Backoff, Constant, Exponential
    from taskflow._values.jobs import (
        AttemptInfo,
        ErrorInfo,
        JobInfo,
        JobWarning,
        LogInfo,
        Outcome,
        ProgressInfo,
        QueueInfo,
        WorkerInfo,
    )
    from taskflow._values.namespaces import NamespaceInfo, Quotas
    from taskflow._values.schedules import BackfillInfo, FiringInfo, FiringState, Misfire, Overlap, ScheduleInfo
    from taskflow._values.tasks import TaskInfo, TaskLogInfo, TaskLogs
    from taskflow._values.workflows import RunInfo, RunJobInfo, RunState, StepInfo, StepState, WorkflowInfo
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
        QuotaExceeded,
        ResourceExhausted,
        Retry,
        RunCancelled,
        RunFailed,
        RunUnsuccessful,
        Snooze,
        StaleAttempt,
        TaskFlowError,
        Unavailable,
    )

__all__ = [
    "AlertEvent",
    "AlertKind",
    "AlertRuleInfo",
    "AlreadyExists",
    "AsyncJobHandle",
    "AsyncTask",
    "AsyncTaskFlow",
    "AttemptInfo",
    "BackfillInfo",
    "Backoff",
    "Caller",
    "Cancelled",
    "Constant",
    "CreateJobRequest",
    "DeadlineExceeded",
    "ErrorInfo",
    "Exponential",
    "Fail",
    "FailedPrecondition",
    "FiringInfo",
    "FiringState",
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
    "JobWarning",
    "LogInfo",
    "Misfire",
    "NamespaceInfo",
    "NewJob",
    "NewServer",
    "NotFound",
    "Outcome",
    "Overlap",
    "PermissionDenied",
    "ProgressInfo",
    "QueueInfo",
    "QuotaExceeded",
    "Quotas",
    "ResourceExhausted",
    "Retry",
    "RunCancelled",
    "RunConfigurations",
    "RunFailed",
    "RunInfo",
    "RunJobInfo",
    "RunState",
    "RunUnsuccessful",
    "ScheduleInfo",
    "Server",
    "Snooze",
    "StaleAttempt",
    "StepInfo",
    "StepState",
    "Task",
    "TaskFlow",
    "TaskFlowError",
    "TaskInfo",
    "TaskLogInfo",
    "TaskLogs",
    "Unavailable",
    "WorkerInfo",
    "WorkflowInfo",
]

_MODULES = {
    "taskflow._client.async_client": "AsyncTaskFlow",
    "taskflow._client.client": "TaskFlow",
    "taskflow._go_aliases": "CreateJobRequest NewServer RunConfigurations Server",
    "taskflow._handlers.job": "Caller Job",
    "taskflow._handlers.task": "AsyncTask Task",
    "taskflow._jobs._async.handles": "AsyncJobHandle",
    "taskflow._jobs._sync.handles": "JobHandle",
    "taskflow._messages.options": "JobOptions NewJob",
    "taskflow._policy": "JobState",
    "taskflow._values.alerts": "AlertEvent AlertKind AlertRuleInfo",
    "taskflow._values.backoff": "Backoff Constant Exponential",
    "taskflow._values.jobs": (
        "AttemptInfo ErrorInfo JobInfo JobWarning LogInfo Outcome ProgressInfo QueueInfo WorkerInfo"
    ),
    "taskflow._values.namespaces": "NamespaceInfo Quotas",
    "taskflow._values.schedules": "BackfillInfo FiringInfo FiringState Misfire Overlap ScheduleInfo",
    "taskflow._values.tasks": "TaskInfo TaskLogInfo TaskLogs",
    "taskflow._values.workflows": "RunInfo RunJobInfo RunState StepInfo StepState WorkflowInfo",
    "taskflow.errors": (
        "AlreadyExists Cancelled DeadlineExceeded Fail FailedPrecondition InternalError InvalidArgument "
        "JobCancelled JobFailed JobUnsuccessful NotFound PermissionDenied QuotaExceeded ResourceExhausted Retry "
        "RunCancelled RunFailed RunUnsuccessful Snooze StaleAttempt "
        "TaskFlowError Unavailable"
    ),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "testing" or _HOMES.get(name, "taskflow.errors") != "taskflow.errors":
        import_module("taskflow._process.subinterpreters").refuse()  # before gRPC is loaded
    if name in ("errors", "testing"):
        value: Any = import_module(f"taskflow.{name}")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
