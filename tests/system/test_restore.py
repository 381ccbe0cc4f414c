"""A dump restored into another Postgres cluster, by the commands of docs/operations/backup-and-restore.md (C3)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from taskflow import Job, JobHandle, JobState, TaskFlow
from taskflow_server.cluster.embedded_postgres import EmbeddedPostgres
from tests.support import postgres as pg
from tests.support.cluster import ServiceCluster
from tests.support.docs import ROOT, blocks
from tests.support.rows import found
from tests.support.waiting import eventually
from tests.support.workers import working

PAGE = ROOT / "docs" / "operations" / "backup-and-restore.md"
SHORT = {
    "coordinator": {"TASKFLOW_LEASE": "2", "TASKFLOW_MARK_INTERVAL": "0.3", "TASKFLOW_OWNER_TIMEOUT": "2"},
}
BURN = 20_000  # transactions by which the old cluster is ahead
QUEUE = "mail"


@dataclass(eq=False)
class Ran:
    """How often each payload was handled."""

    times: Counter[str] = field(default_factory=Counter)

    def __call__(self, job: Job) -> str:
        self.times[job.payload] += 1
        return str(job.payload)


@pytest.fixture(scope="module")
def new_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """Another cluster of Postgres, which has counted less far."""
    postgres = EmbeddedPostgres(tmp_path_factory.mktemp("new") / "pg", fsync=False)
    yield postgres
    postgres.remove()


def run(command: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", command], cwd=directory, env={**os.environ, **env}, capture_output=True, text=True, timeout=60
    )


@dataclass
class Restored:
    """The state after `dump`: the new databases, and the jobs that were there, by name."""

    urls: dict[str, str]
    jobs: dict[str, str]
    prepare: str
    env: dict[str, str]


def fill(cluster: ServiceCluster) -> dict[str, str]:
    """Jobs in several states, by what they are; the cluster has ended."""
    with psycopg.connect(cluster.dsn, autocommit=True) as conn:
        conn.execute(
            f"do $$ begin for n in 1..{BURN} loop perform pg_current_xact_id(); commit; end loop; end $$".encode()
        )
    cluster.start_all()
    made: dict[str, JobHandle] = {}
    with TaskFlow(cluster.scheduler_address) as tf:
        made["done"] = tf.new_job(QUEUE, "done")
        with TaskFlow(cluster.scheduler_address) as app, working(app, QUEUE, Ran()):
            made["done"].wait(timeout=20)
        made |= {name: tf.new_job(QUEUE, name) for name in ("first", "second", "third")}
        made["later"] = tf.new_job(QUEUE, "later", delay=1.0)
    assert cluster.stop("scheduler") == 0
    assert cluster.stop("coordinator") == 0
    cluster.stop("queue")
    return {name: job.id for name, job in made.items()}


@pytest.fixture(scope="module")
def restored(
    make_cluster: Callable[..., ServiceCluster], new_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Restored:
    """The page's commands up to the restore, into two databases of the new server."""
    cluster = make_cluster(env=SHORT)
    jobs = fill(cluster)
    new = new_server.start()
    dump, restore, prepare = blocks(PAGE, "sh")
    directory = tmp_path_factory.mktemp("dump")
    env = {
        "PATH": f"{new_server.bin}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OLD_URL": cluster.dsn,
    }
    done = run(dump, directory, **env)
    if "server version mismatch" in done.stderr:
        pytest.skip("the pg_dump that is here is older than the server of the tests")
    assert done.returncode == 0, done.stderr
    urls = {}
    for name in ("before", "between"):
        with psycopg.connect(new, autocommit=True) as conn:
            conn.execute(f"create database restored_{name}".encode())
        urls[name] = pg.with_database(new, f"restored_{name}")
        done = run(restore, directory, **env, NEW_URL=urls[name])
        assert done.returncode == 0, done.stderr
        ahead = found(urls[name], "select max(tx) > pg_current_xact_id() from taskflow.jobs")
        assert ahead == [(True,)], "the new cluster has counted less far"
    return Restored(urls, jobs, prepare, env)


def all_ran_once(cluster: ServiceCluster, jobs: dict[str, str], wanted: set[str]) -> None:
    """Each of them succeeds in its only attempt, and nothing else runs."""
    ran = Ran()
    with TaskFlow(cluster.scheduler_address) as tf, TaskFlow(cluster.scheduler_address) as app:
        with working(app, QUEUE, ran):
            eventually(lambda: wanted <= ran.times.keys(), 20)
            states = {name: tf.jobs.get(id) for name, id in jobs.items()}
            eventually(lambda: all(tf.jobs.get(id).state is JobState.SUCCEEDED for id in jobs.values()), 20)
        assert {name: job.state for name, job in states.items() if name == "done"} == {"done": JobState.SUCCEEDED}
    assert ran.times == Counter(wanted)
    attempts = found(cluster.dsn, "select count(*), count(distinct job_id) from taskflow.attempts")
    assert attempts == [(len(jobs), len(jobs))]


def test_after_the_page_s_commands_old_and_new_jobs_run_once(
    restored: Restored, make_cluster: Callable[..., ServiceCluster], tmp_path: Path
) -> None:
    url = restored.urls["before"]
    done = run(restored.prepare, tmp_path, **restored.env, NEW_URL=url)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "mended: this database comes from another Postgres cluster" in done.stdout
    assert re.search(r"^ok +transaction numbers: all were given by this cluster$", done.stdout, re.MULTILINE)

    cluster = make_cluster(dsn=url, env=SHORT)
    with closing(cluster):
        cluster.start_all()
        with TaskFlow(cluster.scheduler_address) as tf:
            jobs = restored.jobs | {name: tf.new_job(QUEUE, name).id for name in ("new", "newer")}
        all_ran_once(cluster, jobs, jobs.keys() - {"done"})
        marked = "select m.tx >= (select max(tx) from taskflow.jobs) from taskflow.lanes m"
        eventually(lambda: found(url, marked) == [(True,)])
        cluster.kill("coordinator")
        cluster.start("coordinator")
        cluster.wait_healthy("coordinator")
        with TaskFlow(cluster.scheduler_address) as tf:
            last = {"last": tf.new_job(QUEUE, "last").id}
        all_ran_once(cluster, jobs | last, {"last"})


def test_services_that_run_before_the_mend_hand_out_nothing_wrong_and_lose_no_job(
    restored: Restored, make_cluster: Callable[..., ServiceCluster], tmp_path: Path
) -> None:
    url = restored.urls["between"]
    cluster = make_cluster(dsn=url, env=SHORT)
    doctor = f'taskflow db doctor --database-url "{url}"'
    with closing(cluster):
        cluster.start_all()
        with TaskFlow(cluster.scheduler_address) as tf:
            jobs = restored.jobs | {name: tf.new_job(QUEUE, name).id for name in ("new", "newer")}
        eventually(lambda: "transaction numbers of another Postgres cluster" in cluster.log("coordinator"), 20)
        found_out = run(doctor, tmp_path, **restored.env)
        assert (found_out.returncode, found_out.stderr) == (1, "")
        assert re.search(r"^FAULT transaction numbers: the highest is [\d,]+, and this", found_out.stdout, re.MULTILINE)

        mended = run(f"{doctor} --fix", tmp_path, **restored.env)

        assert mended.returncode == 0, mended.stdout + mended.stderr
        assert "2 jobs that lanes had passed over wait again" in mended.stdout
        all_ran_once(cluster, jobs, jobs.keys() - {"done"})
        assert run(doctor, tmp_path, **restored.env).returncode == 0
