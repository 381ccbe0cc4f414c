"""`tf.tasks`: named tasks on the cluster, to be run by name, on demand or by their own schedule."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Unpack, overload

from taskflow._jobs.core import Core, outcome_or_raise
from taskflow._messages import checks, ids, payloads
from taskflow._messages.filters import PAGE_SIZE
from taskflow._messages.jobs import error_of, job_info
from taskflow._messages.options import Seconds, _with_zone, requester_bytes, stamp_of
from taskflow._messages.options import seconds as in_seconds
from taskflow._messages.tasks import TaskOptions, _message, task_info
from taskflow._resources.jobs_queues_workers import _aeach, _each
from taskflow._transport.clock import SYSTEM
from taskflow._values.jobs import JobInfo
from taskflow._values.tasks import TaskInfo, TaskLogInfo, TaskLogs
from taskflow.errors import DeadlineExceeded, InvalidArgument
from taskflow.v1 import tasks_pb2 as pb

RESULT_SECONDS = 60.0

Requester = Mapping[str, Any] | None


class _Calls:
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


class Tasks:
    """`tf.tasks`. A task is meant by its name or by its id."""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.call

    def create(self, name: str, *, require_handler: bool = False, **options: Unpack[TaskOptions]) -> TaskInfo:
        """AlreadyExists for a name that is taken; InvalidArgument names the field at fault; QuotaExceeded when its
        namespace has all the tasks that it may have. With `require_handler`, FailedPrecondition where no worker has
        registered its handler."""
        return self._call(lambda: self._calls.create(name, require_handler, options))

    @overload
    def get(self) -> builtins.list[TaskInfo]: ...
    @overload
    def get(self, name: str) -> TaskInfo: ...
    def get(self, name: str | None = None) -> TaskInfo | builtins.list[TaskInfo]:
        """The task of that name or id, NotFound when there is none; without a name all tasks, as a list."""
        if name is None:
            return [*self.list()]
        return self._call(lambda: self._calls.get(name))

    def list(self, *, page_size: int = PAGE_SIZE) -> Iterator[TaskInfo]:
        """By name."""
        return _each(self._call, lambda token: self._calls.page(page_size, token))

    def update(self, task: str, *, name: str | None = None, **options: Unpack[TaskOptions]) -> TaskInfo:
        """Changes what is given. `schedule=""` takes its schedule away; another one counts from now."""
        return self._call(lambda: self._calls.update(task, name, options))

    def remove(self, name: str) -> None:
        """With its own schedule; jobs that were made stay."""
        self._call(lambda: self._calls.remove(name))

    def run(
        self,
        name: str,
        payload: Any = None,
        *,
        requester: Requester = None,
        run_at: datetime | None = None,
        priority: int | str | None = None,
    ) -> JobInfo:
        """Makes a job of it, whether it is active or not. Without a payload it has the task's own.

        `requester`: for whom; the handler's `job.requester`. `run_at`: when it is due, at once by default. `priority`:
        0 to 9, the task's own by default."""
        return self._call(lambda: self._calls.run(name, payload, requester, run_at, priority))

    def run_with_result(
        self, name: str, payload: Any = None, *, timeout: Seconds = RESULT_SECONDS, requester: Requester = None
    ) -> Any:
        """The handler's result. JobFailed with its error; DeadlineExceeded after `timeout` seconds: the job goes on,
        and its result stays to be fetched by its id."""
        return self._call(lambda: self._calls.run_with_result(name, payload, timeout, requester))

    def logs(self, name: str = "", *, limit: int = 50, type: str = "") -> TaskLogs:
        """Its runs that ended, newest first; of all tasks without a name. `type`: completed or failed."""
        return self._call(lambda: self._calls.logs(name, limit, type))

    def get_logs(
        self, id: str | None = None, *, limit: int = 50, where: Mapping[str, str] | None = None
    ) -> TaskLogs:
        """As `logs`: `id` is a name or an id, and the filter a mapping, `where={"type": "failed"}`."""
        return self.logs(_id_of(id), limit=limit, type=_type_of(where))


def _id_of(id: str | None) -> str:
    return "" if id is None else checks.text(id, "id")


def _type_of(where: Mapping[str, str] | None) -> str:
    given = checks.pairs(where, "where")
    for name in given:
        if name != "type":
            raise InvalidArgument(f"where: {name!r} is not a field of it; type is, completed or failed", field="where")
    return given.get("type", "")


class AsyncTasks:
    """`tf.tasks` of AsyncTaskFlow: the verbs of Tasks as coroutines, lists as async iterators."""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.acall

    async def create(self, name: str, *, require_handler: bool = False, **options: Unpack[TaskOptions]) -> TaskInfo:
        """As Tasks.create."""
        return await self._call(lambda: self._calls.create(name, require_handler, options))

    @overload
    async def get(self) -> builtins.list[TaskInfo]: ...
    @overload
    async def get(self, name: str) -> TaskInfo: ...
    async def get(self, name: str | None = None) -> TaskInfo | builtins.list[TaskInfo]:
        """As Tasks.get."""
        if name is None:
            return [task async for task in self.list()]
        return await self._call(lambda: self._calls.get(name))

    def list(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[TaskInfo]:
        """As Tasks.list."""
        return _aeach(self._call, lambda token: self._calls.page(page_size, token))

    async def update(self, task: str, *, name: str | None = None, **options: Unpack[TaskOptions]) -> TaskInfo:
        """As Tasks.update."""
        return await self._call(lambda: self._calls.update(task, name, options))

    async def remove(self, name: str) -> None:
        """As Tasks.remove."""
        await self._call(lambda: self._calls.remove(name))

    async def run(
        self,
        name: str,
        payload: Any = None,
        *,
        requester: Requester = None,
        run_at: datetime | None = None,
        priority: int | str | None = None,
    ) -> JobInfo:
        """As Tasks.run."""
        return await self._call(lambda: self._calls.run(name, payload, requester, run_at, priority))

    async def run_with_result(
        self, name: str, payload: Any = None, *, timeout: Seconds = RESULT_SECONDS, requester: Requester = None
    ) -> Any:
        """As Tasks.run_with_result."""
        return await self._call(lambda: self._calls.run_with_result(name, payload, timeout, requester))

    async def logs(self, name: str = "", *, limit: int = 50, type: str = "") -> TaskLogs:
        """As Tasks.logs."""
        return await self._call(lambda: self._calls.logs(name, limit, type))

    async def get_logs(
        self, id: str | None = None, *, limit: int = 50, where: Mapping[str, str] | None = None
    ) -> TaskLogs:
        """As Tasks.get_logs."""
        return await self.logs(_id_of(id), limit=limit, type=_type_of(where))
