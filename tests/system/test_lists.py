"""Lists and counts through a real cluster: what a user finds of thousands of jobs (S3.4, X.19)."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from taskflow import Fail, Job, JobState, NewJob, Outcome, TaskFlow
from taskflow.errors import InvalidArgument
from tests.support import forkserver, rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("X.19", "S3.4")


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    """60 jobs that are over, 3 that are due tomorrow and one that runs until the end."""
    with TaskFlow(cluster.scheduler_address) as app:
        ended = threading.Event()

        @app.task(queue="lists")
        def end(n: int) -> int:
            if n % 3 == 0:
                raise Fail(f"number {n} is no good")
            return n

        @app.task(queue="lists")
        def hold(job: Job) -> None:
            ended.wait(60)

        worker = threading.Thread(target=app.run, kwargs={"concurrency": 10}, daemon=True)
        worker.start()
        made = [
            NewJob("lists", {"n": n}, task="end", tags=["even" if n % 2 == 0 else "odd"], metadata={"n": str(n)})
            for n in range(60)
        ]
        for job in app.new_jobs(made):
            app.jobs.wait(job.id, timeout=30)
        app.new_jobs([NewJob("lists", n, task="end", delay=86_400, tags=["odd"]) for n in range(3)])
        held = app.new_job("lists", task="hold", tags=["odd"])
        eventually(lambda: held.get().state is JobState.RUNNING)
        yield app
        ended.set()
        app.stop()
        worker.join(20)


def numbers(tf: TaskFlow, **wish: object) -> list[int]:
    """Payloads of the final jobs."""
    return sorted(job.payload["n"] for job in tf.jobs.list(queue="lists", task="end", **wish))  # type: ignore[arg-type]


def test_jobs_are_found_by_tag_metadata_and_error(tf: TaskFlow) -> None:
    assert numbers(tf, tags="even") == list(range(0, 60, 2))
    assert numbers(tf, tags=["even"], states="failed") == list(range(0, 60, 6))
    assert numbers(tf, metadata={"n": "17"}) == [17]
    assert numbers(tf, error="NUMBER 5") == [51, 54, 57]
    assert numbers(tf, tags=["even"], error="number 5") == [54]
    assert numbers(tf, tags=["even", "odd"]) == []
    assert numbers(tf, metadata={"n": "17"}, tags="even") == []


def test_jobs_are_found_by_state_and_time_in_pages_of_any_size(tf: TaskFlow) -> None:
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)

    assert numbers(tf, states=["succeeded"], page_size=7) == [n for n in range(60) if n % 3]
    assert numbers(tf, states=["succeeded", "failed"], created_after=an_hour_ago) == list(range(60))
    assert numbers(tf, created_before=an_hour_ago) == []
    assert [job.payload for job in tf.jobs.list(queue="lists", states="scheduled")] == [2, 1, 0]
    assert [job.task for job in tf.jobs.list(states="running", tags="odd")] == ["hold"]
    assert [job.task for job in tf.jobs.list(states="running", tags="even")] == []


def test_what_ended_is_counted_as_often_as_it_stands_in_the_history(tf: TaskFlow, cluster: ServiceCluster) -> None:
    wanted = {Outcome.SUCCEEDED: 40, Outcome.FAILED: 20}

    eventually(lambda: tf.queues.get("lists").finished == wanted, 20)  # they are written with the marks

    stands = "select outcome, count(*) from taskflow.attempts where final group by outcome"
    counted = "select outcome, sum(n)::bigint from taskflow.counts group by outcome"
    assert sorted(rows.found(cluster.dsn, stands)) == sorted(rows.found(cluster.dsn, counted))


def test_the_command_line_narrows_alike(tf: TaskFlow, cluster: ServiceCluster) -> None:
    def listed(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "taskflow._cli", "job", "list", "--address", cluster.scheduler_address, *words]
        return forkserver.run(command)

    found = listed("--json", "--tag", "even", "--error", "number 5", "--since", "2h")
    assert [json.loads(line)["payload"]["n"] for line in found.stdout.splitlines()] == [54]
    assert listed("--metadata", "n=17").stdout.count("succeeded") == 1
    for wrong, said in (("--metadata", "key=value"), ("--since", "2026-12-24T18:00:00Z, or a duration like 36h")):
        refused = listed(wrong, "yesterday")
        assert (refused.returncode, said in refused.stderr) == (2, True)


def test_a_list_that_cannot_be_is_refused_by_field(tf: TaskFlow) -> None:
    with pytest.raises(InvalidArgument) as refused:
        list(tf.jobs.list(states="done"))
    assert refused.value.field == "states"
    with pytest.raises(TypeError, match="colour"):
        tf.jobs.list(colour="red")  # type: ignore[call-arg]
