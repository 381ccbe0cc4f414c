"""The workflow document as pydantic models, for its validation and its published JSON Schema.

Fields that a kind of step adds are in kinds.py and rest.py; definition.py validates the relations between the parts.
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
    """A model that refuses unknown fields and values of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Refuses unknown fields before the other checks, with an error that lists the valid ones."""
        known = {field.alias or name: field for name, field in cls.model_fields.items()}
        for name in given if isinstance(given, dict) else ():
            if name not in known:
                has = {"field": str(name)[:100], "known": ", ".join(known)}
                raise PydanticCustomError("unknown_field", "is not a valid field; use {known}", has)
        return given


class Backoff(Strict):
    """`min(limit, first × factor^(n-1))` seconds before further try n, spread by ± `jitter`."""

    first: float = Field(1.0, ge=0, le=MAX_SECONDS, description="Seconds before the first retry.")
    factor: float = Field(2.0, ge=1, le=100, description="Factor by which each wait is longer than the one before.")
    limit: float = Field(600.0, ge=0, le=MAX_SECONDS, description="Maximum wait in seconds.")
    jitter: float = Field(0.1, ge=0, le=1, description="Share by which a job's wait varies; a group's wait does not.")


class Step(Strict):
    """The fields of every step."""

    name: Name
    title: str | None = Field(None, max_length=200, description="For people.")
    depends_on: list[Name] = Field(
        default_factory=list, max_length=MAX_STEPS, description="Steps and groups that must all have succeeded first."
    )


class JobStep(Step):
    """A step with jobs."""

    queue: FullName | None = Field(
        None, description="The queue of its jobs. Without it, that of the task; likewise below."
    )
    priority: Annotated[int, Field(ge=0, le=9)] | Literal["low", "normal", "high", "critical"] | None = Field(
        None, description="0 to 9, higher first; low is 2, normal 5, high 7, critical 9."
    )
    retries: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(
        None, description="Tries of each of its jobs after the first."
    )
    backoff: Backoff | None = Field(None, description="The waits of its jobs before their retries.")
    timeout: Seconds | None = Field(None, description="Hard limit of one try, in seconds.")

    @property
    def priority_number(self) -> int | None:
        return PRIORITIES[self.priority] if isinstance(self.priority, str) else self.priority


class Edge(Strict):
    """Leads from a step or a group to a step."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    source: Name = Field(alias="from", description="A step or a group.")
    to: Name = Field(description="A step.")
    on: On = Field(
        "success",
        description="The outcome of `from` for which the edge is taken; `always`: success or failure. An edge on"
        " `failure` handles the failure.",
    )


class Group(Strict):
    """Steps that are retried together."""

    name: Name
    title: str | None = Field(None, max_length=200, description="For people.")
    steps: list[Name] = Field(min_length=1, max_length=MAX_STEPS)
    retries: int = Field(0, ge=0, le=MAX_RETRIES, description="Number of retries when a step in it has failed.")
    backoff: Backoff | None = Field(None, description="The waits before its retries.")
    from_: Literal["failed", "start"] = Field(
        "failed", alias="from", description="Where a retry starts: at the failed steps, or at the group's start."
    )


class Decider(Strict):
    """Instead of steps: an executor decides what follows each event (decision tasks)."""

    queue: FullName | None = Field(None, description="The queue of the decision tasks.")
    retries: int = Field(2, ge=0, le=1_000_000, description="Tries of each decision after the first.")
    timeout: Seconds | None = Field(None, description="Hard limit of one try, in seconds.")


class Schedule(Strict):
    """Starts runs at certain times."""

    cron: str = Field(min_length=1, max_length=200, description="Five fields, six with seconds first, or as @daily.")
    time_zone: str | None = Field(None, max_length=100, description="An IANA name; UTC by default.")
    start: str | None = Field(None, max_length=40, description="RFC 3339; no run starts before.")
    end: str | None = Field(None, max_length=40, description="RFC 3339; no run starts after.")
    input: Any = Field(None, description="The input of its runs.")
    metadata: dict[str, str] = Field(default_factory=dict, description="Attributes of its runs.")
    misfire: Literal["skip", "fire_once", "catch_up"] | None = Field(
        None, description="The policy for missed firings; `fire_once` by default."
    )
    overlap: Literal["skip", "allow", "queue", "replace"] | None = Field(
        None, description="The policy for a firing while a run of the same schedule is unfinished; `skip` by default."
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
        description="Base of relative URLs of REST calls, instead of the namespace's.",
    )
    steps: list[Any] = Field(default_factory=list, max_length=MAX_STEPS, description="The steps of a run.")
    start: list[Name] | None = Field(
        None,
        min_length=1,
        max_length=MAX_STEPS,
        description="The first steps of a run. By default all steps without a predecessor.",
    )
    edges: list[Edge] = Field(default_factory=list, max_length=MAX_EDGES)
    groups: list[Group] = Field(default_factory=list, max_length=MAX_GROUPS)
    decider: Decider | None = Field(None, description="Instead of steps, edges and groups.")
    output: Any = Field(None, description="A template: the run's result when it succeeds.")
    schedule: Schedule | None = Field(None, description="Starts runs at certain times.")
    concurrency: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Limit of simultaneous runs, later ones wait; 1 with a schedule, else no limit.",
    )
    sla: Seconds | None = Field(None, description="Seconds within which a run should start; a miss is recorded.")
