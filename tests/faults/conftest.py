"""Faults are tried on a Postgres that flushes each commit to disk, as a user's does. They leave a flawless history."""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.support import postgres as pg
from tests.support.verifying import assert_promises_kept


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


@pytest.fixture(scope="session")
def check_history() -> Callable[[str], None]:
    return assert_promises_kept
