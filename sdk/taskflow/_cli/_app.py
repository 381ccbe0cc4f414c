"""The commands, put together. Nothing heavy is imported before a command runs: `--help` must be quick."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer
from typer.main import get_command

from taskflow._cli import _alert, _job, _lists, _namespace, _schedule, _task, _worker, _workflow
from taskflow._cli._common import Address, Globals, Json
from taskflow._cli._plugins import PluginGroup

_EPILOG = """\b
Examples:
  taskflow up                                            # the whole cluster on this machine
  taskflow worker shop.tasks:app --concurrency 20
  taskflow job new emails '{"to": "ada@example.org"}' --retries 5 --wait
  taskflow job list --queue emails --state failed --json | jq -r .id

\b
Exit codes:
  0    ok
  1    the job failed or was cancelled, or there is no such job or queue
  2    wrong usage: an unknown option, bad input, a port in use
  3    the cluster cannot be reached
  4    the timeout passed
  130  Ctrl-C

\b
--address and --json may stand before or after a command. TASKFLOW_DEBUG=1 shows where an error came from."""


@functools.cache
def command() -> Any:
    """The command with all that belongs to it, built once in a process. Plugins are looked up when it runs."""
    app = typer.Typer(
        name="taskflow",
        cls=PluginGroup,
        help="TaskFlow: submit jobs to a cluster, run them, and inspect their outcomes.",
        epilog=_EPILOG,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_globals)
    app.command("worker", epilog=_worker.EPILOG)(_worker.worker)
    app.add_typer(_lists.workers, name="workers")
    app.add_typer(_job.app, name="job")
    app.add_typer(_lists.queues, name="queue")
    app.add_typer(_task.app, name="task")
    app.add_typer(_schedule.app, name="schedule")
    app.add_typer(_workflow.app, name="workflow")
    app.add_typer(_namespace.app, name="namespace")
    app.add_typer(_alert.app, name="alert")
    return get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"taskflow {version('taskflow-sdk')}")
        raise typer.Exit


def _globals(
    context: typer.Context,
    address: Address = None,
    as_json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    context.obj = Globals(address, as_json)
