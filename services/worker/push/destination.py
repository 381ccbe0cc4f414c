"""A destination of pushed jobs: the interface that each kind of them implements.

Its methods block and are called in threads, several at once, each with a time limit; a destination sets shorter ones
of its own. They keep no state: after a restart the answers are the same. They raise `Away` when the destination cannot
be used now, and `Refused` when it will never take this very order. Credentials come from wherever the destination's
own tools look for them, and appear in no message.

Invariants of every destination:

- An external job bears the name `name_of(owner, ticket)`, and the ticket where a listing shows it.
- It runs once: a destination's own retries are off. TaskFlow decides on another attempt, which has another name.
- `terminate` and `forget` may be called again, and for what is gone.

How the interface maps:

| | AWS Batch | Kubernetes Jobs | Marathon apps (Mesos) |
|---|---|---|---|
| name | job name; several may bear it | `metadata.name`, unique: 409 says that it exists | app id, unique: 409 |
| ticket | environment of the container | labels | labels |
| `submit` | SubmitJob, one attempt | POST Job, `backoffLimit: 0`, `restartPolicy: Never` | POST app, 1 instance |
| `find` | ListJobs by name | LIST by the label of the exec_id | by the label of the exec_id |
| `unfinished` | ListJobs by status, by the name's prefix | by the owner's label | by the owner's label |
| queued | SUBMITTED, PENDING, RUNNABLE | no pod, or a Pending one | no task, or a staged one |
| running | STARTING, RUNNING | a container that runs | TASK_RUNNING, TASK_UNREACHABLE |
| succeeded | SUCCEEDED | condition Complete | `lastTaskFailure` with the shell's code of success |
| failed | FAILED | condition Failed | any other `lastTaskFailure`; no instances |
| reason, exit code | `statusReason`, `container` | the condition, the container's `terminated` | `lastTaskFailure` |
| log link | stream in CloudWatch | template over namespace and pod | template over agent and sandbox |
| last lines | none | the pod's log | /files/read of the agent |
| `terminate` | TerminateJob | DELETE in the foreground | PUT, 0 instances |
| `forget` | nothing: a week later it is gone | DELETE | DELETE |

Kubernetes names are at most 63 characters, which bounds OWNER.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

MOST_AFTER = 300.0  # seconds: the longest pause that a destination can ask for
OWNER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,18}[a-z0-9])?\Z")
_NAME = re.compile(r"taskflow-(?P<owner>[a-z0-9-]+)-(?P<exec>[0-9a-f]{32})\Z")


class Away(Exception):
    """The destination cannot be used now: out of reach, too busy, or it does not let us in. Asked again later.

    A call that changes something may have had its effect. `after`: seconds for which the destination asks to be left
    alone, as by Retry-After; calls to it pause for at least so long, but at most `MOST_AFTER`.
    """

    def __init__(self, why: str, after: float = 0.0) -> None:
        super().__init__(why)
        self.after = after


class Refused(Exception):
    """The destination will not take this order, however often it is given."""


class Phase(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def over(self) -> bool:
        return self in (Phase.SUCCEEDED, Phase.FAILED)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Which attempt of which job an external job is for."""

    exec_id: bytes
    job_id: bytes

    @property
    def job(self) -> str:
        """The job's id, as people see it."""
        return str(UUID(bytes=self.job_id))


class TaskOptions(BaseModel):
    """Options of a task at a destination; a kind adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, slots=True)
class Order:
    """An external job to be made. `options` are what its task says at this destination."""

    ticket: Ticket
    queue: str
    task: str
    attempt: int
    payload: Any
    options: TaskOptions
    timeout: float | None = None  # seconds that TaskFlow gives the attempt, its wait at the destination included

    def environment(self) -> dict[str, str]:
        """The program's environment variables, at every kind of destination."""
        return {
            "TASKFLOW_EXEC_ID": str(UUID(bytes=self.ticket.exec_id)),
            "TASKFLOW_JOB_ID": self.ticket.job,
            "TASKFLOW_ATTEMPT": str(self.attempt),
            "TASKFLOW_QUEUE": self.queue,
            "TASKFLOW_TASK": self.task,
            "TASKFLOW_PAYLOAD": json.dumps(self.payload, separators=(",", ":"), ensure_ascii=False),
        }


