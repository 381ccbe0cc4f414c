"""`taskflow workflow …`: documents, and runs of them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from taskflow._cli import _input, _output
from taskflow._cli._common import Address, Json, client, settle
from taskflow._cli._exits import DEADLINE, FAILED, USAGE, Ended
from taskflow._cli._graph import mermaid
from taskflow._cli._job import NoTimeout, WaitTimeout, wait_time, warn

if TYPE_CHECKING:
    from taskflow import RunInfo, WorkflowInfo

app = typer.Typer(
    help="Workflows: store documents, start and follow their runs.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(help="The workflow's name.")]
IfVersion = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=0, help="Only while N is its latest version; 0: while there is none.", show_default=False
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
Limit = Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of lines.")]


@app.command("put", epilog="""\b
Examples:
  taskflow workflow put campaign.json
  taskflow workflow put campaign.json --check
  taskflow workflow put campaign.json --if-version 3""")
def put(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="A JSON document, or - for standard input.")],
    check: Annotated[bool, typer.Option("--check", help="Report its errors, and store nothing.")] = False,
    if_version: IfVersion = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Store a version of a workflow; an unchanged document makes none."""
    from taskflow.errors import InvalidArgument

    options = settle(context, address, as_json)
    text = _read(file)
    try:
        with client(options.address) as tf:
            workflow = tf.workflows.put(text, validate_only=check, if_version=if_version)
    except InvalidArgument as wrong:
        if len(wrong.problems) < 2:
            raise
        raise Ended(USAGE, "\n  ".join(["the document is wrong:", *map(": ".join, wrong.problems)])) from None
    if options.json:
        return _output.document(asdict(workflow))
    warn(workflow.warnings)
    print(f"{workflow.name} is well" if check else f"{workflow.name}, version {workflow.version}")


@app.command("list")
def list_(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="List its versions, newest first.", show_default=False)] = "",
    limit: Limit = 100,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """List workflows by name, or the versions of one."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        found = list(islice(tf.workflows.list(name=name, page_size=min(limit, 1000)), limit))
    if options.json:
        return _output.documents(asdict(workflow) for workflow in found)
    _output.table(
        ("workflow", "version", "title", "schedule", "next run", "created"),
        ((w.name, w.version, w.title, w.cron, w.next_run_at, w.create_time) for w in found),
        empty="no workflows yet",
    )


@app.command("show", epilog="""\b
Examples:
  taskflow workflow show win-back --json | jq .document
  taskflow workflow show 019a8b1c-7d44-7c3e-9d11-5a2f0b6c7d8e""")
def show(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="NAME|RUN", help="A workflow's name, or a run's id.")],
    version: Annotated[int, typer.Option(metavar="N", min=0, help="Its version; the latest by default.")] = 0,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Show a workflow, or a run with its steps."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        shown = tf.workflows.get_run(what) if _is_id(what) else tf.workflows.get(what, version)
    if options.json:
        return _output.document(asdict(shown))
    _show(shown)


@app.command("runs", epilog="""\b
Example:
  taskflow workflow runs win-back --state failed --metadata campaign=c9""")
def runs(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Only of this workflow.", show_default=False)] = "",
    state: Annotated[list[str] | None, typer.Option(metavar="STATE", help="Only in this state; repeat it.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this entry; repeat it.")
    ] = None,
    limit: Limit = 100,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    options = settle(context, address, as_json)
    wanted = _input.pairs(metadata or [], "--metadata")
    with client(options.address) as tf:
        listed = tf.workflows.runs(name, states=state or (), metadata=wanted, page_size=min(limit, 1000))
        found = list(islice(listed, limit))
    if options.json:
        return _output.documents(asdict(run) for run in found)
    _output.table(
        ("id", "workflow", "state", "label", "created", "finished", "error"),
        ((r.id, r.workflow, _state(r), r.label, r.create_time, r.finish_time, r.error or "") for r in found),
        empty="no such runs",
    )


@app.command("run", epilog="""\b
Examples:
  taskflow workflow run win-back '{"gift": "tea"}' --metadata user=u1 --metadata campaign=c9
  taskflow workflow run nightly --wait --wait-timeout 10m
  taskflow workflow run nightly --priority high
  taskflow workflow run nightly --run-at 2027-03-01T06:00Z    # makes a schedule that fires once""")
