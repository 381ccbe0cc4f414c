"""Every way in which the owner of the shards changes, with handlers that run across it (protocol A5, B13)."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from taskflow import TaskFlow
from taskflow_server.cluster.ports import free_ports
from tests.support import postgres as pg
from tests.support.cluster import Program, ServiceCluster
from tests.support.recorder import Record
from tests.support.waiting import eventually

_numbers = itertools.count(1)
SHORT = {
    "TASKFLOW_LEASE": "9", "TASKFLOW_HEARTBEAT_INTERVAL": "0.5", "TASKFLOW_OWNER_TIMEOUT": "2",
    "TASKFLOW_BEAT_INTERVAL": "0.5", "TASKFLOW_LEASE_ROW_AFTER": "0.8",
}  # fmt: skip
JOBS = 70
SECONDS = 0.8  # of each handler


class Scene:
    """A cluster with a standby, and one worker with async and one with thread handlers."""

    def __init__(self, cluster: ServiceCluster, folder: Path, dsn: str) -> None:
        self.cluster = cluster
        self.folder = folder
        self.dsn = dsn
        self.queue = f"handed-over-{next(_numbers)}"
        self.tf = TaskFlow(cluster.scheduler_address)
        self.workers = [self._worker(kind) for kind in ("async", "thread")]

    def _worker(self, kind: str) -> Program:
        record = str(self.folder / f"{kind}.record")
        return self.cluster.run(
            f"{self.queue}-{kind}", "-m", "tests.support.recorder", record, self.queue, "20", kind,
            env={"TASKFLOW_ADDRESS": self.cluster.scheduler_address},
        )  # fmt: skip

    def record(self) -> Record:
        return Record.read(*self.folder.glob("*.record"))

    def running(self) -> bool:
        """Whether both kinds of handlers are at work."""
        records = [Record.read(self.folder / f"{kind}.record") for kind in ("async", "thread")]
        return all(len(r.starts) >= 20 and len(r.starts) > len(r.ends) for r in records)

    def outcomes(self) -> dict[str, int]:
        with psycopg.connect(self.dsn) as conn:
            found = conn.execute(
                "select outcome, count(*) from taskflow.attempt_history where queue = %s group by 1", (self.queue,)
            )
            return dict(found.fetchall())

    def owner(self) -> str | None:
        """The name under which the shards are owned, if it is one."""
        with psycopg.connect(self.dsn) as conn:
            owners = {row[0] for row in conn.execute("select owner from taskflow.shards").fetchall()}
        return owners.pop() if len(owners) == 1 else None

    def close(self) -> None:
        self.tf.close()
        for worker in self.workers:
            worker.kill()


@pytest.fixture(scope="module")
def owned(
    postgres: str, template: str, make_cluster: Callable[..., ServiceCluster]
) -> Iterator[tuple[ServiceCluster, str]]:
    name = f"hand_over_{os.getpid()}"
    dsn = pg.create_database(postgres, name, template)
    cluster = make_cluster(dsn, env={"coordinator": SHORT})
    cluster.start_all()
    yield cluster, dsn
    cluster.close()
    pg.drop_database(postgres, name)


@pytest.fixture
def scene(owned: tuple[ServiceCluster, str], tmp_path: Path) -> Iterator[Scene]:
    cluster, dsn = owned
    if not cluster.alive("coordinator"):
        cluster.start("coordinator")
    cluster.wait_healthy("coordinator")
    made = Scene(cluster, tmp_path, dsn)
    yield made
    made.close()


def coordinator(cluster: ServiceCluster, dsn: str, program: str, name: str) -> Program:
    """A further coordinator under `name`."""
    settings = {"TASKFLOW_NAME": name, "TASKFLOW_DATABASE_URL": dsn, "TASKFLOW_PORT": str(free_ports(1)[0]),
                "TASKFLOW_METRICS_PORT": "0", "TASKFLOW_QUEUE_ADDRESS": cluster.address("queue")}  # fmt: skip
    return cluster.run(program, "-m", "taskflow_server.cli", "coordinator", env={**SHORT, **settings})


@pytest.fixture
def standby(owned: tuple[ServiceCluster, str], scene: Scene) -> Iterator[Program]:
    """A coordinator of another name, which waits for the first one's end."""
    cluster, dsn = owned
    name = f"standby-{next(_numbers)}"
    program = coordinator(cluster, dsn, name, name)
    eventually(lambda: "standby: another" in cluster.log(name), 20)
    yield program
    assert program.stop() == 0, program.output
    if not cluster.alive("coordinator"):
        cluster.start("coordinator")
    cluster.kill("coordinator", signal.SIGCONT)
    eventually(lambda: scene.owner() == "coordinator-1", 20)


def by_sigterm(cluster: ServiceCluster) -> None:
    cluster.stop("coordinator")