@dataclass(frozen=True, slots=True)
class External:
    """An external job, as the destination shows it."""

    id: str  # the destination's own
    ticket: Ticket
    phase: Phase
    created: float = 0.0  # of two with one name, the earlier is kept; any unit
    reason: str = ""
    exit_code: int | None = None
    log_url: str = ""
    tail: str = ""  # the last lines that the program wrote, once it has ended and where the destination shows them


class DestinationSettings(BaseModel):
    """Settings of every kind of destination; a kind adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    options: ClassVar[type[TaskOptions]] = TaskOptions

    kind: str = Field(description="which kind of destination it is")
    limit: int = Field(100, ge=1, le=10_000, description="external jobs that may be unfinished at once")
    tasks: Mapping[str, TaskOptions] = Field(
        default_factory=dict, description="tasks whose jobs go there, with their options"
    )

    def routes(self, name: str) -> Mapping[str, TaskOptions]:
        """The tasks whose jobs go there. A destination without any is one itself: the `target` of named tasks."""
        return self.tasks or {name: self.options()}


class Destination(ABC):
    """A place that runs external jobs. `owner` distinguishes a pusher's jobs there from all others."""

    kind: ClassVar[str]
    settings: ClassVar[type[DestinationSettings]]
    batch: ClassVar[int] = 100  # the most that `look` is asked for

    def __init__(self, name: str, owner: str, settings: Any) -> None:
        """ValueError, with the reason, when it cannot be. Asks nothing of the destination yet."""
        self.name = name
        self.owner = owner

    @abstractmethod
    def submit(self, order: Order) -> External:
        """Makes the external job. Called once for each attempt, but after `Away`: then `find` is asked first."""

    @abstractmethod
    def find(self, ticket: Ticket) -> Sequence[External]:
        """All that bear this ticket's name, also finished ones. More than one where names need not be unique."""

    @abstractmethod
    def unfinished(self) -> Iterable[External]:
        """At least those of this owner that have not ended. One that was just made may be missing.

        May be a generator that asks page by page: it is read `batch` jobs at a time, each within a call's limit.
        """

    @abstractmethod
    def look(self, jobs: Sequence[External]) -> Mapping[str, External]:
        """Their states, by id, up to `batch` at once. A job that the destination no longer knows is absent."""

    @abstractmethod
    def terminate(self, job: External, reason: str) -> None:
        """Ends it, whether it runs or waits; it may take its time to end."""

    def forget(self, job: External) -> None:  # noqa: B027
        """Its end is on disk in TaskFlow: what the destination still has of it can go."""


def name_of(owner: str, ticket: Ticket) -> str:
    """The name of an external job: letters that a DNS label may have, and at most 63 of them."""
    return f"taskflow-{owner}-{ticket.exec_id.hex()}"


def exec_id_of(owner: str, name: str) -> bytes | None:
    """The other way; None for a name that is not this owner's."""
    found = _NAME.match(name)
    return bytes.fromhex(found["exec"]) if found and found["owner"] == owner else None


@dataclass(slots=True)
class Twins:
    """The earliest of several external jobs with one ticket; the others are too many."""

    first: dict[Ticket, External] = field(default_factory=dict)
    spare: list[External] = field(default_factory=list)


def sort_out(jobs: Iterable[External]) -> Twins:
    """Every pusher that looks at the same jobs keeps the same ones. One that is listed twice is none too many."""
    twins = Twins()
    once = {job.id: job for job in jobs}
    for job in sorted(once.values(), key=lambda job: (job.created, job.id)):
        if twins.first.setdefault(job.ticket, job) is not job:
            twins.spare.append(job)
    return twins
