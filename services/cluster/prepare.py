"""Makes a database ready for the services: waits until it answers, then migrates."""

import asyncio
from collections.abc import Callable, Coroutine
from urllib.parse import urlsplit

import psycopg

from services.cluster.process import Interrupted
from services.store.migrate import MigrationError, migrate

_PATIENCE = 5.0  # seconds that a database which starts beside us may take
_PAUSE = 0.25
_LOOK = 0.05


class DatabaseError(Exception):
    """The database cannot be used; the text says why, in one line and without its password."""

    def __init__(self, message: str, *, absent: bool) -> None:
        super().__init__(message)
        self.absent = absent


def prepare(dsn: str, stopping: Callable[[], bool] = lambda: False, patience: float = _PATIENCE) -> list[str]:
    """Wait, then migrate; returns the migrations applied. Raises DatabaseError, process.Interrupted."""
    return asyncio.run(_unless(stopping, _prepare(dsn, patience)))


def shown(dsn: str) -> str:
    """host:port/database of a URL, for people: never the password."""
    try:
        parts = urlsplit(dsn)
        return f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        return "the database"


async def _unless(stopping: Callable[[], bool], work: Coroutine[None, None, list[str]]) -> list[str]:
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.wait({task}, timeout=_LOOK)
        if stopping() and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise Interrupted
    return task.result()


async def _prepare(dsn: str, patience: float) -> list[str]:
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        try:
            return await migrate(dsn)
        except MigrationError as error:
            raise DatabaseError(f"the database cannot be migrated: {error}", absent=False) from error
        except psycopg.ProgrammingError as error:
            raise DatabaseError(f"not a usable database URL: {first_line(error)}", absent=False) from error
        except psycopg.OperationalError as error:
            # With a code the server has answered, and will answer the same again; 57P03: it is starting.
            answered = error.sqlstate is not None and error.sqlstate != "57P03"
            refused = "password authentication failed" in str(error) or "does not exist" in str(error)
            if answered or refused or asyncio.get_running_loop().time() > deadline:
                raise DatabaseError(f"no database at {shown(dsn)}: {first_line(error)}", absent=True) from error
        await asyncio.sleep(_PAUSE)


def first_line(error: psycopg.Error) -> str:
    """What the error says, without the hints that follow."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
