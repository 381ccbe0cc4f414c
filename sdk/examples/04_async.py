"""The same verbs as coroutines: a thousand jobs submitted at once, and run in the same process."""

import asyncio
import os

from taskflow import AsyncTaskFlow

tf = AsyncTaskFlow(os.environ.get("TASKFLOW_ADDRESS", "localhost:9003"))


@tf.task(queue="sums")
async def add(a: int, b: int) -> int:
    await asyncio.sleep(0.01)
    return a + b


async def main() -> None:
    working = asyncio.create_task(tf.run(concurrency=100))
    jobs = await asyncio.gather(*(add.new_job(a=n, b=n) for n in range(1_000)))  # these calls travel together
    results = await asyncio.gather(*(job.wait(timeout=60) for job in jobs))
    print(sum(job.result for job in results))
    tf.stop()
    await working
    await tf.close()


asyncio.run(main())
