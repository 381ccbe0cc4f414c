"""Filters of a list of jobs: checked once, for the wire and for the cluster in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypedDict

from taskflow import errors
from taskflow._messages import checks
from taskflow._messages.options import Seconds, check_name, instant_of, seconds
from taskflow._policy import JobState
from taskflow._values.jobs import ErrorInfo, JobInfo
from taskflow.v1 import jobs_pb2

PAGE_SIZE = 100
_UNSUCCESSFUL = frozenset({JobState.FAILED, JobState.CANCELLED})


class JobFilters(TypedDict, total=False):
    """The keywords of `tf.jobs.list`. A datetime without a zone is taken as UTC."""

    queue: str
    task: str
    states: Iterable[JobState | str] | str
    tags: Iterable[str] | str
    """Jobs that have all of them."""
    metadata: Mapping[str, str]
    """Jobs that have all of these entries."""
    error: str
    """Jobs whose last error has this type, or this text in its message; of failed and cancelled ones, unless `states`
    says otherwise."""
    created_after: datetime | None
    """Without it: 7 days ago, for jobs that are over."""
    created_before: datetime | None
    page_size: int
    worker: str
    """Jobs that the live worker of this name has now; requested and running ones, unless `states` says otherwise."""
    running_longer_than: Seconds | None
    """Running jobs that have been running for longer, in seconds."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The same, checked. InvalidArgument names the field at fault."""

    queue: str = ""
    task: str = ""
    states: frozenset[JobState] = frozenset()
    tags: tuple[str, ...] = ()
    metadata: tuple[tuple[str, str], ...] = ()
    error: str = ""
    created_after: datetime | None = None
    created_before: datetime | None = None
    page_size: int = PAGE_SIZE
    worker: str = ""
    running_longer_than: float | None = None

    @classmethod
    def of(cls, given: JobFilters) -> JobFilter:
        checks.options(given, JobFilters.__annotations__, "list()")
        states, tags = given.get("states", ()), given.get("tags", ())
        longer = given.get("running_longer_than")
        return cls(
            queue=check_name(given["queue"], "queue") if given.get("queue") else "",
            task=check_name(given["task"], "task") if given.get("task") else "",
            states=frozenset(_state(s) for s in checks.items(states, "states", f"some of {', '.join(JobState)}")),
            tags=tuple(checks.text(tag, "tags") for tag in checks.items(tags, "tags", "texts")),
            metadata=tuple(sorted(checks.pairs(given.get("metadata", {})).items())),
            error=checks.text(given.get("error", ""), "error"),
            created_after=_instant(given, "created_after"),
            created_before=_instant(given, "created_before"),
            page_size=checks.page_size(given.get("page_size", PAGE_SIZE)),
            worker=checks.text(given.get("worker", ""), "worker"),
            running_longer_than=None if longer is None else seconds(longer, "running_longer_than", zero=True),
        )

    def matches(self, job: JobInfo) -> bool:
        """For the cluster in memory. The server decides by the query `matching_jobs`."""
        error, made = job.error, job.create_time
        states = self.states or (_UNSUCCESSFUL if self.error else frozenset())
        if self.worker or self.running_longer_than is not None:
            return False  # no job runs in another thread there while lists are read
        return (
            self.queue in ("", job.queue, f"{job.namespace}/{job.queue}")
            and self.task in ("", job.task)
            and (not states or job.state in states)
            and set(self.tags) <= set(job.tags)
            and set(self.metadata) <= job.metadata.items()
            and (not self.error or (error is not None and self._is(error)))
            and (self.created_after is None or (made is not None and made >= self.created_after))
            and (self.created_before is None or (made is not None and made < self.created_before))
        )

    def _is(self, error: ErrorInfo) -> bool:
        return error.type == self.error or self.error.lower() in error.message.lower()

    def request(self, token: str) -> jobs_pb2.ListJobsRequest:
        request = jobs_pb2.ListJobsRequest(
            queue=self.queue,
            task=self.task,
            states=[state.number for state in sorted(self.states)],  # type: ignore[misc]
            tags=self.tags,
            metadata=dict(self.metadata),
            error=self.error,
            page_size=self.page_size,
            page_token=token,
            worker=self.worker,
        )
        if self.running_longer_than is not None:
            request.running_longer_than.FromNanoseconds(int(self.running_longer_than * 1e9))
        if self.created_after is not None:
            request.create_after.FromDatetime(self.created_after)
        if self.created_before is not None:
            request.create_before.FromDatetime(self.created_before)
        return request


def _instant(given: JobFilters, field: Literal["created_after", "created_before"]) -> datetime | None:
    value = given.get(field)
    return None if value is None else instant_of(value, field)


def _state(state: JobState | str) -> JobState:
    try:
        return JobState(state)
    except Exception:  # the enum shows the value, whose own code may raise
        raise errors.InvalidArgument(
            f"states: {checks.shown(state)} is none of {', '.join(JobState)}", field="states"
        ) from None
