"""A job as the executor protocol shows it: a task resource (R9)."""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from taskflow._policy import RUN_OF_JOB
from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.queue_pb2 import Assignment, LaneTasks
from taskflow_server.core.ids import show, unix_ms_of
from taskflow_server.gateway.rpc.formats import from_json

ACTOR = "executor API"  # in the time line of a job
GIVEN_ID = "taskflow.id"  # in a job's metadata: the id that its maker gave it, which is not the job's own

DECISION_TASK = "awf.workflow/decision-task"
DECISIONS = "awf.workflow.decision"  # the namespace of the tasks that decisions are jobs of, or before it

STATUS = {
    pb.JOB_STATE_SCHEDULED: "waiting",
    pb.JOB_STATE_RETRYING: "waiting",
    pb.JOB_STATE_READY: "ready",
    pb.JOB_STATE_REQUESTED: "requested",
    pb.JOB_STATE_RUNNING: "in-progress",
    pb.JOB_STATE_SUCCEEDED: "done",
    pb.JOB_STATE_FAILED: "done",
    pb.JOB_STATE_CANCELLED: "done",
}
OUTCOME = {
    pb.JOB_STATE_SUCCEEDED: "succeeded",
    pb.JOB_STATE_FAILED: "failed",
    pb.JOB_STATE_CANCELLED: "canceled",
}
_HANDED_OUT = (pb.JOB_STATE_REQUESTED, pb.JOB_STATE_RUNNING)
_SILENT = (pb.OUTCOME_LOST, pb.OUTCOME_TIMED_OUT)
BY_EXECUTOR = "awf.task/failed-by-executor"
BY_TIMEOUT = "awf.task/failed-due-to-in-progress-timeout"
UNKNOWN = "awf.executor/unknown-error"


def of_job(job: pb.Job, *, listed: bool = False) -> dict[str, Any]:
    """`listed`: as a list has it, which leaves large payloads and results out."""
    found = _of(job.id, job.task, job.options, job.payload, job.encoding)
    found["status"] = STATUS[job.state]
    if job.state in OUTCOME:
        found["outcome"] = OUTCOME[job.state]
    if job.state == pb.JOB_STATE_FAILED:
        found["outcomeReason"] = _reason(job)
    if job.exec_id and (job.state in _HANDED_OUT or job.state in OUTCOME):
        found["execId"] = job.exec_id
    found["retryCount"] = job.attempt - (job.state in _HANDED_OUT)
    found["executeAt"] = instant(job.run_time if job.HasField("run_time") else job.create_time)
    empty = job.result_encoding in (pb.ENCODING_TEXT, pb.ENCODING_BYTES) and not listed  # "", and no JSON
    if job.state == pb.JOB_STATE_SUCCEEDED and (job.result or empty):
        found["result"] = value(job.result, job.result_encoding)
    if listed and not job.payload:
        found.pop("params", None)
    if job.HasField("error") and job.state != pb.JOB_STATE_CANCELLED:
        found["error"] = error_of(job.error)
    last = max(t.ToMicroseconds() for t in (job.create_time, job.start_time, job.finish_time))
    found["meta"] = meta(job.create_time.ToMicroseconds(), last)
    ours: dict[str, Any] = {
        "id": job.id, "namespace": job.namespace, "queue": job.queue, "state": pb.JobState.Name(job.state)[10:].lower(),
        "priority": job.priority, "retries": job.retries, "attempt": job.attempt,
    }  # fmt: skip
    if job.worker:
        ours["executor"] = job.worker
    if job.cancelling:
        ours["cancelling"] = True
    if job.HasField("progress"):
        ours["progress"] = progress(job.progress)
    found["taskflow"] = ours
    return found


def of_assignment(lane: LaneTasks, task: Assignment, now_us: int) -> dict[str, Any]:
    """A task handed out at `now_us`. Its creation is to the millisecond: that is in its id."""
    found = _of(show(task.job_id), lane.task, task.options, task.payload, task.encoding)
    found |= {"status": "requested", "execId": show(task.exec_id), "retryCount": task.attempt - 1}
    made = unix_ms_of(task.job_id) * 1000
    found["executeAt"] = instant_of(task.due_us or made)
    found["meta"] = meta(made, max(made, now_us))
    found["taskflow"] = {
        "id": show(task.job_id), "queue": lane.queue, "state": "requested", "priority": lane.priority,
        "retries": task.retries, "attempt": task.attempt,
    }  # fmt: skip
    return found


def _of(id: str, task: str, options: pb.JobOptions, payload: bytes, encoding: int) -> dict[str, Any]:
    found: dict[str, Any] = {"resourceType": "AidboxTask", "id": options.metadata.get(GIVEN_ID, id)}
    if task:
        found["definition"] = definition_of(task)
    if found.get("definition") == DECISION_TASK:
        space, _, name = task.rpartition("/")
        found["workflow-definition"] = f"{space[len(DECISIONS) + 1 :]}/{name}".removeprefix("/")
    found["params"] = value(payload, encoding) if payload else {}
    if options.label:
        found["label"] = options.label
    if RUN_OF_JOB in options.metadata:
        found["requester"] = {"resourceType": "AidboxWorkflow", "id": options.metadata[RUN_OF_JOB]}
    elif options.requester:
        found["requester"] = from_json(options.requester)
    return found


def definition_of(task: str) -> str:
    """The definition of a task by this name: all decisions share one."""
    space = task.rpartition("/")[0]
    return DECISION_TASK if space == DECISIONS or space.startswith(f"{DECISIONS}.") else task


def meta(created_us: int, updated_us: int) -> dict[str, Any]:
    return {"createdAt": instant_of(created_us), "lastUpdated": instant_of(updated_us), "versionId": str(updated_us)}


def value(data: bytes, encoding: int) -> Any:
    """JSON as it is, text as text, bytes in base 64."""
    if encoding == pb.ENCODING_TEXT:
        return data.decode()
    if encoding == pb.ENCODING_BYTES:
        return base64.b64encode(data).decode()
    return from_json(data) if data else None


def error_of(error: pb.Error) -> Any:
    """The error as an executor gave it, any JSON; else in TaskFlow's form."""
    try:
        given = from_json(error.details) if error.details else None
    except (ValueError, RecursionError):
        given = None
    return {"type": error.type, "message": error.message} if given is None else given


def _reason(job: pb.Job) -> dict[str, Any]:
    if job.last_outcome in _SILENT:
        return {"type": BY_TIMEOUT, "message": job.error.message or "Failed due to in-progress timeout"}
    if job.error.type == "never_started":
        return {"type": UNKNOWN, "message": job.error.message}
    return {"type": BY_EXECUTOR, "message": job.error.message or "Failed by executor", "data": error_of(job.error)}


def progress(told: pb.Progress) -> dict[str, Any]:
    found: dict[str, Any] = {"progress-current": _plain(told.current)}
    if told.total:
        found["progress-total"] = _plain(told.total)
    if told.unit:
        found["progress-unit"] = told.unit
    return found


def _plain(number: float) -> float | int:
    """3 instead of 3.0: a client counts in whole numbers."""
    return int(number) if number.is_integer() else number


def instant(at: Timestamp) -> str:
    return instant_of(at.ToMicroseconds())


def instant_of(microseconds: int) -> str:
    at = Timestamp()
    at.FromMicroseconds(microseconds)
    return at.ToJsonString()
