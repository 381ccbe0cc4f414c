"""`taskflow task …`: named tasks on the cluster."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskflow._cli import _input, _output
from taskflow._cli._common import Address, Json, client, settle
from taskflow._cli._job import NoTimeout, WaitTimeout, finish, wait_time
from taskflow._policy import PRIORITIES

if TYPE_CHECKING:
    from taskflow._values.tasks import TaskInfo, TaskLogInfo

app = typer.Typer(help="Named tasks: create, run by name, update, remove.", no_args_is_help=True, rich_markup_mode=None)

Task = Annotated[str, typer.Argument(metavar="TASK", help="The task's name or id.")]
Target = Annotated[str | None, typer.Option(
    metavar="NAME", help="The handler that runs it; by default the one with the task's name.", show_default=False)]
Queue = Annotated[str | None, typer.Option(metavar="NAME", help="Queue of its jobs.")]
Cron = Annotated[str | None, typer.Option(
    metavar="CRON", help='Its schedule, like "0 8 * * mon" or @daily.', show_default=False)]
Zone = Annotated[str | None, typer.Option(metavar="ZONE", help="Its zone, like Europe/Berlin; UTC by default.")]
Retries = Annotated[int | None, typer.Option(metavar="N", help="Further tries after the first.")]
Concurrency = Annotated[int | None, typer.Option(
    metavar="N", help="Maximum number of its jobs that run at once in the cluster; 0: no limit.")]
Priority = Annotated[str | None, typer.Option(metavar="P", help="0 to 9, or low, normal, high, critical.")]
Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="Hard limit of one attempt, like 90s; or none.")]
Beat = Annotated[str | None, typer.Option(
    "--heartbeat-timeout", metavar="TIME", help="Maximum time between heartbeats of the handler; or none.")]
Backoff = Annotated[str | None, typer.Option(
    metavar="FIRST:FACTOR:LIMIT", help="Delay before further tries, like 1s:2:10m; or none for the default.")]
Sla = Annotated[str | None, typer.Option(
    metavar="TIME", help="Each of its jobs should start within this time, like 10m; or none.")]
Start = Annotated[str | None, typer.Option(
    metavar="INSTANT", help="No firing of its schedule before this; UTC without a zone; or none.", show_default=False)]
End = Annotated[str | None, typer.Option(
    metavar="INSTANT", help="No firing of its schedule after this; likewise.", show_default=False)]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="TAG", help="Tag of its jobs; repeat it.")]
Metadata = Annotated[list[str] | None, typer.Option(
    metavar="KEY=VALUE", help="Attributes of its jobs; repeat it.")]
Payload = Annotated[str | None, typer.Option(
    metavar="JSON", help="Payload of its jobs that bring none: JSON, or @FILE.", show_default=False)]
Title = Annotated[str | None, typer.Option(metavar="TEXT", help="A line for people.")]
Description = Annotated[str | None, typer.Option(metavar="TEXT", help="A description for people.")]


@app.command("create", epilog="""\b
Examples:
  taskflow task create report --queue reports --retries 3
  taskflow task create monday-report --target report --queue reports --schedule "0 8 * * mon" --zone Europe/Berlin
  taskflow task create advent --target report --schedule @daily --start 2027-12-01 --end 2027-12-24T23:59Z --sla 10m""")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The task's name; it must be unique.")],
    target: Target = None,
    queue: Queue = None,
    schedule: Cron = None,
    zone: Zone = None,
    retries: Retries = None,
    start: Start = None,
    end: End = None,
    concurrency: Concurrency = None,
    priority: Priority = None,
    sla: Sla = None,
    timeout: Timeout = None,
    heartbeat: Beat = None,
    backoff: Backoff = None,
    tag: Tags = None,
    metadata: Metadata = None,
    title: Title = None,
    description: Description = None,
    payload: Payload = None,
    inactive: Annotated[bool, typer.Option("--inactive", help="The schedule does not fire yet.")] = False,
    require_handler: Annotated[bool, typer.Option(
        "--require-handler", help="Refuse a task whose handler no worker has registered.")] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Create a named task; prints its id."""
    options = settle(context, address, as_json)
    given = _given(
        target=target, queue=queue, schedule=schedule, time_zone=zone, retries=retries,
        concurrency=concurrency,
        priority=_input.priority(priority), title=title, description=description, active=False if inactive else None,
    ) | _given_of_jobs(timeout, heartbeat, backoff, tag, metadata) | _given_or_none(sla, start, end)  # fmt: skip
    if payload is not None:
        given["payload"] = _input.payload(payload)
    with client(options.address) as tf:
        task = tf.tasks.create(name, require_handler=require_handler, **given)
    if options.json:
        return _output.document(asdict(task))
    print(task.id)
    if "HANDLER_NOT_SEEN" in task.warnings:
        _output.notice(f"no worker has ever registered the handler {task.target}")


