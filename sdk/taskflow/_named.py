"""`tf.tasks`: named tasks on the cluster, to be run by name, on demand or by their own schedule."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC
from typing import Any, Unpack

from taskflow import _ids, _values
from taskflow._admin import _aeach, _each
from taskflow._core import Core, outcome_or_raise
from taskflow._filters import PAGE_SIZE
from taskflow._options import Seconds, requester_bytes
from taskflow._options import seconds as in_seconds
from taskflow._resources import JobInfo, _error, job_info
from taskflow._task_values import TaskInfo, TaskLogInfo, TaskLogs, TaskOptions, _message, task_info
from taskflow.errors import DeadlineExceeded
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
        message.name = name
        request = pb.CreateTaskRequest(
            task=message, inactive=not given.get("active", True), require_handler=require_handler
        )
        answer = await t.call(t.tasks.CreateTask, request)
        return task_info(answer.task, answer.warnings)

    async def get(self, name: str) -> TaskInfo:
        t = self._core.transport
        return task_info(await t.call(t.tasks.GetTask, pb.GetTaskRequest(task=name)))

    async def page(self, page_size: int, token: str) -> tuple[list[TaskInfo], str]:
        t = self._core.transport
        page = await t.call(t.tasks.ListTasks, pb.ListTasksRequest(page_size=page_size, page_token=token))
        return [task_info(message) for message in page.tasks], page.next_page_token

    async def update(self, task: str, name: str | None, given: TaskOptions) -> TaskInfo:
        t = self._core.transport
        message, paths = _message(given)
        if name is not None:
            message.name = name
            paths.append("name")
        request = pb.UpdateTaskRequest(task=task, changes=message)
        request.update_mask.paths.extend(paths)
        return task_info(await t.call(t.tasks.UpdateTask, request))

    async def remove(self, name: str) -> None:
        t = self._core.transport
        await t.call(t.tasks.DeleteTask, pb.DeleteTaskRequest(task=name))

    async def run(self, name: str, payload: Any, requester: Requester) -> JobInfo:
        t = self._core.transport
        data, encoding = _values.encode(payload)
        request = pb.RunTaskRequest(
            task=name, payload=data, encoding=encoding, job_id=_ids.new_id()  # type: ignore[arg-type]
        )
        if requester is not None:
            request.requester = requester_bytes(requester)
        return job_info(await t.call(t.tasks.RunTask, request))

    async def run_with_result(self, name: str, payload: Any, timeout: Seconds, requester: Requester) -> Any:
        t, patience = self._core.transport, in_seconds(timeout, "timeout")
        data, encoding = _values.encode(payload)
        request = pb.RunTaskWithResultRequest(
            task=name, payload=data, encoding=encoding, job_id=_ids.new_id()  # type: ignore[arg-type]
        )
        request.timeout.FromNanoseconds(int(patience * 1e9))
        if requester is not None:
            request.requester = requester_bytes(requester)
        job = job_info(await t.call(t.tasks.RunTaskWithResult, request, timeout=patience + self._core.timeout))
        if not job.state.final:
            raise DeadlineExceeded(
                f"job {job.id} of task {name} is {job.state} after {patience:g} s; it goes on, ask for it later",
                reason="NOT_FINISHED",
            )
        return outcome_or_raise(job).result

    async def logs(self, name: str, limit: int, type: str) -> TaskLogs:
        t = self._core.transport
        answer = await t.call(t.tasks.ListTaskLogs, pb.ListTaskLogsRequest(task=name, limit=limit, type=type))
        logs = [
            TaskLogInfo(
                log.job_id,
                log.task,
                log.type,
                log.time.ToDatetime(tzinfo=UTC),
                _values.decode(log.result, log.encoding) if log.type.endswith("completed") else None,
                _error(log),
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
        """AlreadyExists for a name that is taken; InvalidArgument names the field at fault. With `require_handler`,
        FailedPrecondition where no worker has registered its handler."""
        return self._call(lambda: self._calls.create(name, require_handler, options))

    def get(self, name: str) -> TaskInfo:
        """NotFound when there is none."""
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

    def run(self, name: str, payload: Any = None, *, requester: Requester = None) -> JobInfo:
        """Makes a job of it, whether it is active or not. `requester`: for whom; the handler's `job.requester`."""
        return self._call(lambda: self._calls.run(name, payload, requester))

    def run_with_result(
        self, name: str, payload: Any = None, *, timeout: Seconds = RESULT_SECONDS, requester: Requester = None
    ) -> Any:
        """The handler's result. JobFailed with its error; DeadlineExceeded after `timeout` seconds: the job goes on,
        and its result stays to be fetched by its id."""
        return self._call(lambda: self._calls.run_with_result(name, payload, timeout, requester))

    def logs(self, name: str = "", *, limit: int = 50, type: str = "") -> TaskLogs:
        """Its runs that ended, newest first; of all tasks without a name. `type`: completed or failed."""
        return self._call(lambda: self._calls.logs(name, limit, type))


class AsyncTasks:
    """`tf.tasks` of AsyncTaskFlow: the verbs of Tasks as coroutines, lists as async iterators."""

    def __init__(self, core: Core) -> None:
        self._calls = _Calls(core)
        self._call = core.io.acall

    async def create(self, name: str, *, require_handler: bool = False, **options: Unpack[TaskOptions]) -> TaskInfo:
        """As Tasks.create."""
        return await self._call(lambda: self._calls.create(name, require_handler, options))

    async def get(self, name: str) -> TaskInfo:
        """As Tasks.get."""
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

    async def run(self, name: str, payload: Any = None, *, requester: Requester = None) -> JobInfo:
        """As Tasks.run."""
        return await self._call(lambda: self._calls.run(name, payload, requester))

    async def run_with_result(
        self, name: str, payload: Any = None, *, timeout: Seconds = RESULT_SECONDS, requester: Requester = None
    ) -> Any:
        """As Tasks.run_with_result."""
        return await self._call(lambda: self._calls.run_with_result(name, payload, timeout, requester))

    async def logs(self, name: str = "", *, limit: int = 50, type: str = "") -> TaskLogs:
        """As Tasks.logs."""
        return await self._call(lambda: self._calls.logs(name, limit, type))
