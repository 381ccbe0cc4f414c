"""A real Postgres for the tests: TASKFLOW_TEST_DATABASE_URL, else the embedded one, else a container.

The embedded one runs without fsync, but for the faults, whose commits must be on disk.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from taskflow_server.cluster.binaries import NoPostgresError, find
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres
from taskflow_server.store.migrate import migrate
from tests.support.leftovers import allow

IMAGE = "postgres:18"
ENGINE_PATIENCE = 10  # seconds for an answer of the Docker engine
T = TypeVar("T")


def run(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in a loop and thread of its own, whatever loop the test has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


@contextmanager
def server(*, fsync: bool = False) -> Iterator[str]:
    """The dsn of a superuser's database on a Postgres for this session."""
    given = os.environ.get("TASKFLOW_TEST_DATABASE_URL")
    if given:
        yield given
        return
    try:
        find()
    except NoPostgresError:
        with _container() as dsn:
            yield dsn
    else:
        with _embedded(fsync) as dsn:
            yield dsn


def with_database(dsn: str, name: str) -> str:
    """The dsn of another database of the same server."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{name}"))


def create_template(admin: str, name: str) -> None:
    """A migrated database, to copy."""
    _execute(admin, "create database {}", name)
    run(lambda: migrate(with_database(admin, name)))


def create_database(admin: str, name: str, template: str) -> str:
    """A fresh copy of the template; returns its dsn."""
    _execute(admin, "create database {} template {} strategy file_copy", name, template)
    return with_database(admin, name)


def drop_database(admin: str, name: str) -> None:
    """Drop it, whoever is still connected."""
    _execute(admin, "drop database if exists {} with (force)", name)


def engine_has_image() -> bool:
    """Whether a Docker engine answers and has the image; the tests pull none."""
    if not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):
        return False
    import docker

    try:
        client = docker.from_env(timeout=ENGINE_PATIENCE)
        client.images.get(IMAGE)
    except (docker.errors.DockerException, OSError):
        return False
    return True


@contextmanager
def _container() -> Iterator[str]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # another image to pull; we stop ours ourselves
    from testcontainers.postgres import PostgresContainer

    container = PostgresContainer(IMAGE, username="taskflow", dbname="taskflow")
    with container.with_command("postgres -c max_connections=200") as running:
        yield running.get_connection_url(driver=None)


@contextmanager
def _embedded(fsync: bool) -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    postgres = EmbeddedPostgres(directory, fsync=fsync)
    try:
        dsn = postgres.start()
        allow(postgres.pid or 0, tree=True)
        yield dsn
    finally:
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)


def _execute(admin: str, statement: str, *names: str) -> None:
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
