"""Kinds of steps, by name. A new one is a class here or elsewhere, given to `register` or to `Definition.parse`.

A kind says what its steps hold under `meta` (a model, which becomes part of the published schema) and, for a step whose
templates have their values, what is to be done: jobs, or a wait. It is pure, and is asked again for the same plan when
the first of its jobs is done: the same values must give the same plan.
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

MAX_TEXT = 100_000  # characters of a script
MAX_ENV = 200
SHELL = "shell.run"  # the built-in task


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One job: the task whose handler does it (none: the queue's handler), and its payload."""

    task: str | None
    payload: Any
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs one after the other, or all at once. `go_on`: after a failed one too, and the step succeeds."""

    jobs: Sequence[JobSpec]
    parallel: bool = False
    go_on: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Until an instant, or a signal, or the signal at the latest until the instant: then it failed."""

    until: datetime | None
    signal: str | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """What a plan may depend on besides the step."""

    now: datetime
    app_url: str | None


class Kind(ABC):
    """One kind of step. `step` is what its steps may say beside `meta`, `meta` the model of what stands there."""

    name: ClassVar[str]
    step: ClassVar[type[Step]] = JobStep
    meta: ClassVar[type[Strict]]
    encoders: ClassVar[Encoders] = ()

    @abstractmethod
    def plan(self, meta: Mapping[str, Any], moment: Moment) -> Jobs | Wait:
        """What a step does whose rendered `meta` this is. BadValue, with a path inside `meta`, fails the step."""

    def tasks(self, meta: Mapping[str, Any]) -> Iterable[str | None]:
        """The tasks of a step's jobs, as far as they are known before it begins; None: its queue has the handler.

        `meta` is as the document has it, with its templates. Whoever stores the document is warned of those for which
        no worker is there.
        """
        return ()

    def result(self, meta: Mapping[str, Any], results: Sequence[Any]) -> Any:
        """The step's result, of those of its jobs; of one that failed and was passed over, `{"error": …}`.

        `meta` is as the document has it, with its templates.
        """
        return results[0]


class TaskMeta(Strict):
    """A job of a task, or of a queue with a handler of its own."""

    task: FullName | None = Field(None, description="The task; without it the step's queue has a handler of its own.")
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
    """A wait for a duration, until a time, or for a signal, then at most so long."""

    duration: Span | None = Field(None, description="How long.")
    until: str | float | None = Field(
        None, description="A time: RFC 3339 text (UTC if it names no zone), seconds since 1970, or a template."
    )
    offset: Span | None = Field(None, description="Moves `until`, as `-1d`.")
    signal: Name | None = Field(
        None, description="Ends with this signal, whose payload is the result. Without it in time, the step fails."
    )

    @model_validator(mode="after")
    def _one(self) -> WaitMeta:
        if self.duration is not None and self.until is not None:
            raise PydanticCustomError("of", "has duration and until: one of them is too much", {})
        if self.duration is None and self.until is None and self.signal is None:
            raise PydanticCustomError("of", "needs duration, until or signal", {})
        if self.offset is not None and self.until is None:
            raise PydanticCustomError("of", "has offset, which moves until, but no until", {})
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
        None, min_length=1, max_length=MAX_TEXT, description="For bash. Holds no templates: pass values by `env`."
    )
    env: dict[str, str] = Field(default_factory=dict, max_length=MAX_ENV, description="Environment variables.")
    cwd: str | None = Field(None, max_length=4_096, description="The folder to run in.")

    @model_validator(mode="after")
    def _one(self) -> ShellMeta:
        if (self.command is None) == (self.script is None):
            raise PydanticCustomError("of", "needs either command or script", {})
        if self.script is not None and OPEN in self.script:
            # What a template brings would be read by bash as code.
            raise PydanticCustomError("at", "{why}", {"field": "script", "why": "may hold no templates; use env"})
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
    """`read(value)`, whose error names the path."""
    try:
        return read(value)
    except BadValue as error:
        raise BadValue(error.message, path=path, type=error.type) from None
