"""CPU-bound work in processes of its own; a call that never ends is killed at its timeout, and stops nobody else."""

import os
import sys

from taskflow import JobFailed, TaskFlow

tf = TaskFlow(os.environ.get("TASKFLOW_ADDRESS", "localhost:9003"))


@tf.task(queue="numbers", processes=2)
def squares(below: int) -> int:
    return sum(n * n for n in range(below))


@tf.task(queue="numbers", processes=1, timeout=1)
def endless() -> int:
    return sum(range(10**15))  # one call into C: no thread could be interrupted here


def use() -> None:
    never = endless.new_job()
    print([job.wait(timeout=30).result for job in squares.new_jobs([{"below": n} for n in (10, 1_000_000)])])
    try:
        never.wait(timeout=30)
    except JobFailed as error:
        print(error.job.error)


if __name__ == "__main__":
    tf.run() if "worker" in sys.argv else use()
