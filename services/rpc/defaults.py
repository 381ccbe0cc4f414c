"""The options that a task says of its jobs: they hold where a job that is submitted by the task's name sets none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from taskflow.v1 import jobs_pb2 as pb
from taskflow.v1.worker_pb2 import TaskDefaults
from taskflow_server.core.errors import InvalidArgument
from taskflow_server.core.names import qualify
from taskflow_server.rpc.values import options_from_json, options_to_json

DEFAULT_QUEUE: Final = "default"
OPTIONS: Final = ("timeout", "heartbeat_timeout", "backoff", "sla")


@dataclass(frozen=True, slots=True)
class Defaults:
    """None: the task says nothing of it."""

    queue: str | None = None
    retries: int | None = None
    priority: int | None = None
    options: pb.JobOptions | None = None

    def fill(self, spec: pb.JobSpec) -> frozenset[str]:
        """Adds what `spec` does not say. The fields of its row that were added."""
        added = set()
        if not spec.queue:
            spec.queue = self.queue or DEFAULT_QUEUE
            added.add("queue")
        for name in ("retries", "priority"):
            if not spec.HasField(name):
                added.add(name)
                if (own := getattr(self, name)) is not None:
                    setattr(spec, name, own)
        if self.options is not None:
            for name in OPTIONS:
                if self.options.HasField(name) and not spec.options.HasField(name):  # type: ignore[arg-type]
                    getattr(spec.options, name).CopyFrom(getattr(self.options, name))
        return frozenset(added)


NOTHING: Final = Defaults()


def defaults_of(row: Mapping[str, Any]) -> Defaults:
    """From the columns `own_…` of a row that was joined with `taskflow.handlers`."""
    return Defaults(
        row["own_queue"], row["own_retries"], row["own_priority"], options_from_json(row["own_options"])
    )


def to_columns(said: TaskDefaults, field: str) -> dict[str, Any]:
    """A row of `taskflow.handlers`, checked. InvalidArgument names the field at fault."""
    name = qualify(said.task, field=f"{field}.task")
    if said.HasField("priority") and not 0 <= said.priority <= 9:
        raise InvalidArgument(f"{field}.priority: {said.priority} is not between 0 and 9", f"{field}.priority")
    if said.retries < 0:
        raise InvalidArgument(f"{field}.retries: {said.retries} is negative", f"{field}.retries")
    kept = pb.JobOptions()
    for option in OPTIONS:
        if said.options.HasField(option):
            getattr(kept, option).CopyFrom(getattr(said.options, option))
    text = options_to_json(kept.SerializeToString(deterministic=True), f"{field}.options")
    return {
        "name": name,
        "queue": qualify(said.queue, field=f"{field}.queue") if said.queue else None,
        "retries": said.retries if said.HasField("retries") else None,
        "priority": said.priority if said.HasField("priority") else None,
        "options": text.decode() if text else None,
    }
