"""Errors as types with fields. `taskflow_server.rpc.errors` maps them to status codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class TaskFlowFault(Exception):
    """Base of the errors that a caller may get."""

    message: str

    def __str__(self) -> str:
        return self.message


@dataclass
class InvalidArgument(TaskFlowFault):
    """Bad input; `field` is the path of the field at fault, as `jobs[3].retries`."""

    field: str = ""
    reason: str = ""


@dataclass
class NotFound(TaskFlowFault):
    reason: str = "NOT_FOUND"


@dataclass
class AlreadyExists(TaskFlowFault):
    reason: str = "ALREADY_EXISTS"


@dataclass
class FailedPrecondition(TaskFlowFault):
    reason: str = "FAILED_PRECONDITION"


@dataclass
class ResourceExhausted(TaskFlowFault):
    """A limit is exceeded. `metadata`: the quota and its use. `retry_after`: seconds, where waiting helps."""

    reason: str = "RESOURCE_EXHAUSTED"
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None


@dataclass
class Unavailable(TaskFlowFault):
    """A part of the system is unreachable: retry. Nothing was done, or the same call may be repeated."""

    reason: str = "UNAVAILABLE"
    retry_after: float = 1.0


@dataclass
class InternalFault(TaskFlowFault):
    """A fault in TaskFlow that a retry cannot fix; the message says what to report."""

    reason: str = "INTERNAL"


class NotOwner(Exception):
    """A fence failed: another coordinator owns the shard. Never shown to a user."""