@app.command("list", epilog="\b\nExample:\n  taskflow task list --json | jq -r 'select(.active) | .name'")
def list_(context: typer.Context, address: Address = None, as_json: Json = False) -> None:
    """List the named tasks, by name."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        tasks = list(tf.tasks.list(page_size=1000))
    if options.json:
        return _output.documents(asdict(task) for task in tasks)
    _output.table(
        ("task", "queue", "active", "schedule", "zone", "last run", "next run", "title"),
        (
            (_full_name(t), t.queue, t.active, t.schedule or "-", t.time_zone or "-", t.last_run_at, t.next_run_at,
             t.title)
            for t in tasks
        ),
        empty="no tasks yet; make one with: taskflow task create NAME",
    )


@app.command("show")
def show(context: typer.Context, task: Task, address: Address = None, as_json: Json = False) -> None:
    """Show a task, with its last and its next run."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        _print_task(tf.tasks.get(task), options.json)


@app.command("run", epilog="""\b
Examples:
  taskflow task run report '{"month": "2027-03"}'
  taskflow task run report @month.json --wait --wait-timeout 5m
  taskflow task run report --run-at 2027-03-01T06:00Z --priority high
  taskflow task run report --requester '{"user": "u1", "roles": ["editor"]}'
  taskflow task run report --result --json | jq .result""")
