"""A task that was never created: a job over /rpc, a poll or a decision is the first to name it.

The one place that says so, for the scheduler and for the coordinator: its retries do not depend on who came first.
"""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from taskflow.v1 import jobs_pb2, tasks_pb2
from taskflow_server.rpc.defaults import NOTHING, Defaults

RETRIES = 2
DELAY = 10  # seconds before each further try


def first_seen(name: str, own: Defaults = NOTHING) -> tasks_pb2.Task:
    """`own` is what workers that have its handler say: where they say something, the task says nothing."""
    task = tasks_pb2.Task(name=name)
    if own.retries is None:
        task.retries = RETRIES
    if own.options is None or not own.options.HasField("backoff"):
        delay = Duration(seconds=DELAY)
        task.options.backoff.CopyFrom(jobs_pb2.Backoff(first=delay, limit=delay, factor=1, jitter=0))
    return task
