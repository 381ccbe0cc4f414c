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
    from collections.abc import Iterable

    from taskflow import TaskFlow
    from taskflow._values.jobs import AttemptInfo, ErrorInfo, JobInfo, JobWarning

app = typer.Typer(help="Jobs: submit, inspect, wait for, cancel, retry.", no_args_is_help=True, rich_markup_mode=None)

_TAKING_OUT = 3.0  # seconds that `cancel` waits for a job that does not run

Id = Annotated[str, typer.Argument(help="The job's id.")]
WaitTimeout = Annotated[str | None, typer.Option(
    metavar="TIME", help="Maximum wait, like 30s or 5m; then exit 4, and the job continues.", show_default=False)]
NoTimeout = Annotated[str | None, typer.Option("--timeout", hidden=True)]


@app.command("new", epilog="""\b
Examples:
  taskflow job new emails '{"to": "ada@example.org"}' --retries 5
  taskflow job new emails @mail.json --run-at 2026-12-24T18:00:00Z
  taskflow job new --task send_email '{"to": "ada@example.org"}'     # to the task's own queue, with its options
  echo '[1, 2, 3]' | taskflow job new numbers - --task add --wait --wait-timeout 1m --json
  taskflow job new notes 'plain words' --text --key note-42""")
def new(
    context: typer.Context,
    queue: Annotated[str | None, typer.Argument(
        help="The queue, made by its first job; with --task the task's own by default.", show_default=False)] = None,
    payload: Annotated[str | None, typer.Argument(
        help="JSON, @FILE, or - for standard input; null by default.", show_default=False)] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="The task; else the queue's own handler.")] = None,
    retries: Annotated[int | None, typer.Option(
        metavar="N", help="Further tries after the first; by default the task's, or 0.", show_default=False)] = None,
    priority: Annotated[str | None, typer.Option(metavar="P", help="0 to 9, or low, normal, high, critical.")] = None,
    delay: Annotated[str | None, typer.Option(metavar="TIME", help="Due after this time, like 90s, 5m, 2h.")] = None,
    at: Annotated[str | None, typer.Option(
        "--run-at", "--at", metavar="INSTANT", help="An instant to be due; UTC without a zone.")] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="Idempotency key: it makes one job only.")] = None,
    timeout: Annotated[str | None, typer.Option(
        metavar="TIME", help="Hard limit of one attempt, like 90s; not of --wait.")] = None,
    sla: Annotated[str | None, typer.Option(
        metavar="TIME", help="It should start within this time, like 10m; a miss is recorded.")] = None,
    text: Annotated[bool, typer.Option("--text", help="The payload is plain text, not JSON.")] = False,
    requester: Annotated[str | None, typer.Option(
        metavar="JSON", help="Attributes of the end user, for the handler.")] = None,
    label: Annotated[str | None, typer.Option(metavar="TEXT", help="A line for people.")] = None,
    metadata: Annotated[list[str] | None, typer.Option(
        metavar="KEY=VALUE", help="An attribute of your own, to find it by; repeat it.")] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="TAG", help="A tag, to find it by; repeat it.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the result.")] = False,
    wait_timeout: WaitTimeout = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Submit a job; prints its id once it is on disk."""
    options = settle(context, address, as_json)
    if delay is not None and at is not None:
        raise _input.BadInput("give either --delay or --run-at, not both")
    patience = wait_time(wait_timeout, None, wait=wait)
    queue, payload = _queue_and_payload(queue, payload, task)
    given: dict[str, Any] = {
        "task": task,
        "retries": retries,
        "priority": _input.priority(priority),
        "delay": _input.seconds(delay, "--delay"),
        "run_at": _input.instant(at, "--run-at"),
        "key": key,
        "timeout": _input.seconds(timeout, "--timeout"),
        "sla": _input.seconds(sla, "--sla"),
        "requester": _input.requester(requester),
        "label": label,
        "metadata": _input.pairs(metadata or [], "--metadata"),
        "tags": tag or [],
    }
    body = _input.payload(payload, text=text)
    with client(options.address) as tf:
        job = tf.new_job(queue, body, **given)
        if not options.json:
            warn(job.warnings)
        if wait:
            if not options.json:
                _output.notice(f"job {job.id}")
            finish(tf, job.id, patience, options.json)
        elif options.json:
            made = job.get()
            warnings = [_plain(warning) for warning in job.warnings]
            _output.document({"id": job.id, "queue": _queue(made), "task": made.task, "warnings": warnings})
        else:
            print(job.id)


@app.command("list", epilog="""\b
Examples:
  taskflow job list --queue emails --state failed --error ConnectionRefused --since 2h
  taskflow job list --tag nightly --metadata customer=c9
  taskflow job list --running-longer 10m
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
        metavar="TEXT", help="Only with a last error of this type, or with this text in its message.")] = "",
    since: Annotated[str, typer.Option(
        metavar="WHEN", help="Submitted since: an ISO time, or an age like 36h. By default 7d.")] = "",
    until: Annotated[str, typer.Option(metavar="WHEN", help="Submitted before: likewise.")] = "",
    worker: Annotated[str, typer.Option(
        metavar="NAME", help="Only those that this worker has now; `taskflow workers list` shows the names.")] = "",
    running_longer: Annotated[str | None, typer.Option(
        metavar="DURATION", help="Only those that have been running for longer, like 10m.")] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of jobs.")] = 50,
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
            page_size=min(limit + 1, 1000), worker=worker,
            running_longer_than=_input.seconds(running_longer, "--running-longer"),
        )  # fmt: skip
        jobs = list(islice(found, limit + 1))
    if options.json:
        return _output.documents(_plain(job) for job in jobs[:limit])
    _output.table(
        ("id", "queue", "task", "state", "attempt", "created", "error"),
        (
            (job.id, _queue(job), job.task or "-", job.state, job.attempt, job.create_time, _short(job.error))
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
  taskflow job wait 01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c --wait-timeout 5m && echo done""")
def wait_(
    context: typer.Context,
    id: Id,
    wait_timeout: WaitTimeout = None,
    timeout: NoTimeout = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Wait until a job is final and print its result; exit 1 if it failed or was cancelled."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        finish(tf, id, wait_time(wait_timeout, timeout), options.json)


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
    print(f"job {job.id} is {'being cancelled: its worker was notified' if job.cancelling else job.state.value}")


@app.command("retry")
def retry(context: typer.Context, id: Id, address: Address = None, as_json: Json = False) -> None:
    """Run a finished job again under the same id, with all its tries."""
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
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of lines.")] = 1000,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Print the log lines of a job, oldest first."""
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


def warn(warnings: Iterable[JobWarning]) -> None:
    """Prints on standard error why no worker can run it."""
    for warning in warnings:
        _output.notice(f"warning: {_output.cell(warning.message)}")


def wait_time(wait_timeout: str | None, timeout: str | None, *, wait: bool = True) -> float | None:
    """Seconds of --wait-timeout. BadInput where nobody waits, and for --timeout, which limits an attempt elsewhere."""
    if timeout is not None:
        said = "--timeout is the hard limit of an attempt, given with the job; the limit of a wait is --wait-timeout"
        raise _input.BadInput(said)
    if wait_timeout is not None and not wait:
        raise _input.BadInput("--wait-timeout is for --wait: give both")
    return _input.seconds(wait_timeout, "--wait-timeout")


def _queue_and_payload(queue: str | None, payload: str | None, task: str | None) -> tuple[str | None, str | None]:
    """With --task the queue may be left out: then the first argument is the payload, unless it could be a queue."""
    if queue is None and task is None:
        raise _input.BadInput("missing argument QUEUE: give it, or --task for the queue of a task")
    if task is not None and payload is None and queue is not None and (queue == "-" or not _input.is_name(queue)):
        return None, queue
    return queue, payload


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
        ("queue", _queue(job)),
        ("task", job.task),
        ("state", f"{job.state.value}, being cancelled" if job.cancelling else job.state),
        ("warning", "; ".join(map(str, job.warnings))),
        ("payload", job.payload),
        ("result", job.result),
        ("error", str(job.error) if job.error else None),
        ("attempt", f"{job.attempt} ({job.retries} retries allowed)"),
        ("priority", job.priority),
        ("timeout", _output.duration(job.timeout) if job.timeout else None),
        ("sla", _sla(job)),
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


def _sla(job: JobInfo) -> str | None:
    if job.sla is None:
        return None
    return f"{_output.duration(job.sla)}, missed" if job.sla_missed else _output.duration(job.sla)


def _queue(job: JobInfo) -> str:
    """As every command takes it."""
    return job.queue if job.namespace in ("", "default") else f"{job.namespace}/{job.queue}"


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