def by_sigkill(cluster: ServiceCluster) -> None:
    cluster.kill("coordinator")


def by_sigstop(cluster: ServiceCluster) -> None:
    cluster.kill("coordinator", signal.SIGSTOP)


def under_load(scene: Scene, change: Callable[[], object]) -> None:
    """Jobs before, across and after the change; each runs once."""
    job = {"queue": scene.queue, "payload": {"sleep": SECONDS}}
    scene.tf.new_jobs([job for _ in range(JOBS)])
    eventually(scene.running, 20)

    change()

    scene.tf.new_jobs([job for _ in range(20)])
    eventually(lambda: scene.outcomes().get("succeeded", 0) == JOBS + 20, 40)
    seen = scene.record()
    assert seen.overlapping == []
    assert [job for job, times in seen.ends.items() if times != 1] == []
    assert [job for job, times in seen.starts.items() if times != 1] == []
    assert scene.outcomes() == {"succeeded": JOBS + 20}


@pytest.mark.feature("A5", "B13", "M.4")
@pytest.mark.parametrize("leave", [by_sigterm, by_sigkill, by_sigstop])
def test_a_standby_that_takes_over_starts_no_job_again_that_still_runs(
    owned: tuple[ServiceCluster, str], scene: Scene, standby: Program, leave: Callable[[ServiceCluster], None]
) -> None:
    cluster, _ = owned

    def change() -> None:
        leave(cluster)
        eventually(lambda: "took over" in standby.output, 20)
        if leave is by_sigstop:
            cluster.kill("coordinator", signal.SIGCONT)
            eventually(lambda: "standby: another" in cluster.log("coordinator"), 20)

    under_load(scene, change)


@pytest.mark.feature("A5", "B13", "M.4")
@pytest.mark.parametrize("leave", [by_sigterm, by_sigkill])
def test_an_owner_that_comes_back_under_its_name_starts_no_job_again_that_still_runs(
    owned: tuple[ServiceCluster, str], scene: Scene, leave: Callable[[ServiceCluster], None]
) -> None:
    cluster, _ = owned

    def change() -> None:
        leave(cluster)
        cluster.start("coordinator")
        cluster.wait_healthy("coordinator")

    under_load(scene, change)


@pytest.mark.feature("A5", "M.4")
def test_a_queue_service_that_is_replaced_starts_no_job_again_that_still_runs(
    owned: tuple[ServiceCluster, str], scene: Scene
) -> None:
    cluster, _ = owned

    def change() -> None:
        cluster.kill("queue")
        cluster.start("queue")
        cluster.wait_healthy("queue")

    under_load(scene, change)


def incarnations(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as conn:
        return conn.execute("select incarnation from taskflow.members where name = 'coordinator-1'").fetchall()


@pytest.mark.feature("B13", "M.4")
def test_a_second_coordinator_of_one_name_waits_while_the_first_lives_and_follows_it_at_once(
    owned: tuple[ServiceCluster, str], scene: Scene
) -> None:
    cluster, dsn = owned
    first = incarnations(dsn)
    name = f"second-{next(_numbers)}"
    second = coordinator(cluster, dsn, name, "coordinator-1")
    eventually(lambda: "waiting until it ends" in cluster.log(name), 20)

    assert scene.tf.new_job(scene.queue).wait(timeout=20).attempt == 1
    assert incarnations(dsn) == first and cluster.alive("coordinator")
    cluster.kill("coordinator")
    begun = time.monotonic()
    eventually(lambda: "took over" in second.output, 20)
    assert time.monotonic() - begun < float(SHORT["TASKFLOW_OWNER_TIMEOUT"]), "its death is proved, not waited for"

    cluster.start("coordinator")
    eventually(lambda: cluster.log("coordinator").count("waiting until it ends") == 1, 20)
    assert scene.tf.new_job(scene.queue).wait(timeout=20).attempt == 1
    assert second.output.count("waiting until it ends") == 1
    assert second.stop() == 0
    cluster.wait_healthy("coordinator")


@pytest.mark.feature("A7", "B13")
def test_a_coordinator_that_was_stopped_while_another_took_its_name_ends_and_says_why(
    owned: tuple[ServiceCluster, str], scene: Scene
) -> None:
    cluster, dsn = owned
    cluster.kill("coordinator", signal.SIGSTOP)
    name = f"second-{next(_numbers)}"
    second = coordinator(cluster, dsn, name, "coordinator-1")
    eventually(lambda: "took over" in cluster.log(name), 20)

    cluster.kill("coordinator", signal.SIGCONT)

    cluster.wait_dead("coordinator", 20)
    assert "another process runs under the name coordinator-1" in cluster.log("coordinator")
    assert scene.tf.new_job(scene.queue).wait(timeout=20).attempt == 1
    assert second.stop() == 0
