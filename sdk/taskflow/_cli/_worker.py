"""`taskflow worker module:app`."""

from __future__ import annotations

from typing import Annotated

import typer

from taskflow._cli import _input
from taskflow._cli._common import Address, settle
from taskflow._cli._serve import serve

EPILOG = """\b
Examples:
  taskflow worker shop.tasks:app
  taskflow worker shop.tasks:app --concurrency 50 --queues emails,reports

\b
SIGTERM or Ctrl-C drains it: it polls no more, lets running jobs finish within --grace, and returns the others.
A second one stops it immediately."""


def worker(
    context: typer.Context,
    app: Annotated[str, typer.Argument(metavar="module:app", help="The app: its module, and its name there.")],
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of concurrent jobs.")] = 20,
    queues: Annotated[str, typer.Option(metavar="A,B", help="Only the tasks of these queues.")] = "",
    grace: Annotated[str, typer.Option(metavar="TIME", help="Time for running jobs to finish at a stop.")] = "30s",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 70, for a restart, when a handler still runs 60 s after"
        " the end of its attempt.")
    ] = False,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A name for people; host-pid by default.")] = None,
    address: Address = None,
) -> None:
    """Run the tasks of an app until SIGTERM or Ctrl-C."""
    options = settle(context, address, False)
    serve(app, options.address, concurrency, queues, _input.seconds(grace, "--grace") or 0.0, name, strict)
