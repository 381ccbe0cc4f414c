"""Faults are tried on a Postgres that flushes each commit to disk, as a user's does."""

import os
from collections.abc import Iterator

import pytest

from tests.support import postgres as pg


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with pg.server(fsync=True) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    name = f"taskflow_template_{os.getpid()}_faults"
    pg.create_template(postgres, name)
    yield name
    pg.drop_database(postgres, name)
