"""An application's side, as a process of its own: makes jobs in one of several ways and tells how long it took.

The answer is JSON: `made` jobs in all, `jobs` of them between `began` and `ended` (monotonic seconds), `cpu`
seconds of this process between the two, and where asked for `sent`, the instant of each job's call by its number.
"""

import argparse
import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop

from benchmarks import echo
from benchmarks.plan import RUN_STEPS
from taskflow import AsyncTaskFlow, TaskFlow
from taskflow.v1 import jobs_pb2, jobs_pb2_grpc

PAYLOAD_BYTES = 100
WARM_CALLS = 20
TICK = 0.01  # seconds between the groups of a steady rate


def payload(number: int) -> dict[str, Any]:
    """A JSON object of 100 bytes."""
    rest = PAYLOAD_BYTES - len(f'{{"n":{number},"x":""}}')
    return {"n": number, "x": "y" * rest}


class Watch:
    """Takes the time and the CPU of what is measured."""

    def __init__(self) -> None:
        self.began, self._cpu = time.monotonic(), time.process_time()

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self.began

    def answer(self, jobs: int, *, made: int | None = None, sent: list[float] | None = None) -> dict[str, Any]:
        """To be called when the work is done."""
        return {
            "began": self.began,
            "ended": time.monotonic(),
            "cpu": time.process_time() - self._cpu,
            "jobs": jobs,
            "made": jobs if made is None else made,
            "sent": sent or [],
        }


def bulk(a: argparse.Namespace) -> dict[str, Any]:
    """`new_jobs` with all of them."""
    with TaskFlow(a.address) as tf:
        _connect(tf)
        watch = Watch()
        tf.new_jobs((a.queue, payload(number)) for number in range(a.jobs))
        return watch.answer(a.jobs)


def _connect(tf: TaskFlow) -> None:
    for _ in tf.workers.list():
        pass


def single(a: argparse.Namespace) -> dict[str, Any]:
    """`new_job`, one after the other, in one thread."""
    with TaskFlow(a.address) as tf:
        job = payload(0)
        for _ in range(WARM_CALLS):
            tf.new_job(a.queue, job)
        watch, done = Watch(), 0
        while watch.seconds < a.seconds:
            tf.new_job(a.queue, job)
            done += 1
        return watch.answer(done, made=done + WARM_CALLS)


async def callers(a: argparse.Namespace) -> dict[str, Any]:
    """`new_job` from many coroutines of one process, each waiting for its answer."""
    tf = AsyncTaskFlow(a.address)
    job = payload(0)

    async def make() -> object:
        return await tf.new_job(a.queue, job)

    return await _together(make, a)


async def strangers(a: argparse.Namespace) -> dict[str, Any]:
    """Callers that share nothing: a connection each, and one unary call a job, as 50 small processes would make them.

    By the generated stubs, not the SDK's clients: 50 of those would have 50 threads in this process, and measure them.
    """
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    data = json.dumps(payload(0), separators=(",", ":")).encode()
    channels = [grpc.aio.insecure_channel(a.address, options=options) for _ in range(a.callers)]
    stubs: list[Any] = [jobs_pb2_grpc.JobServiceStub(channel) for channel in channels]

    async def make() -> object:
        stub = stubs.pop()
        try:
            spec = jobs_pb2.JobSpec(id=_new_id(), queue=a.queue, payload=data)
            return await stub.CreateJobs(jobs_pb2.CreateJobsRequest(jobs=[spec], allow_partial=True))
        finally:
            stubs.append(stub)

    return await _together(make, a)


def _new_id() -> bytes:
    """A UUIDv7, as the SDK makes one for each job."""
    low = random.getrandbits(74)
    number = time.time_ns() // 1_000_000 << 80 | 7 << 76 | low >> 62 << 64 | 2 << 62 | low & (1 << 62) - 1
    return number.to_bytes(16, "big")


async def _together(make: Callable[[], Awaitable[object]], a: argparse.Namespace) -> dict[str, Any]:
    await asyncio.gather(*(make() for _ in range(a.callers)))
    watch = Watch()

    async def caller() -> int:
        done = 0
        while watch.seconds < a.seconds:
            await make()
            done += 1
        return done

    done = sum(await asyncio.gather(*(caller() for _ in range(a.callers))))
    return watch.answer(done, made=done + a.callers)