def run(
    context: typer.Context,
    name: Name,
    input: Annotated[
        str | None, typer.Argument(help="JSON, @FILE, or - for standard input.", show_default=False)
    ] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An attribute of the run; repeat it.")
    ] = None,
    label: Annotated[str, typer.Option(help="A line for people.")] = "",
    version: Annotated[int, typer.Option(metavar="N", min=0, help="The version; the latest by default.")] = 0,
    priority: Annotated[str | None, typer.Option(
        metavar="P", help="For the jobs of steps that have none: 0 to 9, or low, normal, high, critical.")] = None,
    run_at: Annotated[str | None, typer.Option(
        "--run-at", metavar="TIME", help="Start it then (ISO 8601): makes a schedule that fires once, prints its id.",
        show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is final, and print its output.")] = False,
    wait_timeout: WaitTimeout = None,
    timeout: NoTimeout = None,
    address: Address = None,
    as_json: Json = False,
) -> None:
    """Start a run; prints its id."""
    from taskflow.errors import DeadlineExceeded, RunUnsuccessful

    options = settle(context, address, as_json)
    attributes = _input.pairs(metadata or [], "--metadata")
    patience = wait_time(wait_timeout, timeout, wait=wait)
    due, rank = _input.instant(run_at, "--run-at"), _input.priority(priority)
    if due is not None and (wait or label or version or rank is not None):
        raise _input.BadInput("--run-at makes a schedule: give it without --wait, --label, --version and --priority")
    with client(options.address) as tf:
        if due is not None:
            once = tf.schedules.create(workflow=name, at=due, payload=_input.payload(input), metadata=attributes)
            return _output.document(asdict(once)) if options.json else print(once.id)
        started = tf.workflows.start(
            name, _input.payload(input), metadata=attributes, label=label, version=version, priority=rank
        )
        if not wait:
            return _output.document(asdict(started)) if options.json else print(started.id)
        try:
            ended = tf.workflows.wait(started.id, patience)
        except RunUnsuccessful as failure:
            raise Ended(FAILED, str(failure)) from None
        except DeadlineExceeded as late:
            raise Ended(DEADLINE, str(late)) from None
    _output.document(asdict(ended)) if options.json else print(json.dumps(ended.output, ensure_ascii=False))


@app.command("graph", epilog="""\b
Example:
  taskflow workflow graph win-back > win-back.mmd""")
def graph(
    context: typer.Context,
    what: Annotated[str, typer.Argument(metavar="NAME|RUN", help="A workflow's name, or a run's id.")],
    address: Address = None,
) -> None:
    """Draw a workflow's steps, or a run's with their states, as a Mermaid flowchart."""
    options = settle(context, address, False)
    with client(options.address) as tf:
        run = tf.workflows.get_run(what) if _is_id(what) else None
        workflow = tf.workflows.get(run.workflow, run.version) if run else tf.workflows.get(what)
    states = {step.name: str(step.state) for step in run.steps} if run else {}
    print(mermaid(workflow.document or {}, states))


@app.command("signal", epilog="""\b
Example:
  taskflow workflow signal 019a8b1c-7d44-7c3e-9d11-5a2f0b6c7d8e answered '{"by": "mail"}'""")
def signal(
    context: typer.Context,
    id: RunId,
    name: Annotated[str, typer.Argument(help="The signal's name.")],
    payload: Annotated[
        str | None, typer.Argument(help="JSON, @FILE, or - for standard input.", show_default=False)
    ] = None,
    address: Address = None,
) -> None:
    """Send a run a signal: it ends the run's waits for it."""
    options = settle(context, address, False)
    with client(options.address) as tf:
        tf.workflows.signal(id, name, _input.payload(payload))


@app.command("cancel")
def cancel(context: typer.Context, id: RunId, address: Address = None, as_json: Json = False) -> None:
    """Cancel a run, and first its unfinished jobs."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        run = tf.workflows.cancel(id)
    _output.document(asdict(run)) if options.json else print(run.state)


@app.command("retry")
def retry(context: typer.Context, id: RunId, address: Address = None, as_json: Json = False) -> None:
    """Resume a failed or cancelled run from the failed steps."""
    options = settle(context, address, as_json)
    with client(options.address) as tf:
        run = tf.workflows.retry(id)
    _output.document(asdict(run)) if options.json else print(run.id)


@app.command("delete")
def delete(context: typer.Context, name: Name, if_version: IfVersion = None, address: Address = None) -> None:
    """Delete a workflow with its own schedule. Its runs continue."""
    options = settle(context, address, False)
    with client(options.address) as tf:
        tf.workflows.delete(name, if_version=if_version)


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _input.BadInput(f"{file}: {error.strerror if isinstance(error, OSError) else 'is not UTF-8'}") from None


def _is_id(text: str) -> bool:
    try:
        return bool(UUID(text))
    except ValueError:
        return False


def _state(run: RunInfo) -> str:
    return f"{run.state}, waiting" if run.waiting and str(run.state) == "running" else str(run.state)


def _show(shown: RunInfo | WorkflowInfo) -> None:
    from taskflow import RunInfo

    if not isinstance(shown, RunInfo):
        fields = (
            ("workflow", shown.name), ("version", shown.version), ("title", shown.title), ("schedule", shown.cron),
            ("next run", shown.next_run_at), ("created", shown.create_time),
            ("warning", "; ".join(map(str, shown.warnings))),
        )  # fmt: skip
        _output.fields(fields)
        steps = (shown.document or {}).get("steps", ())
        named = ((step["name"], step["kind"]) for step in steps)
        _output.table(("step", "kind"), named, empty="decided by an executor")
        return
    _output.fields((
        ("id", shown.id),
        ("workflow", f"{shown.workflow}, version {shown.version}"),
        ("state", _state(shown)),
        ("input", json.dumps(shown.input, ensure_ascii=False)),
        ("output", json.dumps(shown.output, ensure_ascii=False) if shown.output is not None else ""),
        ("error", shown.error or ""),
        ("metadata", ", ".join(f"{key}={value}" for key, value in shown.metadata.items())),
        ("waits for", ", ".join(shown.signals)),
        ("created", shown.create_time),
        ("finished", shown.finish_time),
    ))  # fmt: skip
    _output.table(
        ("step", "kind", "state", "began", "until", "jobs", "error"),
        (
            (s.name, s.kind, s.state, s.start_time, s.due_time, " ".join(j.job_id or j.run_id for j in s.jobs),
             s.error or "")
            for s in shown.steps
        ),
        empty="no steps yet",
    )
