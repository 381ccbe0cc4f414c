"""Tasks: named handlers with their options, and what a worker knows of them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from taskflow._handlers.binding import Binding
from taskflow._jobs._async.handles import AsyncJobHandle
from taskflow._jobs._sync.handles import JobHandle
from taskflow._messages.options import JobOptions, NewJob, check_name, seconds
from taskflow.errors import AlreadyExists, InvalidArgument
from taskflow.v1 import tasks_pb2, worker_pb2

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


@dataclass(frozen=True, slots=True)
class Handler:
    """A function and how it is run. `timeout` and `heartbeat_timeout` hold for jobs that bring none."""

    name: str
    function: Callable[..., Any]
    binding: Binding
    is_async: bool
    processes: int = 0
    timeout: float | None = None
    heartbeat_timeout: float | None = None


def make_handler(
    name: str, function: object, processes: int | None, options: JobOptions | None = None
) -> Handler:
    """InvalidArgument when it cannot be called, or not be found by name in another process."""
    if isinstance(function, BaseTask):
        processes = function.handler.processes if processes is None else processes
        options = function.options if options is None else options
        function = function.handler.function
    if not callable(function):
        raise InvalidArgument(f"handler: {function!r} cannot be called", field="handler")
    count = 0 if processes is None else processes
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 256:
        raise InvalidArgument(f"processes: {processes!r} is not a whole number from 1 to 256", field="processes")
    if count and ("<" in getattr(function, "__qualname__", "<") or not getattr(function, "__module__", None)):
        raise InvalidArgument(
            f"handler: {function!r} runs in processes of its own, so it must be a function at the top of a module",
            field="handler",
        )
    target = function if inspect.isroutine(function) or isinstance(function, functools.partial) else function.__call__
    return Handler(
        name=name,
        function=function,
        binding=Binding(function),
        is_async=inspect.iscoroutinefunction(target),
        processes=count,
        timeout=_optional_seconds(options and options.timeout, "timeout"),
        heartbeat_timeout=_optional_seconds(options and options.heartbeat_timeout, "heartbeat_timeout"),
    )


def _optional_seconds(value: Any, field: str) -> float | None:
    return None if value is None else seconds(value, field)


class Registry:
    """The handlers of an app, the options of their jobs, and the named tasks that it declares."""

    def __init__(self) -> None:
        self.tasks: dict[str, Handler] = {}
        self.declared: dict[str, tasks_pb2.UpdateTaskRequest] = {}  # what the code says, and of which fields
        self.defaults: dict[str, worker_pb2.TaskDefaults] = {}

    def add(
        self,
        handler: Handler,
        defaults: worker_pb2.TaskDefaults,
        declared: tasks_pb2.UpdateTaskRequest | None = None,
    ) -> None:
        known = self.tasks.get(handler.name)
        if known is not None and not _same_function(known.function, handler.function):
            raise AlreadyExists(
                f"name: a task {handler.name!r} is registered already ({known.binding.name}); give one of them a name=…"
            )
        self.tasks[handler.name] = handler
        self.defaults[handler.name] = defaults
        if declared is not None:
            self.declared[handler.name] = declared


def _same_function(a: Callable[..., Any], b: Callable[..., Any]) -> bool:
    """A module that is run and imported, or reloaded, registers its functions twice, and so does a notebook's cell,
    which may have been edited."""
    return getattr(a, "__qualname__", a) == getattr(b, "__qualname__", b) and (
        getattr(a, "__code__", a) == getattr(b, "__code__", b) or (_is_interactive(a) and _is_interactive(b))
    )


def _is_interactive(function: Callable[..., Any]) -> bool:
    """Whether it was typed into a notebook or an interpreter."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return getattr(function, "__module__", "") == "__main__" and not (file and os.path.exists(file))


class Maker(Protocol):
    """The part of a client that makes jobs."""

    def new_job(self, queue: str | None = None, payload: Any = None, *, options: JobOptions | None = None) -> Any: ...

    def new_jobs(self, jobs: Iterable[NewJob]) -> Any: ...


class BaseTask(Generic[P, R]):
    """A handler under a name. Calling it calls the function, here and now."""

    def __init__(self, maker: Maker, handler: Handler, queue: str, options: JobOptions) -> None:
        self._maker = maker
        self.handler = handler
        self.name = handler.name
        self.queue = check_name(queue, "queue")
        self.options = dataclasses.replace(options, task=handler.name)
        functools.update_wrapper(self, handler.function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.handler.function(*args, **kwargs)
        return result

    def _options(self, given: JobOptions | None) -> JobOptions:
        return self.options if given is None else given.over(self.options)

    def _jobs(self, arguments: Iterable[Mapping[str, Any]], options: JobOptions | None) -> list[NewJob]:
        merged = self._options(options)
        jobs = []
        for index, one in enumerate(arguments):
            try:
                jobs.append(NewJob(self.queue, self.handler.binding.payload((), one), merged))
            except InvalidArgument as error:
                raise InvalidArgument(f"jobs[{index}].{error.message}", field=f"jobs[{index}].{error.field}") from None
        return jobs

    def __repr__(self) -> str:
        return f"<Task {self.name!r} on queue {self.queue!r}>"


class Task(BaseTask[P, R]):
    """The result of `@TaskFlow.task`."""

    def new_job(self, *args: Any, _options: JobOptions | None = None, **arguments: Any) -> JobHandle:
        """Makes a job that calls the handler with these arguments.

        They are checked against its signature, their names and, where a parameter is annotated with plain types as
        `int` or `str | None`, their types: InvalidArgument names the one at fault.
        """
        payload = self.handler.binding.payload(args, arguments)
        job: JobHandle = self._maker.new_job(self.queue, payload, options=self._options(_options))
        return job

    def new_jobs(
        self, arguments: Iterable[Mapping[str, Any]], *, _options: JobOptions | None = None
    ) -> list[JobHandle]:
        """Makes one job for each mapping of arguments, thousands in one call."""
        jobs: list[JobHandle] = self._maker.new_jobs(self._jobs(arguments, _options))
        return jobs


class AsyncTask(BaseTask[P, R]):
    """The result of `@AsyncTaskFlow.task`."""

    async def new_job(self, *args: Any, _options: JobOptions | None = None, **arguments: Any) -> AsyncJobHandle:
        """As `Task.new_job`."""
        payload = self.handler.binding.payload(args, arguments)
        making: Awaitable[AsyncJobHandle] = self._maker.new_job(self.queue, payload, options=self._options(_options))
        return await making

    async def new_jobs(
        self, arguments: Iterable[Mapping[str, Any]], *, _options: JobOptions | None = None
    ) -> list[AsyncJobHandle]:
        """As `Task.new_jobs`."""
        making: Awaitable[list[AsyncJobHandle]] = self._maker.new_jobs(self._jobs(arguments, _options))
        return await making