def paced(a: argparse.Namespace) -> dict[str, Any]:
    """`new_job` now and then, so that every job finds the cluster idle."""
    rng, sent = random.Random(1), []
    with TaskFlow(a.address) as tf:
        _connect(tf)
        watch = Watch()
        for number in range(a.jobs):
            time.sleep(rng.uniform(0.015, 0.035))
            job = payload(number)
            sent.append(time.monotonic())
            tf.new_job(a.queue, job)
        return watch.answer(a.jobs, sent=sent)


async def steady(a: argparse.Namespace) -> dict[str, Any]:
    """`new_jobs` a hundred times a second at a given rate, whether or not the earlier calls have been answered.

    A job's time counts from when its call was due, so that a call held up here is no better than one held up there.
    """
    tf = AsyncTaskFlow(a.address)
    _ = [worker async for worker in tf.workers.list()]  # connects
    watch, tasks = Watch(), []
    sent: list[float] = []
    for tick in range(1, int(a.seconds / TICK) + 1):
        due = watch.began + tick * TICK
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        numbers = range(len(sent), int(a.rate * tick * TICK))
        sent.extend(due for _ in numbers)
        if numbers:
            tasks.append(asyncio.create_task(tf.new_jobs([(a.queue, payload(number)) for number in numbers])))
    await asyncio.gather(*tasks)
    return watch.answer(len(sent), sent=sent)


async def runs(a: argparse.Namespace) -> dict[str, Any]:
    """Runs of a workflow whose steps are one job each, one after the other: many at once, then some alone."""
    tf = AsyncTaskFlow(a.address)
    steps = [
        {
            "name": f"s{n}",
            "kind": "task",
            "queue": a.queue,
            "depends_on": [f"s{n - 1}"] if n else [],
            "meta": {"input": payload(0)},
        }
        for n in range(RUN_STEPS)
    ]
    await tf.workflows.put({"name": "bench", "steps": steps})
    alone = []
    for _ in range(WARM_CALLS):
        began = time.monotonic()
        await tf.workflows.wait((await tf.workflows.start("bench")).id)
        alone.append((time.monotonic() - began) / RUN_STEPS)
    watch, turn = Watch(), asyncio.Semaphore(a.callers)

    async def start() -> None:
        async with turn:
            await tf.workflows.start("bench")

    await asyncio.gather(*(start() for _ in range(a.jobs)))
    while [run async for run in tf.workflows.runs("bench", states=["new", "running"], page_size=1)]:  # noqa: ASYNC110
        await asyncio.sleep(TICK)
    jobs = a.jobs * RUN_STEPS
    return {**watch.answer(jobs, made=jobs + WARM_CALLS * RUN_STEPS), "alone": statistics.median(alone)}


async def unary(a: argparse.Namespace) -> dict[str, Any]:
    """Bare gRPC: unary calls with as many bytes as a job takes."""
    watch = Watch()
    done, seconds = await echo.unary_calls(a.address, _message(), a.callers, a.seconds)
    return {**watch.answer(done), "seconds": seconds}


async def stream(a: argparse.Namespace) -> dict[str, Any]:
    """Bare gRPC: messages on a stream."""
    watch = Watch()
    done, seconds = await echo.stream_messages(a.address, _message(), a.seconds)
    return {**watch.answer(done), "seconds": seconds}


def _message() -> bytes:
    spec = jobs_pb2.JobSpec(id=bytes(16), queue="backlog", payload=bytes(PAYLOAD_BYTES))
    return jobs_pb2.CreateJobsRequest(jobs=[spec], allow_partial=True).SerializeToString()


_WAYS: dict[str, Callable[[argparse.Namespace], Any]] = {
    way.__name__: way for way in (bulk, single, callers, strangers, paced, steady, runs, unary, stream)
}


def main() -> None:
    """Does one of the ways, and writes the answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=_WAYS)
    parser.add_argument("--address", required=True)
    parser.add_argument("--queue", default="live")
    parser.add_argument("--jobs", type=int, default=0)
    parser.add_argument("--callers", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--answer", type=Path, required=True, help="file for the answer")
    arguments = parser.parse_args()
    way = _WAYS[arguments.way]
    answer = uvloop.run(way(arguments)) if asyncio.iscoroutinefunction(way) else way(arguments)
    arguments.answer.write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
