"""A job as a scheduler admits it: by its name in the namespace, within limits, with the defaults of its task."""

from __future__ import annotations

from taskflow import errors
from taskflow.v1 import jobs_pb2, worker_pb2

_MAX_RETRIES = 1_000


def qualified(name: str) -> str:
    """As names are stored: bare in the namespace `default`."""
    return name.removeprefix("default/")


def check(spec: jobs_pb2.JobSpec, field: str) -> None:
    """Limits that a scheduler applies by its default settings, and the SDK does not check."""
    if spec.retries > _MAX_RETRIES:
        raise errors.InvalidArgument(
            f"{field}.retries: {spec.retries} is not between 0 and {_MAX_RETRIES}", field=f"{field}.retries"
        )


def fill(spec: jobs_pb2.JobSpec, said: worker_pb2.TaskDefaults | None) -> None:
    """Adds what a job leaves to its task, as a scheduler does."""
    if said is not None:
        spec.queue = spec.queue or said.queue
        for name in ("retries", "priority"):
            if said.HasField(name) and not spec.HasField(name):
                setattr(spec, name, getattr(said, name))
        for name in ("timeout", "heartbeat_timeout", "backoff", "sla"):
            if said.options.HasField(name) and not spec.options.HasField(name):  # type: ignore[arg-type]
                getattr(spec.options, name).CopyFrom(getattr(said.options, name))
    spec.queue = spec.queue or "default"
