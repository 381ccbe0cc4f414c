"""Jobs of named tasks, for all that make some: RunTask, schedules, backfills and steps of workflows.

The one place that says what a task gives its jobs. The caller adds what it is asked for beside that; what is still open
then is left to the options of the task's handler (`defaults.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from taskflow.v1 import jobs_pb2 as pb
from taskflow_server.rpc.values import options_from_json

TASK_OF_JOB: Final = "taskflow.task"  # in a job's metadata, where its handler's name is not its task's

Payload = tuple[bytes, "pb.Encoding.ValueType"]


def job_of(row: Mapping[str, Any], given: Payload | None) -> pb.JobSpec:
    """A job of the task in `row`, or of the handler `target` where `task_id` is None: there is no such task.

    Without a `given` payload it has the task's. `task_id` counts the job under the task's limit, and among its logs.
    """
    payload, encoding = given or (row["task_payload"] or b"", row["task_encoding"] or pb.ENCODING_UNSPECIFIED)
    spec = pb.JobSpec(
        queue=row["queue"] or "", task=row["target"], priority=row["priority"], retries=row["retries"],
        payload=payload, encoding=encoding,
    )  # fmt: skip
    options = options_from_json(row["options"])
    if options is not None:
        spec.options.CopyFrom(options)
    if row["task_id"] is not None:
        spec.options.task_id, spec.options.limited = str(row["task_id"]), row["concurrency"] > 0
        if row["target"] != row["task_name"]:
            spec.options.metadata[TASK_OF_JOB] = row["task_name"]
    return spec
