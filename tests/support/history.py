"""A history with something of everything: made by a real cluster, for checks that read it.

As a program it is the history's worker: `python -m tests.support.history SCHEDULER`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import timedelta

from taskflow import Constant, Fail, Job, JobState, Snooze, StepState, TaskFlow
from tests.support import rows
from tests.support.cluster import ServiceCluster
from tests.support.waiting import eventually

FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
EVERY_SECOND = "* * * * * *"
RELEASE = {
    "name": "release",
    "steps": [
        {"name": "build", "kind": "task", "queue": "work", "meta": {"task": "echo", "input": 1}},
        {"name": "test", "kind": "task", "queue": "work", "meta": {"task": "echo"}, "depends_on": ["build"]},
        {"name": "unhappy", "kind": "task", "queue": "work", "meta": {"task": "echo"}},
        {"name": "pause", "kind": "wait", "meta": {"duration": 0.05}, "depends_on": ["test"]},
    ],
    "edges": [{"from": "build", "to": "unhappy", "on": "failure"}],
}  # fmt: skip
APPROVED = {
    "name": "approved",
    "steps": [
        {"name": "build", "kind": "task", "queue": "work", "meta": {"task": "echo"}},
        {"name": "approve", "kind": "wait", "meta": {"signal": "yes"}, "depends_on": ["build"]},
        {"name": "ship", "kind": "task", "queue": "work", "meta": {"task": "echo"}, "depends_on": ["approve"]},
    ],
}
STALLED = {"name": "stalled", "steps": [{"name": "hang", "kind": "task", "queue": "work", "meta": {"task": "forever"}}]}
DECIDED = {"name": "decided", "decider": {}}
ACTION = "awf.workflow.action/"
BROKEN = {
    "name": "broken",
    "steps": [
        {"name": "first", "kind": "task", "queue": "work", "meta": {"task": "refuse"}},
        {"name": "second", "kind": "task", "queue": "work", "meta": {"task": "echo"}, "depends_on": ["first"]},
    ],
}


def tasks_of(tf: TaskFlow) -> None:
    """The handlers."""

    @tf.task(queue="work")
    def echo(job: Job) -> object:
        return job.payload

    @tf.task(queue="work")
    def flaky(job: Job) -> int:
        job.log(f"attempt {job.attempt}")
        if job.attempt < 3:
            raise RuntimeError("not yet")
        return job.attempt

    @tf.task(queue="work")
    def refuse(job: Job) -> None:
        raise Fail("never")

    @tf.task(queue="work")
    def snooze(job: Job) -> str:
        if job.attempt == 1:
            raise Snooze(0.05)
        return "awake"

    @tf.task(queue="work")
    async def forever(job: Job) -> None:
        await asyncio.Event().wait()

    @tf.task(queue="default", name="awf.workflow.decision/decided")
    async def decide(job: Job) -> object:
        """First a run of another workflow; when that has ended, the end."""
        if job.payload["event"].endswith("/workflow-init"):
            return {"action": f"{ACTION}schedule-workflow", "task-request": {"definition": "release", "params": {}}}
        return {"action": f"{ACTION}complete-workflow", "result": "done"}

    @tf.task(queue="work")
    def one_by_one(job: Job) -> None:
        time.sleep(0.01)


def make(cluster: ServiceCluster) -> None:
    """Jobs of every end, a retry by hand, keys, a concurrency, schedules, runs, and jobs that have not ended. The
    cluster and its worker are killed in the midst of it."""
    worker = cluster.run("history", "-m", "tests.support.history", cluster.scheduler_address)
    with TaskFlow(cluster.scheduler_address) as tf:
        tf.tasks.create("limited", queue="work", target="one_by_one", concurrency=1)
        schedule(tf)
        _jobs(tf)
        _cancel(tf)
        _runs(tf)
        fired = "select from taskflow.firings where state = 'fired' group by schedule_id having count(*) > 5"
        eventually(lambda: len(rows.found(cluster.dsn, fired)) == 3, 60)
        _unfinished(tf)
    held = "select from taskflow.leases where task = 'forever' and started"
    eventually(lambda: len(rows.found(cluster.dsn, held)) == 2, 30)
    eventually(lambda: rows.found(cluster.dsn, "select from taskflow.counts"), 30)
    worker.kill()
    for name in ("coordinator", "scheduler", "queue"):
        cluster.kill(name)


def _jobs(tf: TaskFlow) -> None:
    jobs = [tf.new_job("work", n, task="echo") for n in range(50)]
    jobs += [tf.new_job("work", None, task=name) for name in ("snooze", "refuse") for _ in range(5)]
    # Their retries are their own: the worker may not have registered its handlers yet.
    jobs += [tf.new_job("work", None, task="flaky", retries=3, backoff=Constant(0.05)) for _ in range(5)]
    jobs += [tf.new_job("work", n, task="echo", key=f"key-{n}", tags=["keyed"]) for n in (0, 1, 2, 1)]
    for job in jobs:
        eventually(lambda job=job: job.get().state in FINAL, 30)
    again = next(tf.jobs.list(task="refuse", states=[JobState.FAILED]))
    tf.jobs.retry(again.id)
    eventually(lambda: len(tf.jobs.attempts(again.id)) == 2, 30)


def schedule(tf: TaskFlow) -> None:
    """Schedules of every second, and the workflows."""
    tf.schedules.create("echo", cron=EVERY_SECOND, overlap="allow")
    tf.schedules.create("limited", cron=EVERY_SECOND, overlap="queue")
    for document in (RELEASE, APPROVED, STALLED, DECIDED, BROKEN):
        tf.workflows.put(document)
    tf.schedules.create(workflow="release", cron="*/2 * * * * *", overlap="skip")


def _cancel(tf: TaskFlow) -> None:
    waiting = tf.new_job("nobody", None)
    running = tf.new_job("work", None, task="forever")
    eventually(lambda: tf.jobs.get(running.id).state is JobState.RUNNING, 30)
    for job in (waiting, running):
        job.cancel("not needed")
        eventually(lambda job=job: tf.jobs.get(job.id).state is JobState.CANCELLED, 30)


def _runs(tf: TaskFlow) -> None:
    names = ("release", "decided", "broken", "approved", "approved", "stalled")
    done, decided, broken, waits, cancelled, _ = [tf.workflows.start(name) for name in names]
    for run in (done, decided, broken):
        eventually(lambda run=run: tf.workflows.get_run(run.id).finish_time, 30)
    for run in (waits, cancelled):
        eventually(lambda run=run: tf.workflows.get_run(run.id).step("approve").state is StepState.WAITING, 30)
    tf.workflows.cancel(cancelled.id)
    eventually(lambda: tf.workflows.get_run(cancelled.id).finish_time, 30)


def _unfinished(tf: TaskFlow) -> None:
    for _ in range(3):
        tf.tasks.run("limited")
        tf.new_job("nobody", "ready")
    tf.new_job("work", "later", task="echo", delay=timedelta(days=300))
    held = tf.new_job("work", None, task="forever")
    eventually(lambda: tf.jobs.get(held.id).state is JobState.RUNNING, 30)


def main() -> None:
    tf = TaskFlow(sys.argv[1])
    tasks_of(tf)
    tf.run(concurrency=20)


if __name__ == "__main__":
    main()
