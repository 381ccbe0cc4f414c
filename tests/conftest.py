"""Fixtures for all tests: `postgres`, `database`, `cluster`, `make_cluster`."""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.support import forkserver, tier
from tests.support import postgres as pg
from tests.support.cluster import ServiceCluster
from tests.support.plugin import (  # noqa: F401  hooks
    pytest_addoption,
    pytest_collection,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_runtest_makereport,
    pytest_unconfigure,
)
from tests.support.spreading import pytest_xdist_make_scheduler  # noqa: F401  hook

_numbers = itertools.count(1)
# The same examples in every run of `make test`; others in each run of the long tier, whose seed a red test shows.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("long", deadline=None, print_blob=True)
hypothesis.settings.load_profile("long" if tier.LONG else "steady")


@pytest.fixture(scope="session", autouse=True)
def _forkserver() -> Iterator[None]:
    yield
    forkserver.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The dsn of a superuser on a real Postgres."""
    with pg.server() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def template(postgres: str) -> Iterator[str]:
    """The name of a migrated database that others are copied from. Nobody connects to it."""
    name = f"taskflow_template_{os.getpid()}"
    pg.create_template(postgres, name)
    yield name
    pg.drop_database(postgres, name)


@pytest.fixture(scope="module")
def database(postgres: str, template: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The dsn of a fresh, migrated database for the module."""
    words = re.sub(r"\W+", "_", Path(str(request.path)).stem)[:30]
    name = f"{words}_{os.getpid()}_{next(_numbers)}"
    yield pg.create_database(postgres, name, template)
    pg.drop_database(postgres, name)


@pytest.fixture(scope="session")
def check_history() -> Callable[[str], None]:
    """Called with the dsn of a cluster's database when the cluster has stopped."""
    return lambda dsn: None


@pytest.fixture(scope="module")
def make_cluster(
    database: str,
    postgres: str,
    template: str,
    tmp_path_factory: pytest.TempPathFactory,
    check_history: Callable[[str], None],
) -> Iterator[Callable[..., ServiceCluster]]:
    """Makes clusters, not started yet; takes ServiceCluster's options, and `dsn`.

    The first is on the module's database, each further one on a database of its own: two clusters whose services have
    the same names would take each other's shards.
    """
    made: list[ServiceCluster] = []
    own: list[str] = []

    def make(dsn: str | None = None, **options: Any) -> ServiceCluster:
        if dsn is None and made:
            own.append(f"cluster_{os.getpid()}_{next(_numbers)}")
            dsn = pg.create_database(postgres, own[-1], template)
        cluster = ServiceCluster(dsn or database, tmp_path_factory.mktemp("cluster"), after=check_history, **options)
        made.append(cluster)
        return cluster

    yield make
    with ExitStack() as stack:  # all are stopped, although the history of one has a fault
        for name in own:
            stack.callback(pg.drop_database, postgres, name)
        for cluster in made:
            stack.callback(cluster.close)


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    """Queue service, coordinator and scheduler, running, for the whole module. No worker: the tests bring theirs."""
    running = make_cluster()
    running.start_all()
    return running
