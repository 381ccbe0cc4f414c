"""Kinds of steps, by name. A new kind is a class that is passed to `register` or to `Definition.parse`.

A kind has a model of `meta`, which becomes part of the published schema, and makes the plan of a step whose templates
are rendered: jobs, or a wait. It is pure, and must make the same plan from the same values: the plan is made again when
the first of its jobs has ended.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from taskflow_server.core.workflow import values
from taskflow_server.core.workflow.models import FullName, JobStep, Name, Span, Step, Strict
from taskflow_server.core.workflow.templates import OPEN, Encoders
from taskflow_server.core.workflow.values import BadValue

MAX_TEXT = 100_000  # characters in a script
MAX_ENV = 200
SHELL = "shell.run"  # the built-in task


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job: its task (None: the queue's handler) and its payload."""

    task: str | None
    payload: Any
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs one after the other, or all at once. `go_on`: continue after a failed one, and let the step succeed."""

    jobs: Sequence[JobSpec]
    parallel: bool = False
    go_on: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait for an instant or a signal; with both, it fails if the signal has not come by the instant."""

    until: datetime | None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """The inputs of a plan besides the step."""

    now: datetime
    app_url: str | None


class Kind(ABC):
    """A kind of step. `step`: the model of its steps without `meta`; `meta`: the model of their `meta`."""

    name: ClassVar[str]
    step: ClassVar[type[Step]] = JobStep
    meta: ClassVar[type[Strict]]
    encoders: ClassVar[Encoders] = ()

    @abstractmethod
    def plan(self, meta: Mapping[str, Any], moment: Moment) -> Jobs | Wait:
        """The plan of a step from its rendered `meta`. BadValue, with a path inside `meta`, fails the step."""

    def tasks(self, meta: Mapping[str, Any]) -> Iterable[str | None]:
        """The tasks of a step's jobs, as far as they are known before it starts; None: its queue's handler.

        `meta` is as the document has it, with its templates. The caller that stores the document gets a warning for
        each task without a worker.
        """
        return ()

    def result(self, meta: Mapping[str, Any], results: Sequence[Any]) -> Any:
        """The step's result from those of its jobs; a failed job with `go_on` has `{"error": …}`.

        `meta` is as the document has it, with its templates.
        """
        return results[0]


class TaskMeta(Strict):
    """A job of a task, or of a queue that has a handler of its own."""

    task: FullName | None = Field(None, description="The task. Without it, the handler of the step's queue.")
    input: Any = Field(None, description="A template: the job's payload.")


class TaskStep(JobStep):
    @model_validator(mode="after")
    def _somewhere(self) -> TaskStep:
        if self.queue is None and self.meta.task is None:  # type: ignore[attr-defined]
            raise PydanticCustomError("of", "names neither a task (meta.task) nor a queue", {})
        return self


class Task(Kind):
    name = "task"
    step = TaskStep
    meta = TaskMeta

    def plan(self, meta: Mapping[str, Any], moment: Moment) -> Jobs:
        return Jobs([JobSpec(meta.get("task"), meta.get("input"))])

    def tasks(self, meta: Mapping[str, Any]) -> Iterable[str | None]:
        return [meta.get("task")]


class WaitMeta(Strict):
    """A wait for a duration, until a time, or for a signal, which they then limit."""

    duration: Span | None = Field(None, description="The duration of the wait.")
    until: str | float | None = Field(
        None, description="A time: RFC 3339 text (UTC without a zone), seconds since 1970, or a template."
    )
    offset: Span | None = Field(None, description="Moves `until`, as `-1d`.")
    signal: Name | None = Field(
        None, description="Ends with this signal, whose payload is the result. Without it in time, the step fails."
    )

    @model_validator(mode="after")
    def _one(self) -> WaitMeta:
        if self.duration is not None and self.until is not None:
            raise PydanticCustomError("of", "has both duration and until; give one of them", {})
        if self.duration is None and self.until is None and self.signal is None:
            raise PydanticCustomError("of", "needs duration, until or signal", {})
        if self.offset is not None and self.until is None:
            raise PydanticCustomError("of", "has offset without until, which it moves", {})
        for name, read in (("duration", values.duration), ("until", values.instant), ("offset", values.duration)):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, str) and OPEN in given):
                try:
                    read(given)
                except BadValue as error:
                    raise PydanticCustomError("at", "{why}", {"field": name, "why": error.message}) from None
        return self


class WaitKind(Kind):
    name = "wait"
    step = Step
    meta = WaitMeta

    def plan(self, meta: Mapping[str, Any], moment: Moment) -> Wait:
        until = None
        if "duration" in meta:
            until = at("duration", lambda value: values.after(moment.now, values.duration(value)), meta["duration"])
        elif "until" in meta:
            until = at("until", values.instant, meta["until"])
            offset = at("offset", values.duration, meta.get("offset", 0))
            until = at("offset", lambda seconds: values.after(until, seconds), offset)
        return Wait(until, meta.get("signal"))


class ShellMeta(Strict):
    """A command that a worker runs where its operator allows it."""

    command: list[str] | None = Field(None, min_length=1, max_length=1_000, description="Program and arguments.")
    script: str | None = Field(
        None, min_length=1, max_length=MAX_TEXT, description="For bash, without templates: pass values by `env`."
    )
    env: dict[str, str] = Field(default_factory=dict, max_length=MAX_ENV, description="Environment variables.")
    cwd: str | None = Field(None, max_length=4_096, description="The working directory.")

    @model_validator(mode="after")
    def _one(self) -> ShellMeta:
        if (self.command is None) == (self.script is None):
            raise PydanticCustomError("of", "needs either command or script", {})
        if self.script is not None and OPEN in self.script:
            # bash would run the value of a template as code.
            raise PydanticCustomError("at", "{why}", {"field": "script", "why": "must not contain templates; use env"})
        return self


class Shell(Kind):
    name = "shell"
    meta = ShellMeta

    def plan(self, meta: Mapping[str, Any], moment: Moment) -> Jobs:
        payload = dict(meta)
        if "command" in meta:
            payload["command"] = [at(f"command[{n}]", values.text, part) for n, part in enumerate(meta["command"])]
        if "env" in meta:
            payload["env"] = {name: at(f"env.{name}", values.text, part) for name, part in meta["env"].items()}
        if "cwd" in meta:
            payload["cwd"] = at("cwd", values.text, meta["cwd"])
        return Jobs([JobSpec(SHELL, payload)])

    def tasks(self, meta: Mapping[str, Any]) -> Iterable[str | None]:
        return [SHELL]


def at(path: str, read: Any, value: Any) -> Any:
    """`read(value)`, with the path in its error."""
    try:
        return read(value)
    except BadValue as error:
        raise BadValue(error.message, path=path, type=error.type) from None
