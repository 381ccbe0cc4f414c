"""Hands in one job and waits for its result. Needs a worker: 02_worker.py."""

import os

from taskflow import TaskFlow

tf = TaskFlow(os.environ.get("TASKFLOW_ADDRESS", "localhost:9003"))  # the scheduler; the rest is discovered

job = tf.new_job("EmailQueue", {"to": "ada@example.org"}, retries=5)
print(job.id, job.wait(timeout=10).result)
