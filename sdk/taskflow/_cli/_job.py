"""`taskflow job …`: hand in, look at, wait for, cancel, retry."""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from taskflow._cli import _input, _output
from taskflow._cli._common import Address, Json, client, settle
from taskflow._cli._exits import FAILED, Ended, one_line

if TYPE_CHECKING:
    from taskflow import TaskFlow
    from taskflow._resources import AttemptInfo, ErrorInfo, JobInfo

app = typer.Typer(help="Jobs: hand in, look at, wait for, cancel, retry.", no_args_is_help=True, rich_markup_mode=None)

_TAKING_OUT = 3.0  # seconds that `cancel` waits for a job that does not run

Id = Annotated[str, typer.Argument(help="The job's id.")]
Timeout = Annotated[str | None, typer.Option(metavar="TIME", help="Wait no longer, like 30s or 5m; then exit 4.")]


@app.command("new", epilog="""\b
Examples:
  taskflow job new emails '{"to": "ada@example.org"}' --retries 5
  taskflow job new emails @mail.json --at 2026-12-24T18:00:00Z
  echo '[1, 2, 3]' | taskflow job new numbers - --task add --wait --json
  taskflow job new notes 'plain words' --text --key note-42""")
def new(
    context: typer.Context,
    queue: Annotated[str, typer.Argument(help="Made if there is none of this name.")],
    payload: Annotated[str | None, typer.Argument(
        help="JSON, @FILE, or - for standard input; null by default.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="The task; else the queue's own handler.")] = None,
    retries: Annotated[int, typer.Option(metavar="N", help="Further tries after the first.")] = 0,
    priority: Annotated[str | None, typer.Option(metavar="P", help="0 to 9, or low, normal, high, critical.")] = None,
    delay: Annotated[str | None, typer.Option(metavar="TIME", help="Due after this, like 90s, 5m, 2h.")] = None,
    at: Annotated[str | None, typer.Option(metavar="INSTANT", help="Due then; UTC unless it names a zone.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Idempotency key: a second job is not made.")] = None,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Hard limit of one attempt.")] = None,
    text: Annotated[bool, typer.Option("--text", help="The payload is text as it stands, not JSON.")] = False,
    requester: Annotated[str | None, typer.Option(
        metavar="JSON", help="Attributes of whoever it is made for, which the handler sees.")] = None,
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="A line for people.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the result.")] = False,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Hand in a job; prints its id once it is on disk."""
    options = settle(context, address, as_json)
    if delay is not None and at is not None:
        raise _input.BadInput("give either --delay or --at, not both")
    given: dict[str, Any] = {
        "task": task,
        "retries": retries,
        "priority": _input.priority(priority),
        "delay": _input.seconds(delay, "--delay"),
        "run_at": _input.instant(at, "--at"),
        "key": key,
        "timeout": _input.seconds(timeout, "--timeout"),
        "requester": _input.requester(requester),
        "label": label,
    }
    body = _input.payload(payload, text=text)
    with client(options.address) as tf:
        job = tf.new_job(queue, body, **given)
        if wait:
            if not options.json:
                _output.notice(f"job {job.id}")
            finish(tf, job.id, None, options.json)
        elif options.json:
            _output.document({"id": job.id, "queue": queue, "task": task or ""})
        else:
            print(job.id)


@app.command("list", epilog="""\b
Examples:
  taskflow job list --queue emails --state failed --error ConnectionRefused --since 2h
  taskflow job list --tag nightly --metadata customer=c9
  taskflow job list --state running --state retrying --json | jq -r .id""")
def list_(
    context: typer.Context,
    queue: Annotated[str, typer.Option(metavar="NAME", help="Only of this queue.")] = "",
    state: Annotated[list[str] | None, typer.Option(
        metavar="STATE", help=f"Only in these: {', '.join(_input.STATES)}; repeat it, or use commas.")] = None,
    task: Annotated[str, typer.Option(metavar="NAME", help="Only of this task.")] = "",
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="Only with this tag; repeat it.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(
        metavar="KEY=VALUE", help="Only with this entry of metadata; repeat it.")] = None,
    error: Annotated[str, typer.Option(
        metavar="TEXT", help="Only whose last error has this type, or this text in its message.")] = "",
    since: Annotated[str, typer.Option(
        metavar="WHEN", help="Made since then: an ISO time, or 36h for so long ago. By default 7d.")] = "",
    until: Annotated[str, typer.Option(metavar="WHEN", help="Made before then.")] = "",
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many.")] = 50,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    options = settle(context, address, as_json)
    states = _input.states(state or [])
    with client(options.address) as tf:
        found = tf.jobs.list(
            queue=queue, states=states, task=task, tags=tag or (), metadata=_input.pairs(metadata or [], "--metadata"),
            error=error, created_after=_input.moment(since, "--since"),
            created_before=_input.moment(until, "--until"),
            page_size=min(limit + 1, 1000),
        )  # fmt: skip
        jobs = list(islice(found, limit + 1))
    if options.json:
        return _output.documents(_plain(job) for job in jobs[:limit])
    _output.table(
        ("id", "queue", "task", "state", "attempt", "created", "error"),
        (
            (job.id, job.queue, job.task or "-", job.state, job.attempt, job.create_time, _short(job.error))
            for job in jobs[:limit]
        ),
        empty="no such jobs",
    )
    if len(jobs) > limit:
        _output.notice(f"there are more; --limit {limit * 10} shows them")


@app.command("show", epilog="\b\nExample:\n  taskflow job show 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c --json | jq .state")
def show(context: typer.Context, id: Id, address: Address = None, as_json: Json = False) -> None:
    """Show a job and its attempts."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        job = tf.jobs.get(id)
        attempts = tf.jobs.attempts(id)
    if options.json:
        return _output.document({**_plain(job), "attempts": [_plain(each) for each in attempts]})
    _print_job(job)
    if attempts:
        print()
        _output.table(
            ("attempt", "outcome", "started", "ran", "worker", "error"),
            ((a.number, a.outcome or "running", a.start_time, _ran(a), a.worker, _short(a.error)) for a in attempts),
            empty="",
        )
    if job.error is not None and job.error.traceback:
        print(f"\n{_output.cell(job.error.traceback).rstrip()}")


@app.command("wait", epilog="""\b
Example:
  taskflow job wait 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c --timeout 5m && echo done""")
def wait_(
    context: typer.Context, id: Id, timeout: Timeout = None, address: Address = None, as_json: Json = False
) -> None:
    """Wait until a job is final and print its result; exit 1 if it failed or was cancelled."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        finish(tf, id, _input.seconds(timeout, "--timeout"), options.json)


@app.command("cancel")
def cancel(
    context: typer.Context,
    id: Id,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Kept with the job.")] = "",
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Cancel a job: a waiting one at once, a running one as soon as its worker stops it."""
    from taskflow.errors import DeadlineExceeded

    options = settle(context, address, as_json)
    with client(options.address) as tf:
        job = tf.jobs.cancel(id, reason)
        if job.cancelling and job.state != "running":
            with suppress(DeadlineExceeded):  # it waits somewhere: the coordinator takes it out within moments
                job = tf.jobs.wait(id, _TAKING_OUT)
    if options.json:
        return _output.document(_plain(job))
    print(f"job {job.id} is {'being cancelled: its worker has been told' if job.cancelling else job.state.value}")


@app.command("retry")
def retry(context: typer.Context, id: Id, address: Address = None, as_json: Json = False) -> None:
    """Run a finished job once more under the same id, with fresh tries."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        job = tf.jobs.retry(id)
    if options.json:
        return _output.document(_plain(job))
    print(f"job {job.id} is {job.state.value}")


@app.command("logs")
def logs(
    context: typer.Context,
    id: Id,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most so many lines.")] = 1000,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Print what a job's handler logged, oldest first."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        lines = list(islice(tf.jobs.logs(id), limit))
        if not lines:
            tf.jobs.get(id)  # no lines of a job, or no job: the second is an error
    if options.json:
        return _output.documents(_plain(line) for line in lines)
    if not lines:
        return _output.notice("no log lines")
    for line in lines:
        print(f"{_output.cell(line.time)}  {line.level:7}  #{line.attempt}  {_output.cell(line.message)}")


def finish(tf: TaskFlow, id: str, timeout: float | None, as_json: bool) -> None:
    """Waits for the end and prints it. Ended tells of a failure, a cancellation or a time that ran out."""
    tf.jobs.get(id)  # a wait outlasts a restart of the scheduler: a wrong address must show before it
    job = tf.jobs.wait(id, timeout)
    if as_json:
        _output.document(_plain(job))
    if job.state == "cancelled":
        raise Ended(FAILED, f"job {job.id} was cancelled")
    if job.state == "failed":
        why = str(job.error or "no error given")
        raise Ended(FAILED, one_line(f"job {job.id} failed in attempt {job.attempt}: {why}"))
    if as_json or job.result is None:
        return
    if isinstance(job.result, str):
        print(job.result)
    elif isinstance(job.result, bytes):
        sys.stdout.buffer.write(job.result)
    else:
        _output.document(job.result)


def _print_job(job: JobInfo) -> None:
    _output.fields((
        ("id", job.id),
        ("queue", job.queue),
        ("task", job.task),
        ("state", f"{job.state.value}, being cancelled" if job.cancelling else job.state),
        ("payload", job.payload),
        ("result", job.result),
        ("error", str(job.error) if job.error else None),
        ("attempt", f"{job.attempt} ({job.retries} retries allowed)"),
        ("priority", job.priority),
        ("key", job.key),
        ("progress", _progress(job)),
        ("created", job.create_time),
        ("due", job.run_time),
        ("started", job.start_time),
        ("finished", job.finish_time),
        ("worker", job.worker),
        ("tags", list(job.tags)),
        ("metadata", job.metadata),
        ("label", job.label),
        ("requester", dict(job.requester)),
    ))  # fmt: skip


def _progress(job: JobInfo) -> str:
    if (at := job.progress) is None:
        return ""
    total = f" of {at.total:g}" if at.total else ""
    return one_line(f"{at.current:g}{total} {at.unit} {at.message}")


def _short(error: ErrorInfo | None) -> str:
    return _output.shorten(str(error)) if error else "-"


def _ran(attempt: AttemptInfo) -> str:
    if attempt.start_time is None or attempt.finish_time is None:
        return "-"
    return _output.duration((attempt.finish_time - attempt.start_time).total_seconds())


def _plain(resource: Any) -> dict[str, Any]:
    """A resource as a document: its fields by their names."""
    from dataclasses import asdict

    return asdict(resource)
