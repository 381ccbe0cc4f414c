"""Converts alert rules between messages and rows, and validates them; an error names the field."""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.protobuf.duration_pb2 import Duration

from taskflow.v1 import alerts_pb2 as pb
from taskflow_server.core.alerts import OF_JOBS, OF_RUNS, Event
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.names import qualify
from taskflow_server.rpc.values import duration, seconds, stamp
from taskflow_server.store.database import Row

GATHER, MAX_MESSAGES, PERIOD, NO_WORKER_FOR, BACKLOG_AGE = 30.0, 10, 3600.0, 60.0, 300.0  # defaults, in seconds
LONGEST = 86_400.0  # seconds, the limit of every duration in a rule
MOST_MESSAGES = 100  # in a period; their times are stored with the rule
MAX_URL = 2_000  # characters
EVENTS = {number: Event(name.removeprefix("ALERT_EVENT_").lower()) for name, number in pb.AlertEvent.items() if number}
KINDS = {pb.ALERT_KIND_WEBHOOK: "webhook", pb.ALERT_KIND_SLACK: "slack"}
_NUMBERS = {event: number for number, event in EVENTS.items()}
_KINDS = {name: number for number, name in KINDS.items()}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,128}\Z")
_URL = re.compile(r"https?://[^\x00-\x20\x7f\\@/?#]+([/?#][^\x00-\x20\x7f\\]*)?\Z")
# Proto field -> column, for the fields that UpdateAlertRule can change.
COLUMNS: Mapping[str, str] = {
    "active": "active", "events": "events", "namespace": "namespace", "queue": "queue", "task": "task",
    "workflow": "workflow", "kind": "kind", "url": "url", "url_secret": "url_secret", "secret": "secret",
    "window": "gather", "max_messages": "max_messages", "period": "period", "no_worker_for": "no_worker_for",
    "backlog_age": "backlog_age",
}  # fmt: skip


def name_of(name: str, field: str) -> str:
    """A rule's name, checked."""
    if not _NAME.match(name):
        said = f"{field}: {name[:140]!r} is not a valid name; use 1 to 128 letters, digits, '-' and '_'"
        raise InvalidArgument(said, field, "BAD_NAME")
    return name


def row_of(rule: pb.AlertRule) -> Row:
    """The columns of a caller's rule; an absent field gets its default. InvalidArgument names the field."""
    row: Row = {
        "name": name_of(rule.name, "rule.name"),
        "active": rule.active if rule.HasField("active") else True,
        "events": _events(rule),
        "namespace": _namespace(rule.namespace),
        "kind": KINDS.get(rule.kind, ""),
        "url": rule.url,
        "url_secret": _secret(rule.url_secret, "rule.url_secret"),
        "secret": _secret(rule.secret, "rule.secret"),
        "max_messages": rule.max_messages if rule.HasField("max_messages") else MAX_MESSAGES,
    }
    for name in ("queue", "task", "workflow"):
        given = getattr(rule, name)
        row[name] = qualify(given, field=f"rule.{name}") if given else ""
    for name, column, otherwise, least in (
        ("window", "gather", GATHER, 0.0), ("period", "period", PERIOD, 1.0),
        ("no_worker_for", "no_worker_for", NO_WORKER_FOR, 0.0), ("backlog_age", "backlog_age", BACKLOG_AGE, 0.0),
    ):  # fmt: skip
        given = rule.HasField(name)  # type: ignore[arg-type]
        row[column] = _span(getattr(rule, name), f"rule.{name}", least) if given else otherwise
    if not 1 <= row["max_messages"] <= MOST_MESSAGES:
        said = f"rule.max_messages: {row['max_messages']} is not between 1 and {MOST_MESSAGES}"
        raise InvalidArgument(said, "rule.max_messages")
    _check_selectors(row)
    _check_destination(row)
    return row


def changed(row: Row, rule: pb.AlertRule, paths: list[str]) -> Row:
    """A stored rule with the fields `paths` taken from `rule`; validates the whole rule again."""
    merged = message(row)
    for path in paths:
        if path not in COLUMNS:
            raise InvalidArgument(f"update_mask: {path!r} cannot be changed; {', '.join(COLUMNS)} can", "update_mask")
        merged.ClearField(path)  # type: ignore[arg-type]
        part = pb.AlertRule()
        for field, value in rule.ListFields():
            if field.name == path:
                if field.is_repeated:
                    getattr(part, path).extend(value)
                elif field.message_type is not None:
                    getattr(part, path).CopyFrom(value)
                else:
                    setattr(part, path, value)
        merged.MergeFrom(part)
    return row_of(merged)


