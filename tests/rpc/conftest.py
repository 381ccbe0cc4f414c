"""One cluster for all tests of the API, each in queues of its own. Times are short where a test waits for them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from taskflow import TaskFlow
from tests.support import postgres as pg
from tests.support.api import Api
from tests.support.cluster import ServiceCluster
from tests.support.leftovers import allow_if
from tests.support.waiting import eventually

_numbers = itertools.count(1)
SETTINGS = {
    "coordinator": {
        "TASKFLOW_CANCEL_GRACE": "1.5",
        "TASKFLOW_MAX_HANDOUTS": "3",
        "TASKFLOW_LEASE": "5",
        "TASKFLOW_HEARTBEAT_INTERVAL": "0.5",
        "TASKFLOW_LEASE_ROW_AFTER": "1",
        "TASKFLOW_MARK_INTERVAL": "0.5",
        "TASKFLOW_REFUSED_RETRY": "1",
    },
    "queue": {"TASKFLOW_PRIORITY_AGING": "0.5"},
    "scheduler": {},
}


@pytest.fixture(scope="package")
def database(postgres: str, template: str) -> Iterator[str]:
    name = f"rpc_{os.getpid()}"
    yield pg.create_database(postgres, name, template)
    pg.drop_database(postgres, name)


@pytest.fixture(scope="package")
def cluster(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceCluster]:
    running = ServiceCluster(database, tmp_path_factory.mktemp("rpc"), env=SETTINGS)
    running.start_all()
    allow_if(lambda pid: any(running.pid(name) == pid for name in SETTINGS))  # it lasts as long as the tests
    yield running
    running.close()


@pytest.fixture(scope="package")
def api(cluster: ServiceCluster) -> Iterator[Api]:
    with Api(cluster.scheduler_address) as stubs:
        eventually(lambda: stubs.topology().coordinators)
        yield stubs


@pytest.fixture
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as client:
        yield client


@pytest.fixture
def queue() -> str:
    """A queue of the test's own, that does not exist yet."""
    return f"queue-{next(_numbers)}"
