"""The app of the clock's tests: `python -m tests.support.clock_app SCHEDULER [hang]`; with `hang`, that task alone."""

import asyncio
import sys

from taskflow import Job, Snooze, TaskFlow

tf = TaskFlow(sys.argv[1])


async def for_ever() -> None:
    await asyncio.Event().wait()


if sys.argv[2:] == ["hang"]:
    tf.task(queue="clock", name="hang")(for_ever)
else:

    @tf.task(queue="clock")
    async def flaky(job: Job) -> int:
        if job.attempt == 1:
            raise ValueError("not yet")
        return job.attempt

    @tf.task(queue="clock")
    async def sleepy(job: Job) -> int:
        if job.attempt == 1:
            raise Snooze(5.75)
        return job.attempt

    @tf.task(queue="clock")
    async def later() -> None:
        pass

    for name in ("stuck", "silent"):
        tf.task(queue="clock", name=name)(for_ever)


if __name__ == "__main__":
    tf.run()
