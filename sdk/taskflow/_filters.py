"""What a list of jobs is narrowed by: checked once, for the wire and for the cluster in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypedDict

from taskflow import errors
from taskflow._options import check_name
from taskflow._resources import STATE_NUMBERS, ErrorInfo, JobInfo, JobState
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

    @classmethod
    def of(cls, given: JobFilters) -> JobFilter:
        unknown = given.keys() - JobFilters.__annotations__.keys()
        if unknown:
            raise TypeError(f"list() has no option {', '.join(sorted(unknown))}")
        states, tags = given.get("states", ()), given.get("tags", ())
        return cls(
            queue=check_name(given["queue"], "queue") if given.get("queue") else "",
            task=check_name(given["task"], "task") if given.get("task") else "",
            states=frozenset(_state(s) for s in ([states] if isinstance(states, str) else states)),
            tags=(tags,) if isinstance(tags, str) else tuple(tags),
            metadata=tuple(sorted(dict(given.get("metadata", {})).items())),
            error=given.get("error", ""),
            created_after=_instant(given.get("created_after")),
            created_before=_instant(given.get("created_before")),
            page_size=given.get("page_size", PAGE_SIZE),
        )

    def matches(self, job: JobInfo) -> bool:
        """For the cluster in memory. The server decides by the query `matching_jobs`."""
        error, made = job.error, job.create_time
        states = self.states or (_UNSUCCESSFUL if self.error else frozenset())
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
            states=[STATE_NUMBERS[state] for state in sorted(self.states)],
            tags=self.tags,
            metadata=dict(self.metadata),
            error=self.error,
            page_size=self.page_size,
            page_token=token,
        )
        if self.created_after is not None:
            request.create_after.FromDatetime(self.created_after)
        if self.created_before is not None:
            request.create_before.FromDatetime(self.created_before)
        return request


def _instant(given: datetime | None) -> datetime | None:
    return given.replace(tzinfo=UTC) if given is not None and given.tzinfo is None else given


def _state(state: JobState | str) -> JobState:
    try:
        return JobState(state)
    except ValueError:
        raise errors.InvalidArgument(
            f"state: {state!r} is none; there are {', '.join(JobState)}", field="state"
        ) from None
