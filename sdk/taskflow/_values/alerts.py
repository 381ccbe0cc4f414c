"""Alert rules as the cluster answers them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from taskflow._values.jobs import JobWarning


class AlertEvent(StrEnum):
    """An event that a rule can select."""

    JOB_FAILED = "job_failed"
    """A job failed and is not tried again."""
    RUN_FAILED = "run_failed"
    """A run of a workflow failed."""
    SLA_MISSED = "sla_missed"
    """A run or a job had not begun when its sla ended."""
    NO_WORKER = "no_worker"
    """Jobs wait that no live worker or executor can run."""
    BACKLOG_OLD = "backlog_old"
    """A job that could start waits for too long."""


class AlertKind(StrEnum):
    """How a message is sent."""

    WEBHOOK = "webhook"
    """As JSON, signed with HMAC-SHA256."""
    SLACK = "slack"
    """As `{"text": …}`, for Slack's incoming webhooks and what takes the same."""


@dataclass(frozen=True, slots=True)
class AlertRuleInfo:
    """A rule as it stood when it was asked for. Times are in seconds."""

    name: str
    active: bool
    events: tuple[AlertEvent, ...]
    namespace: str
    queue: str
    task: str
    workflow: str
    kind: AlertKind
    url: str
    url_secret: str
    secret: str
    window: float
    max_messages: int
    period: float
    no_worker_for: float
    backlog_age: float
    gathered: int
    """Facts that the next message has so far."""
    last_message_at: datetime | None
    last_job_id: str
    """The job that delivers the last message; empty before the first."""
    create_time: datetime | None
    update_time: datetime | None
    warnings: tuple[JobWarning, ...] = ()
    """That no live worker delivers messages. Lists leave it out."""
