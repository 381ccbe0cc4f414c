"""`taskflow-server scheduler|coordinator|queue|gateway|worker`: one service as this process.

Everything but the worker's app is set by TASKFLOW_* variables.
"""

from importlib import import_module
from typing import Annotated

import typer


def _start(name: str, *arguments: str) -> None:
    main = import_module(f"taskflow_server.{name}.__main__").main  # a process imports its own service alone
    raise typer.Exit(main(*arguments))


def scheduler() -> None:
    """Run a scheduler: the public API, on port 9003, and schedules."""
    _start("scheduler")


def coordinator() -> None:
    """Run a coordinator, which dispatches jobs and advances workflows, on port 9001."""
    _start("coordinator")


def queue() -> None:
    """Run a queue service, from which workers poll jobs, on port 9002."""
    _start("queue")


def gateway() -> None:
    """Run a gateway: the console, health and the executor protocol over HTTP, on port 8080."""
    _start("gateway")


def worker(
    app: Annotated[str, typer.Argument(help="Your app as module:attribute; by default TASKFLOW_APP.")] = "",
) -> None:
    """Run a worker with the tasks of an app and the built-in tasks, on port 9004."""
    _start("worker", app)
