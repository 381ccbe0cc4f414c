"""`taskflow db`: prepares and inspects the database."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from taskflow_server.cli._database import (
    FAILED,
    UNAVAILABLE,
    USAGE,
    DatabaseUrl,
    DataDir,
    Json,
    fail,
    find_database,
)

db = typer.Typer(
    help="Prepare and inspect the database.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@db.command()
def migrate(database_url: DatabaseUrl = "", data_dir: DataDir = Path(".taskflow"), as_json: Json = False) -> None:
    """Apply pending migrations, make the partitions of the coming days, and mend a restored dump."""
    from taskflow_server.cluster.prepare import DatabaseError, prepare

    try:
        done = prepare(_dsn(database_url, data_dir), patience=0)
    except DatabaseError as error:
        _fail(USAGE if error.usage else UNAVAILABLE if error.absent else FAILED, "migrate", str(error))
    if as_json:
        mended = str(done.mended) if done.mended else None
        print(json.dumps({"applied": done.applied, "mended": mended, "to_do": done.to_do or None}))
    else:
        lines = [f"applied {name}" for name in done.applied] + ([f"mended: {done.mended}"] if done.mended else [])
        print("\n".join(lines) or "nothing to do")
        if done.to_do:
            print(
                "taskflow db migrate: this user may not make roles, and some are missing. To have them, let an"
                f" administrator run `{done.to_do};`, then run `taskflow db migrate` again",
                file=sys.stderr,
            )


@db.command()
def status(database_url: DatabaseUrl = "", data_dir: DataDir = Path(".taskflow"), as_json: Json = False) -> None:
    """Show every migration and its state. Exit code 1 if one is pending or does not match."""
    import psycopg

    from taskflow_server.store.migrate import MigrationError
    from taskflow_server.store.migrate import status as read

    dsn = _dsn(database_url, data_dir)
    try:
        rows = asyncio.run(read(dsn))
    except MigrationError as error:
        _fail(FAILED, "status", str(error))
    except (psycopg.Error, TimeoutError) as error:
        _unreachable("status", error, dsn)
    if as_json:
        items = [
            {"name": row.name, "state": row.state, "applied_at": row.applied_at.isoformat() if row.applied_at else None}
            for row in rows
        ]
        print(json.dumps({"migrations": items}))
    else:
        width = max((len(row.name) for row in rows), default=0)
        for row in rows:
            applied = row.applied_at.isoformat(" ", "seconds") if row.applied_at else ""
            print(f"{row.name:<{width}}  {applied:<25}  {row.state}")
    if any(row.state != "applied" for row in rows):
        raise typer.Exit(FAILED)


@db.command()
def doctor(
    database_url: DatabaseUrl = "",
    data_dir: DataDir = Path(".taskflow"),
    fix: Annotated[bool, typer.Option("--fix", help="Mend what can be mended.")] = False,
    as_json: Json = False,
) -> None:
    """Report what keeps a database from serving, as pending migrations or a restored dump.

    Exit code 1 when a fault is left.
    """
    import psycopg

    from taskflow_server.cli import _doctor
    from taskflow_server.store.migrate import MigrationError
    from taskflow_server.store.reasons import words

    dsn = _dsn(database_url, data_dir)
    try:
        findings = asyncio.run(_doctor.examine(dsn, fix=fix))
    except MigrationError as error:
        _fail(FAILED, "doctor", str(error))
    except psycopg.errors.LockNotAvailable as error:
        _fail(FAILED, "doctor", f"a table is locked by others: {words(error)}; try again")
    except (psycopg.Error, TimeoutError) as error:
        _unreachable("doctor", error, dsn)
    _doctor.show(findings, as_json=as_json)
    if not all(finding.well for finding in findings):
        raise typer.Exit(FAILED)


@db.command()
def prune(
    database_url: DatabaseUrl = "",
    data_dir: DataDir = Path(".taskflow"),
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="Minimum age, like 30d; by default TASKFLOW_RETENTION, or 30d.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report what would be deleted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete jobs that finished before a time: whole days, or single jobs of a day in which others stay. Also deletes
    runs, firings of schedules and counts of that age.

    Exit code 1 if something was put off because others held locks; the next prune completes it.
    """
    import psycopg

    from taskflow._cli._input import BadInput
    from taskflow_server.cli import _prune
    from taskflow_server.core.errors import InvalidArgument, Unavailable
    from taskflow_server.store.prune import PruneBusy
    from taskflow_server.store.prune import prune as delete
    from taskflow_server.store.reasons import missing_right, words

    dsn = _dsn(database_url, data_dir)
    try:
        keep = _prune.retention(older_than, os.environ)
        report = asyncio.run(delete(dsn, keep=keep, dry_run=dry_run))
    except (BadInput, InvalidArgument) as error:
        _fail(USAGE, "prune", str(error))
    except PruneBusy:
        _fail(FAILED, "prune", "another prune is running on this database; wait for its end")
    except Unavailable as error:
        _fail(UNAVAILABLE, "prune", str(error))
    except psycopg.Error as error:
        said = missing_right(error) or f"{words(error)}; is the schema up to date? Run `taskflow db status`"
        _fail(FAILED, "prune", said)
    _prune.show(report, dry_run=dry_run, as_json=as_json)
    if any(day.put_off for day in report.days):
        raise typer.Exit(FAILED)


@db.command()
def url(database_url: DatabaseUrl = "", data_dir: DataDir = Path(".taskflow")) -> None:
    """Print the URL of the database, with its password: psql "$(taskflow db url)"."""
    print(_dsn(database_url, data_dir))


def _dsn(database_url: str, data_dir: Path) -> str:
    return find_database(database_url, data_dir, "db")


def _unreachable(command: str, error: BaseException, dsn: str) -> NoReturn:
    from taskflow_server.store.reasons import why

    _fail(UNAVAILABLE, command, f"TASKFLOW_DATABASE_URL: {why(error, dsn).text}")


def _fail(code: int, command: str, text: str) -> NoReturn:
    fail(code, f"db {command}", text)
