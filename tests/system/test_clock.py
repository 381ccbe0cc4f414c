"""One clock (M.11): a real cluster's timeouts, retries, leases and due times obey a clock that is moved by hand."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from taskflow import Constant, JobHandle, JobState, Outcome, TaskFlow
from taskflow.errors import FailedPrecondition, InvalidArgument
from tests.support import rows
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually

pytestmark = pytest.mark.feature("M.11")

UNIT = 0.25  # seconds; the scenario's times are multiples of it, far enough apart

TRANSITIONS = """
    select j.task, a.attempt, taskflow.outcome_name(a.outcome), a.final
    from taskflow.attempts a join taskflow.jobs j on j.id = a.job_id order by a.finished_at
"""


def made(make_cluster: Callable[..., ServiceCluster], clock: str, **coordinator: str) -> ServiceCluster:
    cluster = make_cluster(env={"scheduler": {"TASKFLOW_CLOCK": clock}, "coordinator": coordinator})
    cluster.start_all()
    return cluster


@pytest.fixture(scope="module")
def manual(make_cluster: Callable[..., ServiceCluster]) -> Iterator[ServiceCluster]:
    cluster = made(make_cluster, "manual")
    yield cluster
    cluster.close()


def run_app(cluster: ServiceCluster, *words: str) -> Program:
    return cluster.run("-".join(("app", *words)), "-m", "tests.support.clock_app", cluster.scheduler_address, *words)


def scenario(cluster: ServiceCluster, pass_time: Callable[[TaskFlow], object]) -> list[tuple[str, int, str, bool]]:
    """One job of each kind that waits for time, while a worker that has one hangs. Returns their ends, in order."""
    with TaskFlow(cluster.scheduler_address) as tf:
        working, hanging = run_app(cluster), run_app(cluster, "hang")
        eventually(lambda: len(list(tf.workers.list())) == 2)
        hang = tf.new_job("clock", task="hang")
        eventually(lambda: hang.get().state is JobState.RUNNING)
        hanging.signal(signal.SIGSTOP)
        jobs: list[JobHandle] = [hang]
        jobs += [
            tf.new_job("clock", task="flaky", retries=1, backoff=Constant(17 * UNIT)),
            tf.new_job("clock", task="stuck", retries=1, backoff=Constant(8 * UNIT), timeout=6 * UNIT),
            tf.new_job("clock", task="silent", heartbeat_timeout=3 * UNIT),
            tf.new_job("clock", task="sleepy"),
            tf.new_job("clock", task="later", delay=9 * UNIT),
            tf.new_job("clock", task="nobody_s", start_by=now_of(cluster) + timedelta(seconds=4.5 * UNIT)),
        ]
        eventually(lambda: all(job.get().state.final for job in jobs) or pass_time(tf) is NotImplemented, 60)
        hanging.signal(signal.SIGCONT)
        working.stop()
        hanging.kill()
    return [row for row in rows.found(cluster.dsn, TRANSITIONS) if row[1:] != (1, "snoozed", False)]


def now_of(cluster: ServiceCluster) -> datetime:
    ((now,),) = rows.found(cluster.dsn, "select taskflow.now()")
    assert isinstance(now, datetime)
    return now


def test_a_moved_clock_gives_the_same_log_as_real_time(make_cluster: Callable[..., ServiceCluster]) -> None:
    """Leases of 3 s; the times of the scenario are at least a quarter second apart."""
    settings = {"TASKFLOW_LEASE": f"{13 * UNIT}", "TASKFLOW_HEARTBEAT_INTERVAL": f"{UNIT}"}
    real, moved = made(make_cluster, "system", **settings), made(make_cluster, "manual", **settings)

    in_real_time = scenario(real, lambda tf: None)
    by_hand = scenario(moved, lambda tf: tf.advance_clock(UNIT / 2, step=UNIT / 2))

    assert by_hand == in_real_time
    assert [(task, outcome) for task, _, outcome, final in by_hand if final] == [
        ("silent", "timed_out"), ("nobody_s", "cancelled"), ("later", "succeeded"), ("hang", "lost"),
        ("flaky", "succeeded"), ("stuck", "timed_out"), ("sleepy", "succeeded"),
    ]  # fmt: skip


def test_hours_of_retries_and_timeouts_pass_in_seconds(manual: ServiceCluster) -> None:
    with TaskFlow(manual.scheduler_address) as tf:
        before = now_of(manual)
        app = run_app(manual, "hang")
        job = tf.new_job("clock", task="hang", retries=2, timeout=1800, backoff=Constant(3600))
        eventually(lambda: job.get().state is JobState.RUNNING)

        now = tf.advance_clock(timedelta(minutes=105), step=120)
        assert (job.get().state, job.get().attempt) == (JobState.RUNNING, 2)
        later = tf.advance_clock(timedelta(hours=2), step=120)

        done = tf.jobs.wait(job.id, timeout=20)
        assert (done.state, done.attempt) == (JobState.FAILED, 3)
        attempts = tf.jobs.attempts(job.id)
        assert [a.outcome for a in attempts] == [Outcome.TIMED_OUT] * 3
        spans = [a.finish_time - a.start_time for a in attempts if a.finish_time and a.start_time]
        assert len(spans) == 3 and all(timedelta(minutes=30) <= span < timedelta(minutes=34) for span in spans)
        assert timedelta(minutes=105) <= now - before < timedelta(minutes=106)
        assert timedelta(hours=2) <= later - now < timedelta(hours=2, minutes=1)
        assert app.stop() == 0


def test_a_moved_clock_outlives_every_process(manual: ServiceCluster) -> None:
    with TaskFlow(manual.scheduler_address) as tf:
        tf.advance_clock(timedelta(days=30), step=86_400)
        job = tf.new_job("clock", task="later", delay=86_400)
        for name in ("scheduler", "coordinator", "queue"):
            manual.kill(name)
            manual.start(name)
            manual.wait_healthy(name)
        app = run_app(manual)

        assert job.get().state is JobState.SCHEDULED
        tf.advance_clock(86_400, step=3600)

        assert job.wait(timeout=20).state is JobState.SUCCEEDED
        assert now_of(manual) - datetime.now(UTC) > timedelta(days=30, hours=23)
        assert app.stop() == 0


def test_a_live_worker_keeps_its_lease_through_long_steps(manual: ServiceCluster) -> None:
    with TaskFlow(manual.scheduler_address) as tf:
        app = run_app(manual, "hang")
        job = tf.new_job("clock", task="hang")
        eventually(lambda: job.get().state is JobState.RUNNING)

        tf.advance_clock(timedelta(days=10), step=86_400)
        tf.advance_clock(60)  # in short steps, too

        assert (job.get().state, job.get().attempt) == (JobState.RUNNING, 1)
        assert "lease" not in app.output
        app.kill()


def test_the_real_clock_cannot_be_moved(cluster: ServiceCluster) -> None:
    with TaskFlow(cluster.scheduler_address) as tf, pytest.raises(FailedPrecondition, match="--clock=manual"):
        tf.advance_clock(1)


@pytest.mark.parametrize(("by", "step", "field"), [(-1, 5, "seconds"), (1, 0, "step"), (1e6, 1, "step")])
def test_a_bad_move_is_refused_by_field(manual: ServiceCluster, by: float, step: float, field: str) -> None:
    with TaskFlow(manual.scheduler_address) as tf, pytest.raises(InvalidArgument) as refused:
        tf.advance_clock(by, step=step)

    assert refused.value.field == field
