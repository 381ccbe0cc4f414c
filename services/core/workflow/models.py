"""What a workflow's document may say, as pydantic models: validation and the published JSON Schema come from them.

Fields that a kind of step adds stand in kinds.py and rest.py; what the parts must be to each other is checked in
definition.py.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from taskflow._policy import BUILTIN_TASKS, PRIORITIES
from taskflow_server.core.workflow.values import DURATION_HELP

MAX_STEPS = 1_000
MAX_EDGES = 5_000
MAX_GROUPS = 100
MAX_RETRIES = 100  # of a group; a step's job may have more
MAX_SECONDS = 366 * 86_400

NAME = r"^[A-Za-z0-9_-]{1,128}$"
FULL_NAME = rf"^(([A-Za-z0-9_.-]{{1,128}}/)?[A-Za-z0-9_-]{{1,128}}|{'|'.join(map(re.escape, sorted(BUILTIN_TASKS)))})$"
HEADER = r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,200}$"
BASE_URL = r"^https?://[^\s{}]+$"
PATTERNS = {  # in words, for errors
    NAME: "1 to 128 letters, digits, '-' and '_'",
    FULL_NAME: (
        "1 to 128 letters, digits, '-' and '_', with or without namespace/ before it, or one of "
        + ", ".join(sorted(BUILTIN_TASKS))
    ),
    HEADER: "1 to 200 letters, digits and !#$%&'*+.^_`|~-",
    BASE_URL: "http:// or https:// and a host, without templates",
}
Name = Annotated[str, Field(pattern=NAME)]
FullName = Annotated[str, Field(pattern=FULL_NAME)]
HeaderName = Annotated[str, Field(pattern=HEADER)]
Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS)]
Span = Annotated[float | str | dict[str, float | str], Field(description=f"{DURATION_HELP}, or a template.")]
On = Literal["success", "failure", "always"]


class Strict(BaseModel):
    """No field but those named, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Before all else, so that the error can say which fields there are."""
        known = {field.alias or name: field for name, field in cls.model_fields.items()}
        for name in given if isinstance(given, dict) else ():
            if name not in known:
                has = {"field": str(name)[:100], "known": ", ".join(known)}
                raise PydanticCustomError("unknown_field", "is no field; there are {known}", has)
        return given


class Backoff(Strict):
    """`min(limit, first × factor^(n-1))` seconds before further try n, spread by ± `jitter`."""

    first: float = Field(1.0, ge=0, le=MAX_SECONDS, description="Seconds before the first further try.")
    factor: float = Field(2.0, ge=1, le=100, description="By how much each wait is longer than the one before.")
    limit: float = Field(600.0, ge=0, le=MAX_SECONDS, description="The longest wait, in seconds.")
    jitter: float = Field(0.1, ge=0, le=1, description="A share by which a job's wait varies; a group's wait does not.")


class Step(Strict):
    """What every step has."""

    name: Name
    title: str | None = Field(None, max_length=200, description="For people.")
    depends_on: list[Name] = Field(
        default_factory=list, max_length=MAX_STEPS, description="Steps and groups that must all have succeeded before."
    )


class JobStep(Step):
    """A step that is done by jobs."""

    queue: FullName | None = Field(
        None, description="The queue of its jobs. Left out, the task's own holds, here and below."
    )
    priority: Annotated[int, Field(ge=0, le=9)] | Literal["low", "normal", "high", "critical"] | None = Field(
        None, description="0 to 9, higher first; low is 2, normal 5, high 7, critical 9."
    )
    retries: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Further tries of each of its jobs after the first."
    )
    backoff: Backoff | None = Field(None, description="How long its jobs wait before further tries.")
    timeout: Seconds | None = Field(None, description="Hard limit of one try, in seconds.")

    @property
    def priority_number(self) -> int | None:
        return PRIORITIES[self.priority] if isinstance(self.priority, str) else self.priority


class Edge(Strict):
    """A way from a step, or a group, to a step."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    source: Name = Field(alias="from", description="A step or a group.")
    to: Name = Field(description="A step.")
    on: On = Field(
        "success",
        description="The outcome of `from` that leads this way; `always` is success or failure. A failure with a way on"
        " `failure` is handled.",
    )


class Group(Strict):
    """Steps that are retried together."""

    name: Name
    title: str | None = Field(None, max_length=200, description="For people.")
    steps: list[Name] = Field(min_length=1, max_length=MAX_STEPS)
    retries: int = Field(0, ge=0, le=MAX_RETRIES, description="How often it is retried when a step in it failed.")
    backoff: Backoff | None = Field(None, description="How long it waits before each retry.")
    from_: Literal["failed", "start"] = Field(
        "failed", alias="from", description="Where a retry begins: at the failed steps, or at the group's start."
    )


class Decider(Strict):
    """Instead of steps: an executor decides what follows each event (decision tasks)."""

    queue: FullName | None = Field(None, description="The queue of the decision tasks.")
    retries: int = Field(2, ge=0, le=1_000_000, description="Further tries of each decision.")
    timeout: Seconds | None = Field(None, description="Hard limit of one try, in seconds.")


class Schedule(Strict):
    """Runs that start by themselves."""

    cron: str = Field(min_length=1, max_length=200, description="Five fields, six with seconds first, or as @daily.")
    time_zone: str | None = Field(None, max_length=100, description="An IANA name; UTC by default.")
    start: str | None = Field(None, max_length=40, description="RFC 3339; it does not fire before.")
    end: str | None = Field(None, max_length=40, description="RFC 3339; it does not fire after.")
    input: Any = Field(None, description="What its runs are started with.")
    metadata: dict[str, str] = Field(default_factory=dict, description="Attributes of its runs.")
    misfire: Literal["skip", "fire_once", "catch_up"] | None = Field(
        None, description="What becomes of firings that were missed; `fire_once` by default."
    )
    overlap: Literal["skip", "allow", "queue", "replace"] | None = Field(
        None, description="What a firing does while a run of the same schedule is unfinished; `skip` by default."
    )


class Document(Strict):
    """A workflow."""

    name: FullName
    title: str | None = Field(None, max_length=200, description="For people.")
    description: str | None = Field(None, max_length=10_000)
    app_url: str | None = Field(
        None,
        pattern=BASE_URL,
        max_length=2_000,
        description="What relative URLs of REST calls are appended to, instead of the namespace's.",
    )
    steps: list[Any] = Field(default_factory=list, max_length=MAX_STEPS, description="What is to be done.")
    start: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=MAX_STEPS,
        description="The steps that a run begins with. Left out: all that nothing leads to.",
    )
    edges: list[Edge] = Field(default_factory=list, max_length=MAX_EDGES)
    groups: list[Group] = Field(default_factory=list, max_length=MAX_GROUPS)
    decider: Decider | None = Field(None, description="Instead of steps, edges and groups.")
    output: Any = Field(None, description="A template: the run's result when it succeeds.")
    schedule: Schedule | None = Field(None, description="When runs start by themselves.")
    concurrency: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Most runs under way at once, later ones wait; 1 with a schedule, else no limit.",
    )
    sla: Seconds | None = Field(None, description="Seconds within which a run should begin; a miss is recorded.")
