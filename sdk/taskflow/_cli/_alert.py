"""`taskflow alert …`: rules that select facts for people, and where to send them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskflow._cli import _input, _output
from taskflow._cli._common import Address, Json, client, settle
from taskflow._cli._exits import FAILED, Ended, one_line
from taskflow._cli._job import warn

if TYPE_CHECKING:
    from taskflow import AlertRuleInfo, TaskFlow

app = typer.Typer(help="Alerts: rules, their destinations, a test.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="The rule: letters, digits, '-' and '_'.")]
Events = Annotated[list[str] | None, typer.Option(
    "--on", metavar="EVENT", help="job_failed, run_failed, sla_missed, no_worker or backlog_old; repeat it.")]
Namespace = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this namespace.")]
Queue = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this queue.")]
Task = Annotated[str | None, typer.Option(metavar="NAME", help="Only of this handler or named task.")]
Workflow = Annotated[str | None, typer.Option(metavar="NAME", help="Only runs of this workflow.")]
Kind = Annotated[str | None, typer.Option(metavar="KIND", help="webhook or slack; webhook by default.")]
Url = Annotated[str | None, typer.Option(metavar="URL", help="Where messages are sent.")]
UrlSecret = Annotated[str | None, typer.Option(
    metavar="NAME", help="Instead of --url: the worker's secret that is the URL.")]
Secret = Annotated[str | None, typer.Option(
    metavar="NAME", help="The worker's secret that signs the messages of a webhook: its name.")]
Window = Annotated[str | None, typer.Option(
    metavar="TIME", help="From a message's first fact to its sending, as 30s; 30s by default.")]
MaxMessages = Annotated[int | None, typer.Option(metavar="N", help="Messages in any --period; 10 by default.")]
Period = Annotated[str | None, typer.Option(metavar="TIME", help="1h by default.")]
NoWorkerFor = Annotated[str | None, typer.Option(
    metavar="TIME", help="How long a job waits without a worker before no_worker; 1m by default.")]
BacklogAge = Annotated[str | None, typer.Option(
    metavar="TIME", help="How long a job waits before backlog_old; 5m by default.")]
Active = Annotated[bool | None, typer.Option("--active/--paused", help="A paused rule gathers nothing.")]
_SPANS = ("window", "period", "no_worker_for", "backlog_age")


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given, as the SDK takes them."""
    found = {name: value for name, value in options.items() if value is not None and value != []}
    for name in _SPANS:
        if name in found:
            found[name] = _input.seconds(found[name], f"--{name.replace('_', '-')}")
    return found


@app.command("create", epilog="""\b
Examples:
  taskflow alert create on-call --on job_failed --on no_worker --queue emails \\
      --url https://hooks.example.org/taskflow --secret on-call
  taskflow alert create chat --on run_failed --kind slack --url-secret chat""")
def create(
    context: typer.Context, name: Name, on: Events = None, namespace: Namespace = None, queue: Queue = None,
    task: Task = None, workflow: Workflow = None, kind: Kind = None, url: Url = None, url_secret: UrlSecret = None,
    secret: Secret = None, window: Window = None, max_messages: MaxMessages = None, period: Period = None,
    no_worker_for: NoWorkerFor = None, backlog_age: BacklogAge = None, active: Active = None,
    address: Address = None, as_json: Json = False,
) -> None:
    """Create a rule."""
    given = _given(
        events=on, namespace=namespace, queue=queue, task=task, workflow=workflow, kind=kind, url=url,
        url_secret=url_secret, secret=secret, window=window, max_messages=max_messages, period=period,
        no_worker_for=no_worker_for, backlog_age=backlog_age, active=active,
    )
    _print(context, address, as_json, lambda tf: tf.alerts.create(name, **given))


@app.command("update", epilog="""\b
Examples:
  taskflow alert update on-call --max-messages 4 --period 15m
  taskflow alert update on-call --paused""")
def update(
    context: typer.Context, name: Name, on: Events = None, namespace: Namespace = None, queue: Queue = None,
    task: Task = None, workflow: Workflow = None, kind: Kind = None, url: Url = None, url_secret: UrlSecret = None,
    secret: Secret = None, window: Window = None, max_messages: MaxMessages = None, period: Period = None,
    no_worker_for: NoWorkerFor = None, backlog_age: BacklogAge = None, active: Active = None,
    address: Address = None, as_json: Json = False,
) -> None:
    """Change what is given; an empty text takes a selector away."""
    given = _given(
        events=on, namespace=namespace, queue=queue, task=task, workflow=workflow, kind=kind, url=url,
        url_secret=url_secret, secret=secret, window=window, max_messages=max_messages, period=period,
        no_worker_for=no_worker_for, backlog_age=backlog_age, active=active,
    )
    if not given:
        raise _input.BadInput("give at least one option to change")
    _print(context, address, as_json, lambda tf: tf.alerts.update(name, **given))


@app.command("list")
def list_(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List rules, by name."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = list(tf.alerts.list())
    if options.json:
        return _output.documents(asdict(rule) for rule in found)
    _output.table(
        ("rule", "active", "events", "selects", "kind", "gathered", "last message"),
        (
            (r.name, r.active, ", ".join(r.events), _selects(r), r.kind, r.gathered, r.last_message_at)
            for r in found
        ),
        empty="no alert rules",
    )


@app.command("show")
def show(context: typer.Context, name: Name, address: Address = None, as_json: Json = False) -> None:
    """Show a rule."""
    _print(context, address, as_json, lambda tf: tf.alerts.get(name))


@app.command("delete")
def delete(context: typer.Context, name: Name, address: Address = None) -> None:
    """Delete a rule, with what it has gathered."""
    options = settle(context, address, False)
    with client(options.address) as tf:
        tf.alerts.delete(name)


@app.command("test", epilog="""\b
Example:
  taskflow alert test on-call --wait-timeout 10s""")
def test(
    context: typer.Context,
    name: Name,
    wait_timeout: Annotated[str, typer.Option(metavar="TIME", help="How long to wait for the delivery.")] = "30s",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Send a test message at once; prints the job that delivers it, and waits for the delivery."""
    options = settle(context, address, as_json)
    patience = _input.seconds(wait_timeout, "--wait-timeout")
    with client(options.address) as tf:
        job_id = tf.alerts.test(name)
        if not options.json:
            print(job_id)
        job = tf.jobs.wait(job_id, patience)
    if job.state != "succeeded":
        raise Ended(FAILED, one_line(f"the test of {name} was not delivered: {job.error or job.state}"))
    if options.json:
        return _output.document({"job_id": job_id, "result": job.result})
    _output.notice(f"delivered; the receiver answered {job.result['status']}")


def _print(
    context: typer.Context, address: str | None, as_json: bool, call: Callable[[TaskFlow], AlertRuleInfo]
) -> None:
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        rule = call(tf)
    if options.json:
        return _output.document(asdict(rule))
    shown = asdict(rule) | {"events": ", ".join(rule.events), "warnings": None}
    _output.fields((name.replace("_", " "), value) for name, value in shown.items())
    warn(rule.warnings)


def _selects(rule: AlertRuleInfo) -> str:
    names = ("namespace", "queue", "task", "workflow")
    return ", ".join(f"{name} {getattr(rule, name)}" for name in names if getattr(rule, name))
