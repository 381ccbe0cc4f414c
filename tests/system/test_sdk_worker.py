"""How a worker leaves, and what it does when it is cut off: real processes, real signals."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskflow import AsyncTaskFlow, JobHandle, JobUnsuccessful, NewJob, TaskFlow
from tests.support.cluster import Program, ServiceCluster
from tests.support.waiting import eventually

LEASE = 2.0
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def cluster(make_cluster: Callable[..., ServiceCluster]) -> ServiceCluster:
    """With short leases, so that their ends can be waited for."""
    running = make_cluster(
        env={"coordinator": {"TASKFLOW_LEASE": f"{LEASE}", "TASKFLOW_HEARTBEAT_INTERVAL": "0.5"}},
    )
    running.start_all()
    return running


@pytest.fixture
def tf(cluster: ServiceCluster) -> TaskFlow:
    return TaskFlow(cluster.scheduler_address)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.touch()
    return path


@pytest.fixture
def worker(cluster: ServiceCluster, notes: Path) -> Callable[..., Program]:
    made: list[Program] = []

    def start(*words: str) -> Program:
        command = ("-m", "tests.support.sdk_app", cluster.scheduler_address, str(notes), "few", *words)
        made.append(cluster.run(f"sdk-{next(_numbers)}", *command))
        return made[-1]

    yield start  # type: ignore[misc]
    for program in made:
        if program.alive:
            program.signal(signal.SIGCONT)
            program.kill()


def new(tf: TaskFlow, task: str, seconds: float, **options: int) -> JobHandle:
    return tf.new_job("sdk", {"seconds": seconds}, task=task, **options)  # type: ignore[misc]


def starts(notes: Path, task: str) -> int:
    return notes.read_text().count(f"start {task} ")


def outcomes(tf: TaskFlow, job: JobHandle) -> list[str]:
    return [str(attempt.outcome) for attempt in tf.jobs.attempts(job.id)]


@pytest.mark.feature("R4")
def test_sigterm_lets_what_runs_end_and_gives_back_the_rest(
    tf: TaskFlow, worker: Callable[..., Program], notes: Path
) -> None:
    program = worker("grace=3", "concurrency=4")
    short = [new(tf, task, 1) for task in ("sleep", "doze", "work")]
    eventually(lambda: all(starts(notes, task) for task in ("sleep", "doze", "work")), 20)
    long = [new(tf, task, 60) for task in ("sleep", "doze", "work")]
    eventually(lambda: all(starts(notes, task) == 2 for task in ("sleep", "doze", "work")), 20)

    begun = time.monotonic()
    assert program.stop() == 0

    assert time.monotonic() - begun < 3 + 1.5
    assert [job.wait(timeout=10).result for job in short] == ["slept", "slept", "worked"]
    for job in long:
        assert outcomes(tf, job) == ["returned"]
        assert job.get().state == "ready"
        job.cancel()


@pytest.mark.feature("M.4", "R4")
def test_sigterm_in_the_middle_of_a_stream_of_jobs_loses_nothing_and_uses_no_try(
    tf: TaskFlow, worker: Callable[..., Program]
) -> None:
    jobs = tf.new_jobs([NewJob("sdk", {"seconds": 0.01}, task="sleep") for _ in range(1_000)])
    programs = [worker("concurrency=50") for _ in range(3)]

    for program in programs[:2]:
        eventually(lambda: any(job.get().state == "succeeded" for job in jobs[::50]), 20)
        assert program.stop() == 0

    with ThreadPoolExecutor(20) as threads:
        assert set(threads.map(lambda job: job.wait(timeout=60).result, jobs)) == {"slept"}
    assert programs[2].stop() == 0


@pytest.mark.feature("R5")
def test_threads_that_outlive_their_timeouts_are_counted_and_told_and_hold_up_no_stop(
    tf: TaskFlow, worker: Callable[..., Program]
) -> None:
    program = worker("concurrency=2", "grace=60")
    for job in [new(tf, "doze", 60, timeout=1) for _ in range(2)]:
        with pytest.raises(JobUnsuccessful):
            job.wait(timeout=20)
    waiting = new(tf, "sleep", 0)

    (listed,) = eventually(lambda: [each for each in tf.workers.list() if each.overdue == 2])

    assert (listed.running, listed.concurrency) == (0, 2)
    eventually(lambda: "2 of 2 slots are taken by handlers that go on" in program.output)
    assert "sdk_app.py" in program.output and "in doze" in program.output
    assert "no job is polled for" in program.output
    assert waiting.get().state == "ready"
    program.signal(signal.SIGTERM)
    assert program.wait(10) == 0
    waiting.cancel()


@pytest.mark.feature("R5")
def test_a_strict_worker_drains_and_ends_when_a_thread_outlives_its_timeout(
    tf: TaskFlow, worker: Callable[..., Program], notes: Path
) -> None:
    program = worker("concurrency=2", "strict=1", "strict_after=0.1")
    never = new(tf, "doze", 60, timeout=1)
    other = new(tf, "sleep", 3)
    eventually(lambda: starts(notes, "sleep"), 20)

    assert program.wait(20) == 70

    assert other.wait(timeout=20).result == "slept"
    assert never.get().state == "failed"


def test_a_second_signal_ends_at_once_with_its_processes(
    tf: TaskFlow, worker: Callable[..., Program], notes: Path
) -> None:
    program = worker("grace=60")
    job = new(tf, "work", 60)
    eventually(lambda: starts(notes, "work"), 20)

    program.signal(signal.SIGTERM)
    eventually(lambda: "draining" in program.output)
    program.signal(signal.SIGTERM)

    assert program.wait(5) == 128 + signal.SIGTERM
    with pytest.raises(JobUnsuccessful):
        job.wait(timeout=30)
    assert outcomes(tf, job) == ["lost"]


def test_handler_processes_end_with_a_killed_worker(tf: TaskFlow, worker: Callable[..., Program], notes: Path) -> None:
    program = worker()
    job = new(tf, "work", 60)
    eventually(lambda: starts(notes, "work"), 20)
    children = _children(program.process.pid)
    assert children

    program.kill()

    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 5)
    with pytest.raises(JobUnsuccessful):
        job.wait(timeout=30)
    assert outcomes(tf, job) == ["lost"]


def _children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for thread in threads for word in (thread / "children").read_text().split()]


@pytest.mark.feature("R1")
def test_a_worker_that_was_stopped_past_its_lease_cannot_finish_its_jobs(
    tf: TaskFlow, worker: Callable[..., Program], notes: Path
) -> None:
    first = worker()
    jobs = [new(tf, task, 5, retries=3) for task in ("sleep", "doze", "work")]
    eventually(lambda: all(starts(notes, task) for task in ("sleep", "doze", "work")), 20)

    first.signal(signal.SIGSTOP)
    second = worker()
    done = [job.wait(timeout=60) for job in jobs]
    first.signal(signal.SIGCONT)

    assert [job.attempt for job in done] == [2, 2, 2]
    eventually(lambda: "its outcome was refused" in first.output, 20)
    assert [outcomes(tf, job) for job in jobs] == [["lost", "succeeded"]] * 3
    second.stop()
    assert new(tf, "sleep", 0.1).wait(timeout=30).result == "slept", "the first has registered anew"


@pytest.mark.feature("R6")
def test_a_worker_cut_off_stops_its_handlers_by_itself_and_comes_back(
    cluster: ServiceCluster, tf: TaskFlow, worker: Callable[..., Program], notes: Path
) -> None:
    program = worker("cancel_grace=0.2")
    jobs = [new(tf, task, 30, retries=3) for task in ("sleep", "work")]
    eventually(lambda: starts(notes, "sleep") and starts(notes, "work"), 20)
    children = _children(program.process.pid)

    cluster.kill("coordinator")
    begun = time.monotonic()
    eventually(lambda: "two thirds of the lease" in program.output, 10)
    assert LEASE / 3 < time.monotonic() - begun < LEASE
    eventually(lambda: len(set(children) & set(_children(program.process.pid))) < len(children))

    cluster.start("coordinator")
    eventually(lambda: starts(notes, "sleep") == 2 and starts(notes, "work") == 2, 30)
    for job in jobs:
        job.cancel()
    assert program.stop() == 0


@pytest.mark.feature("R5")
def test_a_blocked_event_loop_keeps_the_lease_and_is_warned_about(tf: TaskFlow, worker: Callable[..., Program]) -> None:
    program = worker()

    job = new(tf, "block", 2 * LEASE + 1)

    assert job.wait(timeout=60).attempt == 1
    assert "the event loop has been blocked" in program.output
    assert "in block" in program.output


SCRIPT = """
import os, sys
from taskflow import TaskFlow

