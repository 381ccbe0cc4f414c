"""A real Postgres for the tests: TASKFLOW_TEST_DATABASE_URL, else a container, else the embedded one.

The embedded one keeps fsync on, unless TASKFLOW_TEST_FSYNC=off asks for speed.
"""

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql

from services.cluster.embedded import EmbeddedPostgres
from services.store.migrate import migrate

IMAGE = "postgres:18"
IMAGE_PATIENCE = 20.0  # an engine that cannot have the image within it counts as none
T = TypeVar("T")


def run(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end in a loop and thread of its own, whatever loop the test has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(make())).result()


@contextmanager
def server() -> Iterator[str]:
    """The dsn of a superuser's database on a Postgres for this session."""
    given = os.environ.get("TASKFLOW_TEST_DATABASE_URL")
    if given:
        yield given
    elif engine_has_image():
        with _container() as dsn:
            yield dsn
    else:
        with _embedded() as dsn:
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
    _execute(admin, "create database {} template {}", name, template)
    return with_database(admin, name)


def drop_database(admin: str, name: str) -> None:
    """Drop it, whoever is still connected."""
    _execute(admin, "drop database if exists {} with (force)", name)


def engine_has_image() -> bool:
    """Whether a Docker engine answers and has, or can pull in time, the image."""
    if not (os.environ.get("DOCKER_HOST") or Path("/var/run/docker.sock").exists()):
        return False
    ready = threading.Event()

    def ask() -> None:
        with suppress(Exception):  # whatever is wrong with the engine, it is none
            import docker

            client = docker.from_env(timeout=int(IMAGE_PATIENCE))
            client.ping()
            try:
                client.images.get(IMAGE)
            except docker.errors.ImageNotFound:
                client.images.pull(IMAGE)
            ready.set()

    threading.Thread(target=ask, daemon=True).start()
    return ready.wait(IMAGE_PATIENCE)


@contextmanager
def _container() -> Iterator[str]:
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")  # another image to pull; we stop ours ourselves
    from testcontainers.postgres import PostgresContainer

    container = PostgresContainer(IMAGE, username="taskflow", dbname="taskflow")
    with container.with_command("postgres -c max_connections=200") as running:
        yield running.get_connection_url(driver=None)


@contextmanager
def _embedded() -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="taskflow-tests-"))
    postgres = EmbeddedPostgres(directory, fsync=os.environ.get("TASKFLOW_TEST_FSYNC") != "off")
    try:
        yield postgres.start()
    finally:
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)


def _execute(admin: str, statement: str, *names: str) -> None:
    with psycopg.connect(admin, autocommit=True) as conn:
        conn.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))
