"""Makes a database ready for the services: waits until it answers, then migrates."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import psycopg

from taskflow_server.cluster.process import Interrupted
from taskflow_server.store.migrate import MigrationError, grant_roles, migrate
from taskflow_server.store.reasons import BadUrl, place, why, words
from taskflow_server.store.restored import Mended, mend

_PATIENCE = 5.0  # seconds that a database which starts beside us may take
_PAUSE = 0.25
_LOOK = 0.05
URL = "TASKFLOW_DATABASE_URL"  # what --database-url stands for


class DatabaseError(Exception):
    """The database cannot be used; the text says why, in one line and without its password."""

    def __init__(self, message: str, *, absent: bool, usage: bool = False) -> None:
        """`absent`: it cannot be had; `usage`: its URL is none."""
        super().__init__(message)
        self.absent = absent
        self.usage = usage


@dataclass(frozen=True, slots=True)
class Prepared:
    """The migrations that were applied, what was mended after a restore, if anything, and the statements that
    an administrator must run before the roles of readers and apps are complete, if any."""

    applied: list[str]
    mended: Mended | None
    to_do: str = ""


def prepare(dsn: str, stopping: Callable[[], bool] = lambda: False, patience: float = _PATIENCE) -> Prepared:
    """Wait, then migrate and mend what a restored dump needs. Raises DatabaseError, process.Interrupted."""
    return asyncio.run(_unless(stopping, _prepare(dsn, patience)))


async def _unless(stopping: Callable[[], bool], work: Coroutine[None, None, Prepared]) -> Prepared:
    task = asyncio.create_task(work)
    while not task.done():
        await asyncio.wait({task}, timeout=_LOOK)
        if stopping() and not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            raise Interrupted
    return task.result()


async def _prepare(dsn: str, patience: float) -> Prepared:
    deadline = asyncio.get_running_loop().time() + patience
    try:
        place(dsn)
    except BadUrl as fault:
        raise DatabaseError(f"{URL}: {fault}", absent=False, usage=True) from None
    while True:
        try:
            return Prepared(await migrate(dsn), await mend(dsn), await grant_roles(dsn))
        except MigrationError as error:
            raise DatabaseError(f"the database cannot be migrated: {error}", absent=False) from error
        except psycopg.errors.LockNotAvailable as error:
            raise DatabaseError(f"a table is locked by others: {words(error)}; try again", absent=False) from error
        except psycopg.ProgrammingError as error:  # the server's answer, as of a role that may not create a schema
            text = f"the database cannot be migrated: {why(error, dsn).text}"
            raise DatabaseError(text, absent=False) from error
        except (psycopg.Error, TimeoutError) as error:
            reason = why(error, dsn)
            if reason.answered or asyncio.get_running_loop().time() > deadline:
                raise DatabaseError(f"{URL}: {reason.text}", absent=True) from error
        await asyncio.sleep(_PAUSE)
