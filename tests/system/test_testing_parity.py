"""`taskflow.testing` against a real cluster: the same jobs, told alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from taskflow import FailedPrecondition, InvalidArgument, JobHandle, JobInfo, JobUnsuccessful, TaskFlow, testing
from tests.support.cluster import ServiceCluster
from tests.support.testing_app import SCENARIOS, make_app, story
from tests.support.waiting import eventually
from tests.support.workers import working

Told = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def real(cluster: ServiceCluster) -> Iterator[TaskFlow]:
    with working(make_app(cluster.scheduler_address), signals=False) as tf:
        yield tf


@pytest.fixture(scope="module")
def told_by_a_cluster(real: TaskFlow) -> Told:
    jobs = {name: make(real) for name, make in SCENARIOS.items()}
    for job in jobs.values():
        ended(job)
    return {name: story(real, job) for name, job in jobs.items()}


@pytest.fixture(scope="module")
def told_in_memory() -> Told:
    tf = make_app("localhost:1")
    with testing.cluster(tf) as c:
        jobs = {name: make(tf) for name, make in SCENARIOS.items()}
        c.advance(120)
        return {name: story(tf, job) for name, job in jobs.items()}


def ended(job: JobHandle) -> JobInfo:
    try:
        return job.wait(60)
    except JobUnsuccessful as error:
        return error.job


@pytest.mark.feature("X.27")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_job_is_told_alike(scenario: str, told_by_a_cluster: Told, told_in_memory: Told) -> None:
    assert told_in_memory[scenario] == told_by_a_cluster[scenario]


@pytest.mark.feature("X.27", "R7", "R8")
def test_cancel_expiry_retry_by_hand_and_keys_are_told_alike(real: TaskFlow) -> None:
    memory = make_app("localhost:1")
    with testing.cluster(memory) as c:
        in_memory = by_hand(memory, lambda: c.advance(5), c.now())
    on_a_cluster = by_hand(real, lambda: None, datetime.now(UTC))

    assert in_memory == on_a_cluster


def by_hand(tf: TaskFlow, move: Any, now: datetime) -> list[Any]:
    """A person's actions on jobs; `move` lets time pass where nothing else does."""
    waiting = tf.new_job("parity", 1, task="echo", delay=3600)
    cancelled = waiting.cancel("not wanted")
    unheard = tf.new_job("parity", 1, task="of-nobody", start_by=now + timedelta(seconds=0.5))
    move()
    ended(unheard)
    failed = tf.new_job("parity", {"how": "raise"}, task="ends")
    move()
    ended(failed)
    stories: list[Any] = [cancelled.state, story(tf, waiting), story(tf, unheard), story(tf, failed)]
    failed.retry()
    move()
    ended(failed)
    twin = tf.new_job("parity", 1, task="echo", key="twin")
    second = tf.new_job("parity", 2, task="echo", key="twin")
    stories += [story(tf, failed), twin.id == second.id, (twin.existing, second.existing)]
    return [*stories, refused(lambda: waiting.cancel()), refused(lambda: tf.new_job("q", key="k" * 300))]


def refused(call: Any) -> tuple[str, str, str]:
    with pytest.raises((FailedPrecondition, InvalidArgument)) as caught:
        call()
    return type(caught.value).__name__, caught.value.reason, getattr(caught.value, "field", "")


@pytest.mark.feature("X.27", "R7")
def test_the_cancel_of_a_running_job_is_told_alike(real: TaskFlow) -> None:
    job = real.new_job("parity", {"seconds": 60}, task="sleeps", timeout=60)
    eventually(lambda: real.jobs.get(job.id).state == "running", 20)
    job.cancel("stop it")
    ended(job)

    memory = make_app("localhost:1")
    with testing.cluster(memory) as c:
        twin = memory.new_job("parity", {"seconds": 60}, task="sleeps", timeout=60)
        c.run_until_idle()
        assert twin.cancel("stop it").cancelling
        c.run_until_idle()

        assert story(memory, twin) == story(real, job)


@pytest.mark.feature("X.27")
async def test_an_async_test_gets_the_same() -> None:
    tf = make_app("localhost:1")
    with testing.cluster(tf) as c:
        jobs = {name: make(tf) for name, make in SCENARIOS.items()}
        c.advance(120)

        assert {story(tf, job)["state"] for job in jobs.values()} == {"succeeded", "failed", "cancelled"}
    await asyncio.sleep(0)
