"""The app of the workflows' tests: `python -m tests.support.workflow_app SCHEDULER`."""

import sys
from typing import Any

from taskflow import Fail, Job, TaskFlow

tf = TaskFlow(sys.argv[1])
refused: set[str] = set()


@tf.task(queue="steps")
async def add(job: Job) -> int:
    return sum(job.payload)


@tf.task(queue="steps")
async def shout(job: Job) -> dict[str, Any]:
    return {"text": str(job.payload["text"]).upper()}


@tf.task(queue="steps")
async def fail_once(job: Job) -> str:
    """Fails for good in the first job with each payload."""
    if job.payload not in refused:
        refused.add(job.payload)
        raise Fail("not the first time")
    return "now"


@tf.task(queue="steps")
async def fail(job: Job) -> None:
    raise Fail(f"will not {job.payload}")


@tf.task(queue="steps", name="close-campaign")
async def close_campaign(job: Job) -> str:
    return f"closed for {job.payload['user']}"


if __name__ == "__main__":
    tf.run(concurrency=20)
