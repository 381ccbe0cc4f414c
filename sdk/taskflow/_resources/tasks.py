"""`tf.tasks`: named tasks on the cluster, to be run by name, on demand or by their own schedule."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from taskflow._jobs.core import Core, outcome_or_raise
from taskflow._messages import checks, ids, payloads
from taskflow._messages.jobs import error_of, job_info
from taskflow._messages.options import Seconds, _with_zone, requester_bytes, stamp_of
from taskflow._messages.options import seconds as in_seconds
from taskflow._messages.tasks import TaskOptions, _message, task_info
from taskflow._transport.clock import SYSTEM
from taskflow._values.jobs import JobInfo
from taskflow._values.tasks import TaskInfo, TaskLogInfo, TaskLogs
from taskflow.errors import DeadlineExceeded, InvalidArgument
from taskflow.v1 import tasks_pb2 as pb

RESULT_SECONDS = 60.0

Requester = Mapping[str, Any] | None


class Calls:
    """Each call once, for both faces."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def create(self, name: str, require_handler: bool, given: TaskOptions) -> TaskInfo:
        t = self._core.transport
        message, _ = _message(given)
        message.name = checks.text(name, "name")
        request = pb.CreateTaskRequest(
            task=message,
            inactive=not given.get("active", True),
            require_handler=checks.flag(require_handler, "require_handler"),
        )
        answer = await t.call(t.tasks.CreateTask, request)
        return task_info(answer.task, answer.warnings)

    async def get(self, name: str) -> TaskInfo:
        t = self._core.transport
        return task_info(await t.call(t.tasks.GetTask, pb.GetTaskRequest(task=checks.text(name, "name"))))

    async def page(self, page_size: int, token: str) -> tuple[list[TaskInfo], str]:
        t = self._core.transport
        request = pb.ListTasksRequest(page_size=checks.page_size(page_size), page_token=token)
        page = await t.call(t.tasks.ListTasks, request)
        return [task_info(message) for message in page.tasks], page.next_page_token

    async def update(self, task: str, name: str | None, given: TaskOptions) -> TaskInfo:
        t = self._core.transport
        message, paths = _message(given)
        if name is not None:
            message.name = checks.text(name, "name")
            paths.append("name")
        request = pb.UpdateTaskRequest(task=checks.text(task, "task"), changes=message)
        request.update_mask.paths.extend(paths)
        return task_info(await t.call(t.tasks.UpdateTask, request))

    async def remove(self, name: str) -> None:
        t = self._core.transport
        await t.call(t.tasks.DeleteTask, pb.DeleteTaskRequest(task=checks.text(name, "name")))

    async def run(
        self, name: str, payload: Any, requester: Requester, run_at: datetime | None, priority: int | str | None
    ) -> JobInfo:
        t = self._core.transport
        request = pb.RunTaskRequest(task=checks.text(name, "name"), job_id=ids.new_id())
        if payload is not None:
            request.payload, request.encoding = payloads.encode(payload)  # type: ignore[assignment]
        if requester is not None:
            request.requester = requester_bytes(requester)
        if run_at is not None:
            request.run_at.CopyFrom(stamp_of(_with_zone(run_at, "run_at"), "run_at"))
        if priority is not None:
            request.priority = checks.priority(priority)
        return job_info(await t.call(t.tasks.RunTask, request))

    async def run_with_result(self, name: str, payload: Any, timeout: Seconds, requester: Requester) -> Any:
        patience = in_seconds(timeout, "timeout")
        deadline = SYSTEM.monotonic() + patience
        job = await self.run(name, payload, requester, None, None)
        if not job.state.final:
            job = await self._core.waits.job(job.id, max(deadline - SYSTEM.monotonic(), 0.0))
        if not job.state.final:
            raise DeadlineExceeded(
                f"job {job.id} of task {name} is {job.state} after {patience:g} s; it goes on, ask for it later",
                reason="NOT_FINISHED",
            )
        return outcome_or_raise(job).result

    async def logs(self, name: str, limit: int, type: str) -> TaskLogs:
        t = self._core.transport
        request = pb.ListTaskLogsRequest(
            task=checks.text(name, "name"), limit=checks.page_size(limit, "limit"), type=checks.text(type, "type")
        )
        answer = await t.call(t.tasks.ListTaskLogs, request)
        logs = [
            TaskLogInfo(
                log.job_id,
                log.task,
                log.type,
                log.time.ToDatetime(tzinfo=UTC),
                payloads.decode(log.result, log.encoding) if log.type.endswith("completed") else None,
                error_of(log),
                log.task_id,
                log.trigger,
                log.start_time.ToDatetime(tzinfo=UTC) if log.HasField("start_time") else None,
            )
            for log in answer.logs
        ]
        return TaskLogs(answer.count, logs)


def _id_of(id: str | None) -> str:
    return "" if id is None else checks.text(id, "id")


def _type_of(where: Mapping[str, str] | None) -> str:
    given = checks.pairs(where, "where")
    for name in given:
        if name != "type":
            raise InvalidArgument(f"where: {name!r} is not a field of it; type is, completed or failed", field="where")
    return given.get("type", "")