def run(
    context: typer.Context,
    task: Task,
    payload: Annotated[str | None, typer.Argument(
        help="JSON, @FILE, or - for standard input; the task's own by default.", show_default=False)] = None,
    text: Annotated[bool, typer.Option("--text", help="The payload is plain text, not JSON.")] = False,
    requester: Annotated[str | None, typer.Option(
        metavar="JSON", help="Attributes of the end user, for the handler.")] = None,
    run_at: Annotated[str | None, typer.Option(
        "--run-at", metavar="TIME", help="When it is due, in ISO 8601; at once by default.",
        show_default=False)] = None,
    priority: Priority = None,
    wait: Annotated[bool, typer.Option("--wait", "--result", help="Wait for the end and print the result.")] = False,
    wait_timeout: WaitTimeout = None,
    timeout: NoTimeout = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Submit a job of a task, also of an inactive one; prints the job's id."""
    options = settle(context, address, as_json)
    patience = wait_time(wait_timeout, timeout, wait=wait)
    body = _input.payload(payload, text=text)
    attributes = _input.requester(requester)
    due, rank = _input.instant(run_at, "--run-at"), _input.priority(priority)
    with client(options.address) as tf:
        job = tf.tasks.run(task, body, requester=attributes, run_at=due, priority=rank)
        if wait:
            if not options.json:
                _output.notice(f"job {job.id}")
            finish(tf, job.id, patience, options.json)
        elif options.json:
            _output.document({"id": job.id, "queue": job.queue, "task": job.task})
        else:
            print(job.id)


@app.command("update", epilog="""\b
Examples:
  taskflow task update report --schedule "30 7 * * *" --zone Europe/Berlin
  taskflow task update report --schedule ""                # no schedule any more
  taskflow task update report --timeout none --backoff 10s:2:1h --sla 5m
  taskflow task update report --start none --end 2027-12-31
  taskflow task update report --concurrency 3              # at most 3 jobs of it run at once
  taskflow task update report --inactive                   # stops its schedule; run still works""")
def update(
    context: typer.Context,
    task: Task,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The new name.")] = None,
    target: Target = None,
    queue: Queue = None,
    schedule: Cron = None,
    zone: Zone = None,
    retries: Retries = None,
    start: Start = None,
    end: End = None,
    concurrency: Concurrency = None,
    priority: Priority = None,
    sla: Sla = None,
    timeout: Timeout = None,
    heartbeat: Beat = None,
    backoff: Backoff = None,
    tag: Tags = None,
    metadata: Metadata = None,
    title: Title = None,
    description: Description = None,
    payload: Payload = None,
    active: Annotated[bool | None, typer.Option(
        "--active/--inactive", help="Whether its schedule fires.", show_default=False)] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Change the given fields. A new schedule counts from now."""
    options = settle(context, address, as_json)
    given = _given(
        name=name, target=target, queue=queue, schedule=schedule, time_zone=zone, retries=retries,
        concurrency=concurrency,
        priority=_input.priority(priority), title=title, description=description, active=active,
    ) | _given_of_jobs(timeout, heartbeat, backoff, tag, metadata) | _given_or_none(sla, start, end)  # fmt: skip
    if payload is not None:
        given["payload"] = _input.payload(payload)
    if not given:
        raise _input.BadInput("nothing to change: give an option, like --queue; see `taskflow task update --help`")
    with client(options.address) as tf:
        _print_task(tf.tasks.update(task, **given), options.json)


@app.command("remove")
def remove(context: typer.Context, task: Task, address: Address = None, as_json: Json = False) -> None:
    """Remove a task with its own schedule; its jobs stay."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        tf.tasks.remove(task)
    if options.json:
        return _output.document({"removed": task})
    print(f"task {task} is removed")


@app.command("logs", epilog="""\b
Examples:
  taskflow task logs report --type failed --limit 10
  taskflow task logs --json | jq -r .job_id                # of all tasks""")
def logs(
    context: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="A name or id; by default all tasks.")] = "",
    type: Annotated[str, typer.Option(metavar="TYPE", help="Only completed, or only failed.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="Maximum number of runs.")] = 50,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """List the runs that ended with their results, newest first."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = tf.tasks.logs(task, limit=limit, type=type)
    if options.json:
        return _output.documents(asdict(log) for log in found.logs)
    _output.table(
        ("job", "task", "time", "outcome", "result"),
        ((log.job_id, log.task, log.time, log.type.rpartition(".")[2], _gave(log)) for log in found.logs),
        empty="no runs have ended",
    )
    if found.count > len(found.logs):
        _output.notice(f"{found.count:,} in all")


def _full_name(task: TaskInfo) -> str:
    """As every command takes it."""
    return task.name if task.namespace in ("", "default") else f"{task.namespace}/{task.name}"


def _given(**options: Any) -> dict[str, Any]:
    """The typed options: one that was left out changes nothing."""
    return {name: value for name, value in options.items() if value is not None}


def _given_of_jobs(
    timeout: str | None, heartbeat: str | None, backoff: str | None, tags: list[str] | None, metadata: list[str] | None
) -> dict[str, Any]:
    """The typed options of its jobs. `none` is a value: it takes away what was set."""
    from taskflow._values.backoff import Exponential

    delays = _input.backoff(backoff, "--backoff")
    given: dict[str, Any] = {
        "timeout": _input.limit(timeout, "--timeout"),
        "heartbeat_timeout": _input.limit(heartbeat, "--heartbeat-timeout"),
        "backoff": Exponential(**delays) if isinstance(delays, dict) else delays,
        "tags": tags or ...,
        "metadata": _input.pairs(metadata, "--metadata") if metadata else ...,
    }
    return {name: value for name, value in given.items() if value is not ...}


def _given_or_none(sla: str | None, start: str | None, end: str | None) -> dict[str, Any]:
    """Further options for which `none` removes the value."""
    given: dict[str, Any] = {"sla": _input.limit(sla, "--sla")}
    for name, value in (("start", start), ("end", end)):
        if value is not None:
            given[name] = None if value == "none" else _input.instant(value, f"--{name}")
    return {name: value for name, value in given.items() if value is not ...}


def _print_task(task: TaskInfo, as_json: bool) -> None:
    if as_json:
        return _output.document(asdict(task))
    _output.fields((
        ("task", _full_name(task)),
        ("id", task.id),
        ("title", task.title),
        ("description", task.description),
        ("active", task.active),
        ("handler", task.target),
        ("queue", task.queue),
        ("priority", _rank(task.priority)),
        ("retries", task.retries),
        ("sla", _length(task.sla)),
        ("concurrency", task.concurrency or ""),
        ("timeout", _length(task.timeout)),
        ("heartbeat timeout", _length(task.heartbeat_timeout)),
        ("backoff", _delays(task)),
        ("tags", list(task.tags)),
        ("metadata", task.metadata),
        ("payload", "" if task.payload is None else _output.shorten(_output.cell(task.payload))),
        ("schedule", task.schedule),
        ("zone", task.time_zone),
        ("start", task.start),
        ("end", task.end),
        ("last run", task.last_run_at),
        ("next run", task.next_run_at),
        ("created", task.create_time),
    ))  # fmt: skip


def _rank(priority: int) -> str:
    names = [name for name, value in PRIORITIES.items() if value == priority]
    return f"{priority} ({names[0]})" if names else str(priority)


def _length(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:g} s"


def _delays(task: TaskInfo) -> str:
    if (delays := task.backoff) is None:
        return ""
    if delays.factor == 1 or delays.first >= delays.limit:
        return f"{min(delays.first, delays.limit):g} s"
    return f"{delays.first:g} s, times {delays.factor:g}, at most {delays.limit:g} s"


def _gave(log: TaskLogInfo) -> str:
    if log.error is not None:
        return _output.shorten(str(log.error))
    return _output.shorten(_output.cell(log.result))
