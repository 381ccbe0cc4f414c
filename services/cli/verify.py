"""`taskflow verify`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from taskflow_server.cli._database import FAILED, UNAVAILABLE, USAGE, DatabaseUrl, DataDir, Json, fail, find_database

NAME = "verify"


def verify(
    database_url: DatabaseUrl = "",
    data_dir: DataDir = Path(".taskflow"),
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Only history from then on: an instant, or how long ago, like 36h.")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Only history before then; likewise.")] = "",
    check: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only this check; can be given several times.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, max=100_000, help="Findings of a check that are shown.")] = 20,
    as_json: Json = False,
) -> None:
    """Check the promises of TaskFlow over the history in a database. Reads only, and may run beside a working cluster.

    Exit code 1 when something contradicts a promise; a report of it is welcome. Example: taskflow verify --since 36h
    """
    from taskflow._cli._input import BadInput
    from taskflow_server.cli import _verify
    from taskflow_server.core.errors import Unavailable

    dsn = find_database(database_url, data_dir, NAME)
    try:
        options = _verify.options(since, until, check or [], limit)
        clean = asyncio.run(_verify.run(dsn, options, as_json=as_json))
    except BadInput as error:
        fail(USAGE, NAME, str(error))
    except Unavailable as error:
        fail(UNAVAILABLE, NAME, str(error))
    sys.stdout.flush()
    if not clean:
        raise typer.Exit(FAILED)
