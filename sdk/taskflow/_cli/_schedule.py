"""`taskflow schedule …`: jobs that are made by a cron expression, or once."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from taskflow._cli import _input, _output
from taskflow._cli._common import Address, Json, client, settle
from taskflow._cli._job import warn
from taskflow._messages.texts import counted

if TYPE_CHECKING:
    from taskflow import TaskFlow
    from taskflow._values.schedules import ScheduleInfo

app = typer.Typer(
    help="Schedules: create, preview, pause, list the firings.", no_args_is_help=True, rich_markup_mode=None
)

Id = Annotated[str, typer.Argument(help="The schedule's id.")]
Zone = Annotated[str | None, typer.Option(metavar="ZONE", help="Zone of the cron, like Europe/Berlin; UTC by default.")]
Metadata = Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this entry; repeat it.")]
Limit = Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of lines.")]


@app.command("create", epilog="""\b
Examples:
  taskflow schedule create report "0 8 * * mon" --zone Europe/Berlin --payload '{"kind": "weekly"}'
  taskflow schedule create report @hourly --overlap allow --metadata customer=c9
  taskflow schedule create report --at 2027-12-24T18:00:00+01:00
  taskflow schedule create --workflow win-back "0 9 * * mon" --payload '{"gift": "tea"}'""")
def create(
    context: typer.Context,
    task: Annotated[str, typer.Argument(show_default=False,
        help="The task to run: the name of a handler or of a named task. Not with --workflow.")] = "",
    cron: Annotated[str | None, typer.Argument(
        help='Five fields, six with the seconds first, or @daily and so on.', show_default=False)] = None,
    workflow: Annotated[str, typer.Option(
        metavar="NAME", help="Run this workflow instead of a task, with the payload as its input.")] = "",
    at: Annotated[str | None, typer.Option(
        metavar="INSTANT", help="Fire once, instead of a cron; UTC unless it names a zone.")] = None,
    zone: Zone = None,
    start: Annotated[str | None, typer.Option(metavar="INSTANT", help="No firing before this.")] = None,
    end: Annotated[str | None, typer.Option(metavar="INSTANT", help="No firing after this.")] = None,
    payload: Annotated[str | None, typer.Option(
        metavar="PAYLOAD", help="Payload of its jobs: JSON, @FILE, or - for standard input.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(
        metavar="KEY=VALUE", help="Attributes of your own, also of its jobs; repeat it.")] = None,
    misfire: Annotated[str | None, typer.Option(
        metavar="POLICY", help="For missed firings: skip, fire_once, catch_up; fire_once by default.")] = None,
    overlap: Annotated[str | None, typer.Option(
        metavar="POLICY",
        help="While its last job is unfinished: skip, allow, queue, replace; skip by default.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Create it paused: it fires after `resume`.")] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Run a task or a workflow by a cron expression, or once; prints the schedule's id."""
    options = settle(context, address, as_json)
    if not (task or workflow):
        raise _input.BadInput("name the task, or with --workflow the workflow, that it runs")
    if workflow:
        if cron is not None:
            raise _input.BadInput(f"with --workflow there is no task: give {cron!r} or {task!r}")
        task, cron = "", task or None
    if (cron is None) == (at is None):
        raise _input.BadInput("give either a cron expression or --at")
    given: dict[str, Any] = {
        "cron": cron,
        "at": _input.instant(at, "--at"),
        "time_zone": zone,
        "start": _input.instant(start, "--start"),
        "end": _input.instant(end, "--end"),
        "payload": _input.payload(payload),
        "metadata": _input.pairs(metadata or [], "--metadata"),
        "misfire": misfire,
        "overlap": overlap,
    }
    with client(options.address) as tf:
        schedule = tf.schedules.create(task, workflow=workflow, active=not paused, **_typed(given))
    if options.json:
        return _output.document(asdict(schedule))
    print(schedule.id)
    warn(schedule.warnings)


@app.command("list", epilog="""\b
Example:
  taskflow schedule list --task report --metadata customer=c9 --json | jq -r .id""")
