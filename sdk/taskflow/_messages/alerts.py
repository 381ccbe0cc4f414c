"""Messages of alert rules as values, and the options that define a rule."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final, TypedDict, TypeVar

from taskflow._messages import checks
from taskflow._messages.jobs import time_of, warnings_of
from taskflow._values.alerts import AlertEvent, AlertKind, AlertRuleInfo
from taskflow.errors import InvalidArgument
from taskflow.v1 import alerts_pb2 as pb

E = TypeVar("E", bound=StrEnum)

MOST_MESSAGES: Final = 100
LONGEST: Final = 86_400.0  # seconds


class AlertOptions(TypedDict, total=False):
    """Options of `create` and `update`. An empty selector selects all."""

    active: bool
    """True by default. A paused rule gathers nothing, and what it had gathered is dropped."""
    events: Iterable[AlertEvent | str]
    """At least one."""
    namespace: str
    """The namespace of the queue, or of the workflow."""
    queue: str
    task: str
    """A handler; for `job_failed` and `sla_missed` also a named task."""
    workflow: str
    kind: AlertKind | str
    """`webhook` by default."""
    url: str
    url_secret: str
    """Instead of `url`: the name of the worker's secret that is the URL, as that of Slack's."""
    secret: str
    """The name of the worker's secret that signs a webhook. The secret itself stays with the worker."""
    window: float
    """Seconds from the first fact of a message to its sending; 30 by default."""
    max_messages: int
    """In any `period`; 10 by default. Further facts wait for the next message."""
    period: float
    """Seconds; 3600 by default."""
    no_worker_for: float
    """For `no_worker`: seconds that a job waits before; 60 by default."""
    backlog_age: float
    """For `backlog_old`: seconds that a job waits before; 300 by default."""


_TEXTS = ("namespace", "queue", "task", "workflow", "url", "url_secret", "secret")
_SPANS = ("window", "period", "no_worker_for", "backlog_age")


def alert_message(name: str, given: AlertOptions) -> pb.AlertRule:
    """The message of a rule; InvalidArgument names the option at fault."""
    checks.options(given, AlertOptions.__annotations__, "an alert")
    rule = pb.AlertRule(name=checks.text(name, "name"))
    if "active" in given:
        rule.active = checks.flag(given["active"], "active")
    for event in checks.items(given.get("events", ()), "events", f"some of {', '.join(AlertEvent)}"):
        rule.events.append(pb.AlertEvent.Value(f"ALERT_EVENT_{_one_of(AlertEvent, event, 'events').name}"))
    if "kind" in given:
        rule.kind = pb.AlertKind.Value(f"ALERT_KIND_{_one_of(AlertKind, given['kind'], 'kind').name}")
    for field in _TEXTS:
        if field in given:
            setattr(rule, field, checks.text(given[field], field))  # type: ignore[literal-required]
    for field in _SPANS:
        if field in given:
            value = checks.number(given[field], field)  # type: ignore[literal-required]
            if not 0 <= value <= LONGEST:
                raise checks.wrong(value, field, f"a number of seconds from 0 to {LONGEST:,.0f}")
            span = getattr(rule, field)
            span.FromMicroseconds(round(value * 1e6))
            span.SetInParent()
    if "max_messages" in given:
        rule.max_messages = checks.whole(given["max_messages"], "max_messages", 1, MOST_MESSAGES)
    return rule


def _one_of(kind: type[E], value: str, field: str) -> E:
    try:
        return kind(value)
    except Exception:  # the enum shows the value, whose own code may raise
        raise InvalidArgument(f"{field}: {checks.shown(value)} is not one of {', '.join(kind)}", field=field) from None


def alert_info(rule: pb.AlertRule) -> AlertRuleInfo:
    """The value of an AlertRule message."""
    return AlertRuleInfo(
        name=rule.name,
        active=rule.active,
        events=tuple(AlertEvent[pb.AlertEvent.Name(e).removeprefix("ALERT_EVENT_")] for e in rule.events),
        namespace=rule.namespace,
        queue=rule.queue,
        task=rule.task,
        workflow=rule.workflow,
        kind=AlertKind[pb.AlertKind.Name(rule.kind).removeprefix("ALERT_KIND_")],
        url=rule.url,
        url_secret=rule.url_secret,
        secret=rule.secret,
        window=_seconds(rule.window.ToMicroseconds()),
        max_messages=rule.max_messages,
        period=_seconds(rule.period.ToMicroseconds()),
        no_worker_for=_seconds(rule.no_worker_for.ToMicroseconds()),
        backlog_age=_seconds(rule.backlog_age.ToMicroseconds()),
        gathered=rule.gathered,
        last_message_at=time_of(rule, "last_message_time"),
        last_job_id=rule.last_job_id,
        create_time=time_of(rule, "create_time"),
        update_time=time_of(rule, "update_time"),
        warnings=warnings_of(rule.warnings),
    )


def _seconds(microseconds: int) -> float:
    return microseconds / 1e6
