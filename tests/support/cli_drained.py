"""Two tasks of two queues, of which a worker serves one."""

import time
from pathlib import Path

from taskflow import TaskFlow

app = TaskFlow("localhost:1")  # --address and TASKFLOW_ADDRESS go before it


@app.task(queue="drained")
def nap(seconds: float, started: str) -> None:
    Path(started).touch()
    time.sleep(seconds)


@app.task(queue="undrained")
def other_nap() -> None:
    """Nobody runs it."""
