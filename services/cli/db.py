"""`taskflow db`: prepares and inspects the database."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

FAILED, USAGE, UNAVAILABLE = 1, 2, 3

db = typer.Typer(
    help="Prepare and inspect the database.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DatabaseUrl = Annotated[
    str,
    typer.Option(envvar="TASKFLOW_DATABASE_URL", help="Without it: the Postgres that `taskflow up` runs here."),
]
DataDir = Annotated[Path, typer.Option(help="The data folder of that `taskflow up`.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]


@db.command()
def migrate(database_url: DatabaseUrl = "", data_dir: DataDir = Path(".taskflow"), as_json: Json = False) -> None:
    """Apply the migrations that are pending, and make the partitions of the coming days."""
    from services.cluster.prepare import DatabaseError, prepare

    try:
        applied = prepare(_dsn(database_url, data_dir), patience=0)
    except DatabaseError as error:
        _fail(UNAVAILABLE if error.absent else FAILED, "migrate", str(error))
    if as_json:
        print(json.dumps({"applied": applied}))
    else:
        print("\n".join(f"applied {name}" for name in applied) or "nothing to do")


@db.command()
def status(database_url: DatabaseUrl = "", data_dir: DataDir = Path(".taskflow"), as_json: Json = False) -> None:
    """Show every migration and whether it is applied. Exit code 1 when one is pending or does not fit."""
    import psycopg

    from services.cluster.prepare import first_line, shown
    from services.store.migrate import status as read

    dsn = _dsn(database_url, data_dir)
    try:
        rows = asyncio.run(read(dsn))
    except psycopg.Error as error:
        _fail(UNAVAILABLE, "status", f"no database at {shown(dsn)}: {first_line(error)}")
    if as_json:
        items = [
            {"name": row.name, "state": row.state, "applied_at": row.applied_at.isoformat() if row.applied_at else None}
            for row in rows
        ]
        print(json.dumps({"migrations": items}))
    else:
        for row in rows:
            print(
                f"{row.name:<32} {row.applied_at.isoformat(' ', 'seconds') if row.applied_at else '':<26} {row.state}"
            )
    if any(row.state != "applied" for row in rows):
        raise typer.Exit(FAILED)


@db.command()
def prune(
    database_url: DatabaseUrl = "",
    data_dir: DataDir = Path(".taskflow"),
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Like 30d; without it, the days of TASKFLOW_RETENTION, or 30d.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing, and tell what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Delete jobs that finished longer ago than a time: whole days, or out of a day in which others stay. Runs, firings
    of schedules and counts of that age go, too.

    Exit code 1 when something was put off, because others held locks; the next run completes it.
    """
    import psycopg

    from services.cli import _prune
    from services.cluster.prepare import first_line
    from services.core.errors import InvalidArgument, Unavailable
    from services.store.prune import PruneBusy
    from services.store.prune import prune as delete
    from taskflow._cli._input import BadInput

    dsn = _dsn(database_url, data_dir)
    try:
        keep = _prune.retention(older_than, os.environ)
        report = asyncio.run(delete(dsn, keep=keep, dry_run=dry_run))
    except (BadInput, InvalidArgument) as error:
        _fail(USAGE, "prune", str(error))
    except PruneBusy:
        _fail(FAILED, "prune", "another prune is under way on this database; see to it that it ends, or wait")
    except Unavailable as error:
        _fail(UNAVAILABLE, "prune", str(error))
    except psycopg.Error as error:
        _fail(FAILED, "prune", f"{first_line(error)}; is the schema up to date? `taskflow db status` tells")
    _prune.show(report, dry_run=dry_run, as_json=as_json)
    if any(day.put_off for day in report.days):
        raise typer.Exit(FAILED)


@db.command()
def url(database_url: DatabaseUrl = "", data_dir: DataDir = Path(".taskflow")) -> None:
    """Print the database's URL, password included: psql "$(taskflow db url)"."""
    print(_dsn(database_url, data_dir))


def _dsn(database_url: str, data_dir: Path) -> str:
    if database_url:
        return database_url
    from services.cluster.embedded import attach
    from services.cluster.home import HomeError

    try:
        found = attach(data_dir)
    except (HomeError, OSError) as error:
        _fail(USAGE, "", str(error))
    if found is None:
        _fail(
            USAGE,
            "",
            f"none runs with {data_dir}: start `taskflow up`, give --database-url, or set TASKFLOW_DATABASE_URL",
        )
    return found


def _fail(code: int, command: str, text: str) -> NoReturn:
    print(f"taskflow db{' ' + command if command else ''}: {text}", file=sys.stderr)
    raise typer.Exit(code)
