"""An app for the tests of the command line: `taskflow worker tests.support.cli_app:app`."""

import time

from taskflow import Cancelled, Fail, Job, TaskFlow

app = TaskFlow()


@app.task(queue="sums")
def add(a: int, b: int) -> int:
    return a + b


@app.task(queue="sums")
def echo(job: Job) -> object:
    return job.payload


@app.task(queue="trouble", retries=1)
def boom(text: str) -> None:
    raise Fail(text)


@app.task(queue="long")
def wait_for_it(job: Job, seconds: float) -> str:
    """Ends early when it is cancelled."""
    job.log(f"waiting for {seconds} s")
    job.log("be patient", level="warning")
    end = time.monotonic() + seconds
    while time.monotonic() < end and not job.cancelled:
        time.sleep(0.02)
    if job.cancelled:
        raise Cancelled
    return "waited"
