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
SIGTERM or Ctrl-C drains it: it takes nothing new, gives what runs its --grace, and hands the rest back.
A second one ends it at once."""


def worker(
    context: typer.Context,
    app: Annotated[str, typer.Argument(metavar="module:app", help="Where the app is: the module, and its name there.")],
    concurrency: Annotated[int, typer.Option(metavar="N", min=1, help="How many jobs at once.")] = 20,
    queues: Annotated[str, typer.Option(metavar="A,B", help="Only the tasks of these queues.")] = "",
    grace: Annotated[str, typer.Option(metavar="TIME", help="What running jobs are given at a stop.")] = "30s",
    name: Annotated[str | None, typer.Option(metavar="NAME", help="For people; host-pid by default.")] = None,
    address: Address = None,
) -> None:
    """Run the tasks of an app until SIGTERM or Ctrl-C."""
    options = settle(context, address, False)
    serve(app, options.address, concurrency, queues, _input.seconds(grace, "--grace") or 0.0, name)