tf = TaskFlow(sys.argv[1])

@tf.task(queue="script", processes=1)
def square(n):
    return [n * n, os.getpid()]

{first}
tf.run()
print("drained")
"""


def test_a_script_without_a_main_guard_runs_once_all_the_same(
    cluster: ServiceCluster, tf: TaskFlow, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(first="print('begun', flush=True)"))
    program = cluster.run("script", str(tmp_path / "script.py"), cluster.scheduler_address)

    square, pid = tf.new_job("script", {"n": 12}, task="square").wait(timeout=30).result

    assert square == 144 and pid != program.process.pid
    assert program.stop() == 0
    assert program.output.count("drained") == 1


def test_a_script_that_would_make_its_jobs_again_in_each_process_is_told_so(
    cluster: ServiceCluster, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(first="tf.new_job('elsewhere')"))
    program = cluster.run("script-2", str(tmp_path / "script.py"), cluster.scheduler_address)

    assert program.wait(20) == 1
    assert "put the call under `if __name__ == '__main__':`" in program.output


def test_a_worker_that_starts_before_its_cluster_waits_for_it(
    make_cluster: Callable[..., ServiceCluster], tmp_path: Path
) -> None:
    late = make_cluster()
    program = late.run("early", "-m", "tests.support.sdk_app", late.scheduler_address, os.devnull, "few")
    eventually(lambda: "cannot reach TaskFlow's scheduler" in program.output, 20)

    late.start_all()

    with TaskFlow(late.scheduler_address) as tf:
        assert tf.new_job("sdk", 1, task="echo").wait(timeout=30).result == 1
    assert program.stop() == 0


def test_a_worker_without_queue_service_and_coordinator_works_on_when_they_are_back(
    make_cluster: Callable[..., ServiceCluster], tmp_path: Path
) -> None:
    """The coordinator goes while the worker pauses between two polls that fail."""
    own = make_cluster()
    own.start_all()
    program = own.run("left", "-m", "tests.support.sdk_app", own.scheduler_address, os.devnull, "few")
    with TaskFlow(own.scheduler_address) as tf:
        assert tf.new_job("sdk", 1, task="echo").wait(timeout=30).result == 1
        own.kill("queue")
        eventually(lambda: "cannot poll" in program.output, 20)
        own.kill("coordinator")
        eventually(lambda: "no session" in program.output, 20)

        own.start("queue")
        own.start("coordinator")

        assert tf.new_job("sdk", 2, task="echo").wait(timeout=30).result == 2
    assert program.stop() == 0


def test_a_run_in_a_thread_is_stopped_by_its_app(cluster: ServiceCluster) -> None:
    tf = TaskFlow(cluster.scheduler_address)
    running = threading.Thread(target=lambda: tf.run("threaded", handler=lambda job: 2 * job.payload), daemon=True)
    running.start()

    assert [job.wait(timeout=30).result for job in tf.new_jobs([("threaded", n) for n in range(50)])] == [
        2 * n for n in range(50)
    ]

    tf.stop()
    running.join(10)
    assert not running.is_alive()
    tf.close()


async def test_cancelling_an_async_run_drains_it(cluster: ServiceCluster) -> None:
    async with AsyncTaskFlow(cluster.scheduler_address) as tf:
        begun = asyncio.Event()

        async def handler() -> str:
            begun.set()
            await asyncio.sleep(0.5)
            return "ended in its grace"

        running = asyncio.create_task(tf.run("cancelled", handler=handler))
        job = await tf.new_job("cancelled")
        await asyncio.wait_for(begun.wait(), 20)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert (await job.wait(timeout=10)).result == "ended in its grace"
