# Generated from ../_async/tasks.py by `make faces`. Change that instead.
"""`tf.tasks`: named tasks on the cluster, to be run by name, on demand or by their own schedule."""

from __future__ import annotations

import builtins
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Unpack, overload

from taskflow._jobs.core import Core
from taskflow._messages.filters import PAGE_SIZE
from taskflow._messages.options import Seconds
from taskflow._messages.tasks import TaskOptions
from taskflow._resources.pages import each
from taskflow._resources.tasks import RESULT_SECONDS, Calls, Requester, _id_of, _type_of
from taskflow._values.jobs import JobInfo
from taskflow._values.tasks import TaskInfo, TaskLogs


class Tasks:
    """`tf.tasks`. A task is meant by its name or by its id."""

    def __init__(self, core: Core) -> None:
        self._calls = Calls(core)
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
            return [task for task in self.list()]
        return self._call(lambda: self._calls.get(name))

    def list(self, *, page_size: int = PAGE_SIZE) -> Iterator[TaskInfo]:
        """By name."""
        return each(self._call, lambda token: self._calls.page(page_size, token))

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
