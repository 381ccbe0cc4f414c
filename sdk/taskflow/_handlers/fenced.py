"""`job.fenced`: a transaction of the application's own that holds only for the present attempt of its job (A17).

The SDK depends on no driver: a connection is known by its methods. The statement has no parameters, for drivers differ
in how they write them; both ids are made from bytes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, contextmanager
from importlib import import_module
from types import TracebackType
from typing import Any, Generic, TypeVar

from taskflow.errors import FailedPrecondition, InvalidArgument, StaleAttempt

C = TypeVar("C")

_STALE = "TF003"
_MISSING = {  # by SQLSTATE
    "3F000": "this database has no schema `taskflow`: job.fenced needs a connection to the database of TaskFlow",
    "42883": "this database has no function taskflow.assert_current: run `taskflow db migrate`",
    "42501": "the connection's role may not call taskflow.assert_current: grant it the role taskflow_app",
}
_KINDS = "psycopg, asyncpg, SQLAlchemy, Django, or another driver's by DB-API 2"


class Fenced(Generic[C]):
    """Returned by `job.fenced`. Used once, by `with` or `async with`, which give the connection."""

    def __init__(self, fence: Callable[[], Future[bool]], job_id: str, exec_id: str, conn: C) -> None:
        """`fence` puts the start of the attempt on disk (`JobLink.fence`)."""
        self._fence = fence
        self._conn = conn
        self._sql = f"select taskflow.assert_current('{job_id}', '{exec_id}')"
        self._stack = ExitStack()
        self._async_stack = AsyncExitStack()

    def __enter__(self) -> C:
        conn: Any = self._conn
        has_cluster = self._fence().result()
        with _translated(), ExitStack() as stack:
            transaction = _begin(conn)
            if not hasattr(transaction, "__enter__"):
                raise InvalidArgument("conn: is asynchronous; use `async with job.fenced(conn)`", field="conn")
            stack.enter_context(transaction)
            if has_cluster:
                _execute(conn, self._sql)
            self._stack = stack.pop_all()
        return self._conn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._stack.__exit__(kind, error, trace)

    async def __aenter__(self) -> C:
        from asyncio import wrap_future

        conn: Any = self._conn
        has_cluster = await wrap_future(self._fence())
        with _translated():
            async with AsyncExitStack() as stack:
                transaction = _begin(conn)
                if not hasattr(transaction, "__aenter__"):
                    raise InvalidArgument("conn: is synchronous; use `with job.fenced(conn)`", field="conn")
                await stack.enter_async_context(transaction)
                if has_cluster:
                    await _execute_async(conn, self._sql)
                self._async_stack = stack.pop_all()
        return self._conn

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._async_stack.__aexit__(kind, error, trace)


def _begin(conn: Any) -> Any:
    """A transaction that commits at its end; where the connection is in one already, a savepoint of that."""
    if _is_sqlalchemy(conn):
        return conn.begin_nested() if conn.in_transaction() else conn.begin()
    if callable(getattr(conn, "transaction", None)):  # psycopg, asyncpg
        return conn.transaction()
    if hasattr(conn, "alias") and hasattr(conn, "savepoint_commit"):  # Django
        return import_module("django.db.transaction").atomic(using=conn.alias)
    if hasattr(conn, "cursor") and hasattr(conn, "rollback"):
        if getattr(conn, "autocommit", False) is True:
            raise InvalidArgument("conn: is in autocommit mode, and so has no transaction to fence", field="conn")
        return _dbapi(conn)
    raise InvalidArgument(f"conn: {type(conn).__name__} is not a known connection: {_KINDS}", field="conn")


def _is_sqlalchemy(conn: Any) -> bool:
    return hasattr(conn, "begin_nested") and hasattr(conn, "in_transaction")


@contextmanager
def _dbapi(conn: Any) -> Iterator[None]:
    try:
        yield
    except BaseException:
        conn.rollback()
        raise
    conn.commit()


def _execute(conn: Any, sql: str) -> None:
    if _is_sqlalchemy(conn):
        (conn if hasattr(conn, "exec_driver_sql") else conn.connection()).exec_driver_sql(sql)
        return
    cursor = conn.cursor()
    try:
        cursor.execute(sql)
    finally:
        cursor.close()


async def _execute_async(conn: Any, sql: str) -> None:
    if _is_sqlalchemy(conn):
        engine_conn = conn if hasattr(conn, "exec_driver_sql") else await conn.connection()
        await engine_conn.exec_driver_sql(sql)
        return
    found = conn.execute(sql)
    if inspect.isawaitable(found):
        await found


@contextmanager
def _translated() -> Iterator[None]:
    """Errors of the check in our own words; all others are the driver's."""
    try:
        yield
    except Exception as error:
        state = _sqlstate(error)
        if state == _STALE:
            raise StaleAttempt("this attempt is not its job's present one: nothing was written") from error
        if state in _MISSING:
            raise FailedPrecondition(_MISSING[state], reason="FENCE_NOT_AVAILABLE") from error
        raise


def _sqlstate(error: BaseException) -> str:
    """The code of a driver's error, or of the one that SQLAlchemy or Django has wrapped; else empty."""
    for each in (error, getattr(error, "orig", None), error.__cause__, getattr(error.__cause__, "__cause__", None)):
        state = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
        if isinstance(state, str):
            return state
    return ""


__all__ = ["Fenced"]
