"""A paused queue hands nothing out, whoever dies meanwhile (S3.8, X.9)."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from taskflow import Job, JobState, TaskFlow
from taskflow.errors import NotFound
from tests.support import forkserver
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("S3.8", "X.9")


@pytest.fixture
def ran(cluster: ServiceCluster) -> Iterator[list[tuple[str, object]]]:
    """The jobs that handlers of a worker in this process got, in order."""
    got: list[tuple[str, object]] = []
    with TaskFlow(cluster.scheduler_address) as app:

        @app.task(queue="steady")
        def note(job: Job) -> None:
            got.append((job.queue, job.payload))

        @app.task(queue="held")
        def note_held(job: Job) -> None:
            got.append((job.queue, job.payload))

        worker = threading.Thread(target=app.run, daemon=True)
        worker.start()
        yield got
        app.stop()
        worker.join(20)


def test_nothing_of_a_paused_queue_starts_through_kills_and_backlogs_until_it_is_resumed(
    cluster: ServiceCluster, ran: list[tuple[str, object]]
) -> None:
    with TaskFlow(cluster.scheduler_address) as tf:
        first = tf.new_job("held", 0, task="note_held")
        assert first.wait(timeout=20).state is JobState.SUCCEEDED
        assert tf.queues.pause("held").paused

        held = [tf.new_job("held", n, task="note_held") for n in range(1, 4)]
        for name in ("queue", "coordinator", "scheduler"):
            cluster.kill(name)
            cluster.start(name)
            cluster.wait_healthy(name)
            steady = tf.new_job("steady", name, task="note")
            assert steady.wait(timeout=30).state is JobState.SUCCEEDED, "others go on"

        assert [payload for queue, payload in ran if queue == "held"] == [0]
        assert {job.get().state for job in held} == {JobState.READY}
        assert tf.queues.get("held").paused and not tf.queues.get("steady").paused

        assert not tf.queues.resume("held").paused
        assert {job.wait(timeout=20).state for job in held} == {JobState.SUCCEEDED}
        assert sorted(payload for queue, payload in ran if queue == "held") == [0, 1, 2, 3]


@pytest.mark.feature("S3.4")
def test_what_runs_goes_on_and_the_command_line_does_the_same(cluster: ServiceCluster) -> None:
    def taskflow(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "taskflow._cli", *words, "--address", cluster.scheduler_address]
        return forkserver.run(command)

    begun, go_on = threading.Event(), threading.Event()
    with TaskFlow(cluster.scheduler_address) as app:

        @app.task(queue="slow")
        def slow() -> str:
            begun.set()
            go_on.wait(30)
            return "done"

        worker = threading.Thread(target=app.run, daemon=True)
        worker.start()
        running = slow.new_job()
        assert begun.wait(20)

        assert taskflow("queue", "pause", "slow").stdout == "slow is paused\n"
        waiting = slow.new_job()
        go_on.set()

        assert running.wait(timeout=20).result == "done"
        assert waiting.get().state is JobState.READY
        assert ["paused", "yes"] in [line.split() for line in taskflow("queue", "show", "slow").stdout.splitlines()]
        assert taskflow("queue", "resume", "slow").stdout == "slow is dispatched\n"
        eventually(lambda: waiting.get().state is JobState.SUCCEEDED)
        app.stop()
        worker.join(20)


def test_a_queue_drains_by_the_command_line_until_it_is_resumed(cluster: ServiceCluster) -> None:
    def taskflow(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "taskflow._cli", *words, "--address", cluster.scheduler_address]
        return forkserver.run(command)

    with TaskFlow(cluster.scheduler_address) as tf:
        tf.new_jobs([("drained", n) for n in range(3)])
        assert taskflow("queue", "drain", "drained").stdout == "drained drains: 3 jobs left\n"
        shown = [line.split() for line in taskflow("queue", "show", "drained").stdout.splitlines()]
        assert ["draining", "yes"] in shown and ["ready", "3"] in shown
        tf.queues.pause("drained")
        refused = taskflow("job", "new", "drained")
        assert refused.returncode != 0 and "'drained' drains and accepts no new jobs; resume it" in refused.stderr
        assert taskflow("queue", "resume", "drained").stdout == "drained is dispatched\n"
        assert taskflow("job", "new", "drained").returncode == 0


def test_a_queue_that_is_not_there_cannot_be_paused(cluster: ServiceCluster) -> None:
    with TaskFlow(cluster.scheduler_address) as tf, pytest.raises(NotFound):
        tf.queues.pause("no-such-queue")
