"""Scenarios of the parity tests, for a cluster in memory and a real one. Times are short, for the real one's sake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskflow import AttemptInfo, Cancelled, Constant, Fail, Job, JobHandle, JobInfo, Retry, Snooze, TaskFlow

SOON = Constant(0.05, jitter=0)


@dataclass
class Point:
    x: int
    y: int


def make_app(address: str) -> TaskFlow:
    """A fresh app with all tasks of the scenarios."""
    tf = TaskFlow(address)

    @tf.task(queue="parity", retries=2, backoff=SOON)
    def ends(how: str, job: Job) -> Any:
        """As `how` says for each attempt."""
        job.log(f"attempt {job.attempt} of {1 + job.retries}")
        step = how.split()[min(job.attempt, len(how.split())) - 1]
        if step == "raise":
            raise ValueError("no luck")
        if step == "retry":
            raise Retry("once more", delay=0.1)
        if step == "fail":
            raise Fail("never")
        if step == "snooze":
            raise Snooze(0.1)
        if step == "cancel":
            raise Cancelled("enough")
        if step == "unserialisable":
            return object()
        return {"attempt": job.attempt, "retries": job.retries}

    @tf.task(queue="parity", retries=1, backoff=SOON)
    async def ends_async(how: str, job: Job) -> Any:
        return ends.handler.function(how, job)

    @tf.task(queue="parity", timeout=0.6, retries=1, backoff=SOON)
    async def sleeps(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "slept"

    @tf.task(queue="parity", heartbeat_timeout=0.6)
    async def silent(beats: int, job: Job) -> str:
        for _ in range(beats):
            await asyncio.sleep(0.1)
            job.heartbeat()
        await asyncio.sleep(60)
        return "never"

    @tf.task(queue="parity")
    def takes_point(point: Point, factor: int = 2) -> dict[str, int]:
        return {"x": point.x * factor, "y": point.y * factor}

    @tf.task(queue="parity")
    def echo(job: Job) -> Any:
        return job.payload

    @tf.task(queue="parity")
    async def shields(seconds: float) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(seconds)
        return "defiant"

    return tf


def task(name: str, payload: Any = None, **options: Any) -> Callable[[TaskFlow], JobHandle]:
    """Makes a job as `tf.<task>.new_job` would, without the check of its arguments."""

    def make(tf: TaskFlow) -> JobHandle:
        registered = tf._registry.tasks[name]
        defaults = {"ends": 2, "ends_async": 1, "sleeps": 1}
        options.setdefault("retries", defaults.get(name, 0))
        options.setdefault("backoff", SOON)
        return tf.new_job("parity", payload, task=registered.name, **options)

    return make


SCENARIOS: dict[str, Callable[[TaskFlow], JobHandle]] = {
    "succeeds": task("ends", {"how": "return"}),
    "raises once": task("ends", {"how": "raise return"}),
    "raises always": task("ends", {"how": "raise"}),
    "has no retries": task("ends", {"how": "raise"}, retries=0),
    "asks for a retry": task("ends", {"how": "retry retry return"}),
    "gives up": task("ends", {"how": "raise fail"}),
    "snoozes": task("ends", {"how": "snooze snooze snooze return"}),
    "cancels itself": task("ends", {"how": "cancel"}),
    "returns what cannot be stored": task("ends", {"how": "unserialisable"}),
    "async succeeds": task("ends_async", {"how": "return"}),
    "async raises": task("ends_async", {"how": "raise"}),
    "async is in time": task("sleeps", {"seconds": 0.01}),
    "async times out": task("sleeps", {"seconds": 60}),
    "job's own timeout": task("sleeps", {"seconds": 60}, timeout=0.1, retries=0),
    "ignores its cancellation": task("shields", {"seconds": 0.05}, timeout=0.1, retries=0),
    "no heartbeat": task("silent", {"beats": 0}),
    "some heartbeats": task("silent", {"beats": 4}),
    "a dataclass": task("takes_point", {"point": {"x": 1, "y": 2}, "factor": 3}),
    "a wrong field": task("takes_point", {"point": {"x": 1, "y": 2}, "nothing": 3}),
    "a field missing": task("takes_point", {}),
    "text": task("echo", "ünï"),
    "bytes": task("echo", b"\x00\xff"),
    "nothing": task("echo", None),
    "a delay": task("echo", 1, delay=0.2),
    "a key, metadata and tags": task("echo", 1, key="once", metadata={"a": "b"}, tags=["t"]),
    "a priority": task("echo", 1, priority=9),
}

_SAME = ("queue", "task", "namespace", "state", "payload", "result", "priority", "retries", "attempt", "key")


def told(job: JobInfo, attempts: list[AttemptInfo], logs: list[tuple[int, str, str]]) -> dict[str, Any]:
    """The part that must be the same: all but ids, instants, names of workers and tracebacks."""
    found: dict[str, Any] = {name: getattr(job, name) for name in _SAME}
    found |= {"cancelling": job.cancelling, "last": job.last_outcome, "metadata": job.metadata, "tags": job.tags}
    found["progress"] = job.progress
    found["error"] = job.error and (job.error.type, job.error.message, job.error.final, bool(job.error.traceback))
    found["attempts"] = [
        (a.number, a.outcome, a.final, a.result, a.error and (a.error.type, a.error.message), a.start_time is not None)
        for a in attempts
    ]
    found["logs"] = logs
    found["times"] = [t is not None for t in (job.create_time, job.run_time, job.start_time, job.finish_time)]
    return found


def story(tf: TaskFlow, job: JobHandle) -> dict[str, Any]:
    """The fields of a job as `tf` shows it."""
    logs = [(line.attempt, line.level, line.message) for line in tf.jobs.logs(job.id)]
    return told(job.get(), list(tf.jobs.attempts(job.id)), logs)
