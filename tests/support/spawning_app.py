"""The app of tests/system/test_sdk_spawning.py: two processes, and ways to make the next one fail.

    python -m tests.support.spawning_app <directory> [keyword=value …]     as `tf.run` takes them

A file in the directory breaks what comes after it: `unimportable` this module in processes that start, `endless` their
import.
"""

import os
import sys
import time
from pathlib import Path

from taskflow import Job, TaskFlow

DIRECTORY = Path(sys.argv[1])
IS_CHILD = __name__ != "__main__"
PYTHON = sys.executable

if IS_CHILD and (DIRECTORY / "unimportable").exists():
    raise ImportError("unimportable for now")
while IS_CHILD and (DIRECTORY / "endless").exists():
    time.sleep(0.05)

tf = TaskFlow(os.environ["TASKFLOW_SCHEDULER_ADDRESS"])


@tf.task(queue="spawning", processes=2)
def work(job: Job) -> int:
    """In one of the two processes; ends it, or waits for a file, as the payload says."""
    if job.payload == "die":
        os._exit(9)
    while job.payload and not (DIRECTORY / job.payload).exists():
        time.sleep(0.02)
    return os.getpid()


@tf.task(queue="spawning")
def python(job: Job) -> None:
    """Sets the program that the worker spawns from now on."""
    sys.executable = job.payload or PYTHON


if __name__ == "__main__":
    sys.executable = os.environ.get("PYTHON_OF_CHILDREN", PYTHON)
    given = dict(word.split("=") for word in sys.argv[2:])
    tf.run(concurrency=2, **{key: float(value) for key, value in given.items()})  # type: ignore[arg-type]
