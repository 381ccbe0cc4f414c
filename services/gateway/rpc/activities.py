"""Activities of a decision that are neither job nor run: a wait, which is a timer, and an action that cannot be carried
out. Both are steps of their run, and have resources and ids as other activities have."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from taskflow.v1 import workflows_pb2 as pb
from taskflow_server.core.workflow.builtin import WAIT
from taskflow_server.core.workflow.changes import activity_id
from taskflow_server.gateway.rpc import resource

_ID = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(task-[0-9]{1,6})")
_OUTCOME = {
    pb.STEP_STATE_SUCCEEDED: "succeeded",
    pb.STEP_STATE_FAILED: "failed",
    pb.STEP_STATE_CANCELLED: "canceled",
}


class Named(NamedTuple):
    run: str
    name: str  # of the step


def parse(id: str) -> Named | None:
    found = _ID.fullmatch(id)
    return Named(*found.groups()) if found else None


def shown(run: pb.Run, step: pb.RunStep) -> list[dict[str, Any]]:
    """The resource of a step that has made no job and no run; none before its row is written."""
    if step.kind != "decided" or step.state == pb.STEP_STATE_PENDING:
        return []
    if any(job.job_id or job.run_id for job in step.jobs):
        return []
    error = {"type": step.error.type, "message": step.error.message}
    more = json.loads(step.error.details) if step.error.details else {}
    kind, definition = more.pop("kind", "task"), more.pop("definition", WAIT)
    found: dict[str, Any] = {
        "resourceType": "AidboxWorkflow" if kind == "workflow" else "AidboxTask", "id": activity_id(run.id, step.name),
        "definition": definition, "status": "done" if step.state in _OUTCOME else "waiting",
        "requester": {"resourceType": "AidboxWorkflow", "id": run.id}, "retryCount": 0,
    }  # fmt: skip
    if step.state in _OUTCOME:
        found["outcome"] = _OUTCOME[step.state]
    if step.state == pb.STEP_STATE_FAILED:
        found["error"] = error | more
        found["outcomeReason"] = {"type": resource.UNKNOWN, "message": error["message"], "data": found["error"]}
    elif step.state != pb.STEP_STATE_CANCELLED:
        found["executeAt"] = resource.instant(step.due_time if step.HasField("due_time") else step.finish_time)
        found["params"] = {"until": found["executeAt"]}
    made = step.start_time if step.HasField("start_time") else run.create_time
    last = step.finish_time if step.HasField("finish_time") else made
    found["meta"] = resource.meta(made.ToMicroseconds(), last.ToMicroseconds())
    return [found]
