"""Handlers that write a row by a fenced transaction, one for each kind of connection; the payload is the dsn."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urlsplit

import psycopg

from taskflow import Job

INSERT = "insert into effects values ('{id}', {attempt}, {fence})"


def statement(job: Job) -> str:
    return INSERT.format(id=job.id, attempt=job.attempt, fence=job.fence)


def by_psycopg(job: Job) -> None:
    with psycopg.connect(job.payload) as conn, job.fenced(conn) as same:
        assert same is conn
        conn.execute(statement(job))


def when_told(job: Job) -> None:
    """The payload: the dsn, and a folder in which this notes that it has started, and in which `go` appears."""
    dsn, folder = job.payload
    (Path(folder) / "started").touch()
    while not (Path(folder) / "go").exists():
        time.sleep(0.01)
    with psycopg.connect(dsn) as conn, job.fenced(conn):
        conn.execute(statement(job))


async def by_async_psycopg(job: Job) -> None:
    async with await psycopg.AsyncConnection.connect(job.payload) as conn, job.fenced(conn):
        await conn.execute(statement(job))


def in_an_open_transaction(job: Job) -> None:
    with psycopg.connect(job.payload) as conn, conn.transaction():
        conn.execute(statement(job))
        with job.fenced(conn):
            pass


def twice_in_autocommit(job: Job) -> None:
    with psycopg.connect(job.payload, autocommit=True) as conn:
        with job.fenced(conn):
            conn.execute("select 1")
        with job.fenced(conn):
            conn.execute(statement(job))


async def by_asyncpg(job: Job) -> None:
    import asyncpg

    conn = await asyncpg.connect(job.payload)
    try:
        async with job.fenced(conn):
            await conn.execute(statement(job))
    finally:
        await conn.close()


async def by_a_pool_of_asyncpg(job: Job) -> None:
    import asyncpg

    async with asyncpg.create_pool(job.payload, min_size=1) as pool, pool.acquire() as conn, job.fenced(conn):
        await conn.execute(statement(job))


def by_sqlalchemy(job: Job) -> None:
    from sqlalchemy import create_engine

    with create_engine(job.payload.replace("postgresql:", "postgresql+psycopg:")).connect() as conn, job.fenced(conn):
        conn.exec_driver_sql(statement(job))


def by_a_session_of_sqlalchemy(job: Job) -> None:
    from sqlalchemy import create_engine, text
    from sqlalchemy.orm import Session

    with Session(create_engine(job.payload.replace("postgresql:", "postgresql+psycopg:"))) as session:
        with job.fenced(session):
            session.execute(text(statement(job)))
        session.execute(text("select 1"))
        with job.fenced(session):  # within the transaction that has begun: a savepoint
            session.execute(text(statement(job).replace(f", {job.attempt},", ", 99,")))
        session.rollback()


async def by_async_sqlalchemy(job: Job) -> None:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    engine = create_async_engine(job.payload.replace("postgresql:", "postgresql+asyncpg:"))
    async with engine.connect() as conn, job.fenced(conn):
        await conn.execute(text("select 1"))
    async with AsyncSession(engine) as session, job.fenced(session):
        await session.execute(text(statement(job)))
    await engine.dispose()


def by_django(job: Job) -> None:
    from django.conf import settings
    from django.db import connection

    url = urlsplit(job.payload)
    if not settings.configured:
        database = {
            "ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username,
            "PASSWORD": url.password, "HOST": url.hostname, "PORT": url.port,
        }  # fmt: skip
        settings.configure(DATABASES={"default": database})
    with job.fenced(connection), connection.cursor() as cursor:
        cursor.execute(statement(job))
    connection.close()


def by_psycopg2(job: Job) -> None:
    import psycopg2

    conn = psycopg2.connect(job.payload)
    with job.fenced(conn), conn.cursor() as cursor:
        cursor.execute(statement(job))
    conn.close()
