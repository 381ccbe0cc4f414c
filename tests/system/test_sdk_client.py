"""The client on a real cluster: calls that travel together, errors that say what to do, lists, waits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow import (
    AsyncTaskFlow,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NewJob,
    NotFound,
    TaskFlow,
    TaskFlowError,
    Unavailable,
)
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually

ABSENT = "01980a2c-7d1e-7c43-9b1f-0c5d2f6a7b8c"


@pytest.fixture(scope="module")
def tf(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with TaskFlow(cluster.scheduler_address) as made:
        yield made


@pytest.fixture(scope="module")
def worker(cluster: ServiceCluster) -> Program:
    return cluster.run("sdk", "-m", "tests.support.sdk_app", cluster.scheduler_address)


def calls_of(client: Any) -> list[int]:
    """Sizes of the CreateJobs calls that a client makes from now on."""
    sizes: list[int] = []
    creator = client._core.creator
    ask = creator._ask

    async def counted(specs: list[Any]) -> Any:
        sizes.append(len(specs))
        return await ask(specs)

    creator._ask = counted
    return sizes


@pytest.mark.feature("S3.1", "X.4")
async def test_coroutines_that_call_at_once_travel_together(cluster: ServiceCluster) -> None:
    async with AsyncTaskFlow(cluster.scheduler_address) as tf:
        await tf.new_job("together")
        sizes = calls_of(tf)

        jobs = await asyncio.gather(*(tf.new_job("together", n) for n in range(1_000)))

        assert len({job.id for job in jobs}) == sum(sizes) == 1_000
        assert len(sizes) < 20
        seen = [job async for job in tf.jobs.list(queue="together", page_size=300)]
        assert {job.id for job in jobs} <= {job.id for job in seen}


def test_threads_that_call_at_once_travel_together(tf: TaskFlow) -> None:
    sizes = calls_of(tf)
    threads = [threading.Thread(target=lambda: [tf.new_job("threads", n) for n in range(20)]) for _ in range(30)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(sizes) == 600
    assert len(sizes) < 300


async def test_a_wrong_job_fails_its_own_caller_alone(cluster: ServiceCluster) -> None:
    async with AsyncTaskFlow(cluster.scheduler_address) as tf:
        late = datetime.now(UTC) + timedelta(days=40_000)

        ended = await asyncio.gather(
            *(tf.new_job("mixed", n, key="x" * 300 if n == 3 else None) for n in range(10)),
            tf.new_job("mixed", run_at=late),
            return_exceptions=True,
        )

        assert [type(e).__name__ for n, e in enumerate(ended) if n not in (3, 10)] == ["AsyncJobHandle"] * 9


@pytest.mark.feature("X.4")
def test_many_jobs_go_in_one_call_and_come_back_in_order(tf: TaskFlow) -> None:
    jobs = tf.new_jobs(
        [NewJob("bulk", 0), ("bulk", 1), {"queue": "bulk", "payload": 2, "priority": 9}]
        + [("bulk", n) for n in range(3, 12_000)]
    )

    assert len({job.id for job in jobs}) == 12_000
    assert [jobs[n].get().payload for n in (0, 1, 2, 11_999)] == [0, 1, 2, 11_999]
    assert tf.new_jobs([]) == []


@pytest.mark.feature("X.3")
def test_a_key_makes_one_job_however_often_it_is_used(tf: TaskFlow) -> None:
    first = tf.new_job("keyed", 1, key="welcome-42")
    again = tf.new_job("keyed", 1, key="welcome-42")
    (bulk,) = tf.new_jobs([NewJob("keyed", 1, key="welcome-42")])

    assert first.id == again.id == bulk.id
    assert (first.existing, again.existing, bulk.existing) == (False, True, True)


def test_a_job_with_a_payload_of_a_mebibyte(tf: TaskFlow, worker: Program) -> None:
    jobs = tf.new_jobs([NewJob("sdk", "x" * (1 << 20), task="echo") for _ in range(12)])

    assert [len(job.wait(timeout=30).result) for job in jobs] == [1 << 20] * 12


@pytest.mark.feature("X.11")
def test_waiting_has_a_limit_and_the_job_goes_on(tf: TaskFlow, worker: Program) -> None:
    job = tf.new_job("sdk", {"seconds": 1.5}, task="sleep")

    begun = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"is \w+ after 0.2 s"):
        job.wait(timeout=0.2)

    assert time.monotonic() - begun < 1.2
    assert job.wait(timeout=30).result == "slept"


@pytest.mark.feature("S3.4")
def test_lists_are_read_page_by_page(tf: TaskFlow) -> None:
    made = [job.id for job in tf.new_jobs([("listed", n) for n in range(25)])]

    found = [job.id for job in tf.jobs.list(queue="listed", states="ready", page_size=10)]

    assert found == made[::-1]
    assert "listed" in [queue.name for queue in tf.queues.list(page_size=2)]
    assert eventually(lambda: tf.queues.get("listed").ready == 25)


def test_live_workers_are_listed(tf: TaskFlow, worker: Program) -> None:
    (seen,) = eventually(lambda: list(tf.workers.list()))

    assert seen.pid == worker.process.pid
    assert "echo" in seen.tasks


def test_what_is_not_there_is_not_found(tf: TaskFlow) -> None:
    for ask in (tf.jobs.get, tf.jobs.cancel, tf.jobs.retry, tf.jobs.attempts, tf.jobs.wait):
        with pytest.raises(NotFound):
            ask(ABSENT)
    with pytest.raises(NotFound):
        tf.queues.get("no-such-queue")


def test_what_cannot_be_done_now_is_a_failed_precondition(tf: TaskFlow, worker: Program) -> None:
    job = tf.new_job("sdk", 1, task="echo")
    job.wait(timeout=30)

    with pytest.raises(FailedPrecondition) as refused:
        job.cancel()

    assert refused.value.reason == "JOB_FINISHED"


def test_a_wrong_state_or_id_is_refused_here(tf: TaskFlow) -> None:
    with pytest.raises(InvalidArgument, match="none of scheduled, ready"):
        next(tf.jobs.list(states="done"))
    with pytest.raises(InvalidArgument, match="an id looks like"):
        tf.jobs.get("17")


def test_nobody_at_the_address_is_one_clear_line() -> None:
    with TaskFlow("127.0.0.1:1", timeout=0.5) as tf, pytest.raises(Unavailable) as away:
        tf.new_job("q")

    assert str(away.value) == (
        "cannot reach TaskFlow's scheduler at 127.0.0.1:1 (connection refused); is it running, and is this its address?"
    )


def test_a_scheduler_that_is_away_for_a_moment_is_waited_for(cluster: ServiceCluster, tf: TaskFlow) -> None:
    cluster.kill("scheduler")
    late = threading.Timer(0.5, lambda: cluster.start("scheduler"))
    late.start()

    job = tf.new_job("patient", 1)

    late.join()
    assert job.get().payload == 1


def test_the_second_address_pins_the_queue_service(cluster: ServiceCluster) -> None:
    with TaskFlow(cluster.scheduler_address, cluster.address("queue")) as tf:
        done = threading.Thread(daemon=True, target=lambda: tf.run("pinned", handler=lambda job: job.payload))
        done.start()

        assert tf.new_job("pinned", 7).wait(timeout=30).result == 7

        tf.stop()
        done.join(10)
        assert not done.is_alive()


def test_a_closed_client_says_so(cluster: ServiceCluster) -> None:
    tf = TaskFlow(cluster.scheduler_address)
    tf.new_job("closed")
    tf.close()

    with pytest.raises(FailedPrecondition, match="is closed"):
        tf.new_job("closed")


def test_calls_of_other_threads_while_a_client_is_closed_end_with_errors_of_the_tree(cluster: ServiceCluster) -> None:
    """At moments of chance: before, in and behind each call, and in a worker."""
    for _ in range(5):
        tf, ends, ready = TaskFlow(cluster.scheduler_address), list[BaseException](), threading.Barrier(7)
        job = tf.new_job("closing", delay=3600)
        calls: list[Callable[[], object]] = [
            lambda tf=tf: tf.new_job("closing", delay=3600),
            lambda tf=tf: tf.new_jobs([("closing", 1), ("closing", 2)]),
            lambda tf=tf: list(tf.jobs.list(queue="closing", page_size=5)),
            lambda tf=tf: tf.queues.get("closing"),
            job.get,
            lambda job=job: job.wait(timeout=60),
        ]
        threads = [threading.Thread(target=_repeat, args=(call, ready, ends), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        ready.wait(10)
        tf.queues.get("closing")
        tf.close()

        for thread in threads:
            thread.join(10)
        assert [error.reason for error in ends if isinstance(error, TaskFlowError)] == ["CLOSED"] * len(calls), ends


def _repeat(call: Callable[[], object], ready: threading.Barrier, ends: list[BaseException]) -> None:
    """Until it fails."""
    ready.wait(10)
    try:
        while True:
            call()
    except BaseException as error:
        ends.append(error)


def test_a_run_ends_with_an_error_of_the_tree_when_its_client_is_closed(cluster: ServiceCluster) -> None:
    tf, ends, begun = TaskFlow(cluster.scheduler_address), list[BaseException](), threading.Event()

    def run() -> None:
        try:
            tf.run("closed-run", handler=lambda job: begun.set())
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    tf.new_job("closed-run")
    assert begun.wait(20)
    tf.close()

    thread.join(10)
    assert not thread.is_alive()
    assert all(isinstance(error, TaskFlowError) for error in ends), ends