def message(row: Row) -> pb.AlertRule:
    """A stored rule as the API shows it."""
    rule = pb.AlertRule(
        name=row["name"], active=row["active"], events=[_NUMBERS[Event(event)] for event in row["events"]],
        namespace=row["namespace"], queue=row["queue"], task=row["task"], workflow=row["workflow"],
        kind=_KINDS[row["kind"]], url=row["url"], url_secret=row["url_secret"], secret=row["secret"],
        window=duration(row["gather"]), max_messages=row["max_messages"], period=duration(row["period"]),
        no_worker_for=duration(row["no_worker_for"]), backlog_age=duration(row["backlog_age"]),
        create_time=stamp(row["created_at"]), update_time=stamp(row["updated_at"]),
    )  # fmt: skip
    rule.gathered = sum((row.get("counts") or {}).values())
    if row.get("last_at") is not None:
        rule.last_message_time.CopyFrom(stamp(row["last_at"]))  # type: ignore[arg-type]
    rule.last_job_id = str(row.get("last_job") or "")
    return rule


def _events(rule: pb.AlertRule) -> list[str]:
    known = ", ".join(name for name, number in pb.AlertEvent.items() if number)
    if not rule.events:
        raise InvalidArgument(f"rule.events: give at least one of {known}", "rule.events")
    for number in rule.events:
        if number not in EVENTS:
            raise InvalidArgument(f"rule.events: {number} is not one of {known}", "rule.events")
    return list(dict.fromkeys(EVENTS[number].value for number in rule.events))


def _namespace(name: str) -> str:
    if name:
        try:
            qualify(f"{name}/x", field="rule.namespace")
        except InvalidArgument:
            said = f"rule.namespace: {name[:140]!r} is not a valid name of a namespace"
            raise InvalidArgument(said, "rule.namespace", "BAD_NAME") from None
    return name


def _secret(name: str, field: str) -> str:
    """The name of a secret. The error does not repeat the text: it may be the secret itself."""
    if name and not _NAME.match(name):
        said = f"{field}: give the name of a secret of the worker, not the secret: letters, digits, '-' and '_'"
        raise InvalidArgument(said, field, "BAD_NAME")
    return name


def _span(given: Duration, field: str, least: float) -> float:
    value = seconds(given, field, least=least)
    if value > LONGEST:
        said = f"{field}: {value:g} s exceeds the limit of {LONGEST:g} s"
        raise InvalidArgument(said, field, "BAD_DURATION")
    return value


def _check_selectors(row: Row) -> None:
    """Refuses an event that the other selectors exclude: such a rule would never send a message."""
    events = {Event(event) for event in row["events"]}
    for name, allowed, of in (("queue", OF_JOBS, "jobs"), ("task", OF_JOBS, "jobs"), ("workflow", OF_RUNS, "runs")):
        if row[name] and not events <= allowed:
            wrong = ", ".join(sorted(events - allowed))
            said = f"rule.{name}: selects {of}, and the rule selects {wrong}; make a separate rule for that"
            raise InvalidArgument(said, f"rule.{name}")
    if row["workflow"] and (row["queue"] or row["task"]):
        raise InvalidArgument("rule.workflow: selects runs; give it or queue and task, not both", "rule.workflow")


def _check_destination(row: Row) -> None:
    if not row["kind"]:
        raise InvalidArgument("rule.kind: give ALERT_KIND_WEBHOOK or ALERT_KIND_SLACK", "rule.kind")
    if bool(row["url"]) == bool(row["url_secret"]):
        raise InvalidArgument("rule.url: give either url or url_secret, the name of its secret", "rule.url")
    if len(row["url"]) > MAX_URL:
        said = f"rule.url: {len(row['url']):,} characters exceed the limit of {MAX_URL:,}"
        raise InvalidArgument(said, "rule.url")
    if row["url"] and not _URL.match(row["url"]):
        said = "rule.url: is not a valid URL; give http:// or https://, a host without a user, and a path"
        raise InvalidArgument(said, "rule.url")
    if row["kind"] == "webhook" and not row["secret"]:
        said = "rule.secret: give the name of the worker's secret that signs the messages of a webhook"
        raise InvalidArgument(said, "rule.secret")
    if row["kind"] == "slack" and row["secret"]:
        raise InvalidArgument("rule.secret: a message for Slack is not signed; leave it out", "rule.secret")

