"""Options of the commands that use a database by its URL, and how they fail."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

FAILED, USAGE, UNAVAILABLE = 1, 2, 3

DatabaseUrl = Annotated[
    str,
    typer.Option(envvar="TASKFLOW_DATABASE_URL", help="By default the Postgres that `taskflow up` runs here."),
]
DataDir = Annotated[Path, typer.Option(help="The data folder of that `taskflow up`.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def find_database(database_url: str, data_dir: Path, command: str) -> str:
    """The URL that was given, or that of the Postgres which `taskflow up` runs. Exits where there is none."""
    if database_url:
        from taskflow_server.store.reasons import BadUrl, place

        try:
            place(database_url)
        except BadUrl as fault:
            fail(USAGE, command, f"TASKFLOW_DATABASE_URL: {fault}")
        return database_url
    from taskflow_server.cluster.embedded_postgres import attach
    from taskflow_server.cluster.home import HomeError

    try:
        found = attach(data_dir)
    except (HomeError, OSError) as error:
        fail(USAGE, command, str(error))
    if found is None:
        fail(
            USAGE,
            command,
            f"none runs with {data_dir}: start `taskflow up`, give --database-url, or set TASKFLOW_DATABASE_URL",
        )
    return found


def fail(code: int, command: str, text: str) -> NoReturn:
    """Says in one line why `command` fails, and exits."""
    print(f"taskflow {command}: {text}", file=sys.stderr)
    raise typer.Exit(code)
