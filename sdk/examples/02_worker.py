"""Runs the jobs of one queue, until SIGTERM or Ctrl-C; then drains."""

import os

from taskflow import Job, TaskFlow

tf = TaskFlow(os.environ.get("TASKFLOW_ADDRESS", "localhost:9003"))


def deliver(job: Job) -> dict[str, str]:
    job.progress(1, total=2, unit="mails")  # also the heartbeat
    return {"delivered": job.payload["to"]}


tf.run("EmailQueue", handler=deliver)
