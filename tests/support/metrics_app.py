"""The app of the packaged worker in the tests of metrics and logs."""

import asyncio

from taskflow import Fail, Job, TaskFlow

tf = TaskFlow()


@tf.task(queue="timed")
async def second_time(job: Job) -> int:
    """Takes a tenth of a second, and fails once."""
    await asyncio.sleep(0.1)
    if job.attempt == 1:
        raise ValueError("not yet")
    return job.attempt


@tf.task(queue="timed")
def never(job: Job) -> None:
    raise Fail("no luck")