def list_(
    context: typer.Context,
    task: Annotated[str, typer.Option(metavar="NAME", help="Only of this task.")] = "",
    metadata: Metadata = None,
    limit: Limit = 100,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """List schedules, oldest first."""
    options = settle(context, address, as_json)
    wanted = _input.pairs(metadata or [], "--metadata")
    with client(options.address) as tf:
        listed = tf.schedules.list(task=task, metadata=wanted, page_size=min(limit + 1, 1000))
        found = list(islice(listed, limit + 1))
    if options.json:
        return _output.documents(asdict(schedule) for schedule in found[:limit])
    _output.table(
        ("id", "task", "when", "zone", "active", "last run", "next run"),
        (
            (s.id, s.task or s.workflow, s.cron or s.at, s.time_zone, s.active, s.last_run_at, s.next_run_at)
            for s in found[:limit]
        ),
        empty="no such schedules",
    )
    _say_more(found, limit)


@app.command("show")
def show(context: typer.Context, id: Id, address: Address = None, as_json: Json = False) -> None:
    """Show a schedule."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        schedule = tf.schedules.get(id)
    if options.json:
        return _output.document(asdict(schedule))
    _output.fields((
        ("id", schedule.id),
        ("task", schedule.task),
        ("workflow", schedule.workflow),
        ("cron", schedule.cron),
        ("at", schedule.at),
        ("zone", schedule.time_zone),
        ("active", schedule.active),
        ("last run", schedule.last_run_at),
        ("next run", schedule.next_run_at),
        ("start", schedule.start),
        ("end", schedule.end),
        ("payload", schedule.payload),
        ("metadata", schedule.metadata),
        ("misfire", schedule.misfire),
        ("overlap", schedule.overlap),
        ("created", schedule.create_time),
    ))  # fmt: skip


@app.command("pause")
def pause(context: typer.Context, id: Id, address: Address = None, as_json: Json = False) -> None:
    """Stop a schedule from firing, until `resume`."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        _print_switched(tf.schedules.pause(id), options.json)


@app.command("resume")
def resume(context: typer.Context, id: Id, address: Address = None, as_json: Json = False) -> None:
    """Let a paused schedule fire again. It counts from now: nothing is caught up."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        _print_switched(tf.schedules.resume(id), options.json)


@app.command("preview", epilog="""\b
Examples:
  taskflow schedule preview "0 8 * * mon" --zone Europe/Berlin -n 5
  taskflow schedule preview 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c""")
def preview(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="CRON|ID", help="A cron expression, or a schedule's id.")],
    zone: Zone = None,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, help="Number of instants.")] = 10,
    after: Annotated[str | None, typer.Option(metavar="INSTANT", help="Instants after this; now by default.")] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Print the next instants of a schedule or a cron expression. Creates nothing."""
    options = settle(context, address, as_json)
    since = _input.instant(after, "--after")
    if _is_id(what) and zone is not None:
        raise _input.BadInput("--zone is for a cron expression: a schedule has its own")
    with client(options.address) as tf:
        times, zone = _fires(tf, what, zone or "UTC", count, since)
    if options.json:
        return _output.documents({"instant": each} for each in times)
    if zone == "UTC":
        return _output.table(("UTC",), ((each,) for each in times), empty="it fires no more")
    _output.table(("UTC", zone), ((each, _there(each, zone)) for each in times), empty="it fires no more")


@app.command("firings", epilog="""\b
Example:
  taskflow schedule firings 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c --limit 5""")
def firings(
    context: typer.Context, id: Id, limit: Limit = 50, address: Address = None, as_json: Json = False
) -> None:
    """List the instants of a schedule with their states, newest first."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = list(islice(tf.schedules.firings(id, page_size=min(limit + 1, 1000)), limit + 1))
        if not found:
            tf.schedules.get(id)  # none of a schedule, or no schedule: the second is an error
    if options.json:
        return _output.documents(asdict(firing) for firing in found[:limit])
    _output.table(
        ("instant", "state", "count", "job", "reason"),
        ((f.instant, f.state, f.count, f.job_id or "-", f.reason or "-") for f in found[:limit]),
        empty="it has not fired yet",
    )
    _say_more(found, limit)


@app.command("backfill", epilog="""\b
Examples:
  taskflow schedule backfill 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c --start 2027-03-01
  taskflow schedule backfill 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c --start 2027-03-01 --end 2027-03-08T12:00:00Z""")
def backfill(
    context: typer.Context,
    id: Id,
    start: Annotated[str, typer.Option(metavar="INSTANT", help="The first instant; UTC unless it names a zone.")],
    end: Annotated[str | None, typer.Option(
        metavar="INSTANT", help="Instants before this; now by default.", show_default=False)] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Submit a job for each past instant without one; prints the ids. All at once: overlap does not apply."""
    options = settle(context, address, as_json)
    first, before = _input.instant(start, "--start"), _input.instant(end, "--end")
    assert first is not None
    with client(options.address) as tf:
        found = tf.schedules.backfill(id, start=first, end=before)
    if options.json:
        return _output.documents(asdict(firing) for firing in found.firings)
    for firing in found.firings:
        print(firing.job_id)
    made, there = counted(len(found.firings), "job"), counted(found.existing, "instant")
    _output.notice(f"{made} made; {there} had one")


@app.command("delete", epilog="""\b
Examples:
  taskflow schedule delete 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c
  taskflow schedule delete --metadata customer=c9 --metadata campaign=spring""")
def delete(
    context: typer.Context,
    id: Annotated[str | None, typer.Argument(metavar="ID", help="The schedule's id.", show_default=False)] = None,
    metadata: Annotated[list[str] | None, typer.Option(
        metavar="KEY=VALUE", help="All schedules with this entry; repeat it for several entries.")] = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Delete a schedule, or all with these entries of metadata; prints the ids. Their jobs stay."""
    options = settle(context, address, as_json)
    wanted = _input.pairs(metadata or [], "--metadata")
    if (id is None) != bool(wanted):
        raise _input.BadInput("give either an id or --metadata KEY=VALUE")
    with client(options.address) as tf:
        ids = list(tf.schedules.delete(id, metadata=wanted))
    if options.json:
        return _output.documents({"id": each} for each in ids)
    if not ids:
        return _output.notice("no such schedules")
    for each in ids:
        print(each)


def _typed(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def _fires(tf: TaskFlow, what: str, zone: str, count: int, after: datetime | None) -> tuple[list[datetime], str]:
    """The next instants, and the zone that they are meant in."""
    if _is_id(what):
        zone = tf.schedules.get(what).time_zone
        return list(tf.schedules.preview(what, count=count, after=after)), zone
    return list(tf.schedules.preview(count=count, after=after, cron=what, time_zone=zone)), zone


def _there(moment: datetime, zone: str) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return moment.astimezone(ZoneInfo(zone)).strftime("%a %Y-%m-%d %H:%M:%S %z")
    except ZoneInfoNotFoundError:  # the cluster knows the zone, this machine has no zones
        return "-"


def _print_switched(schedule: ScheduleInfo, as_json: bool) -> None:
    if as_json:
        return _output.document(asdict(schedule))
    if schedule.active:
        return print(f"schedule {schedule.id} is active; next run {_output.cell(schedule.next_run_at)}")
    print(f"schedule {schedule.id} is paused")


def _say_more(found: list[Any], limit: int) -> None:
    if len(found) > limit:
        _output.notice(f"there are more; --limit {limit * 10} shows them")
