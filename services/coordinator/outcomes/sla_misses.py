"""Missed slas of jobs and runs: logs and counts each once it is recorded.

The records are rows of `job_sla_misses` and `run_sla_misses`, appended in the transaction that finds the miss. A
process that dies between that commit and `recorded` counts and logs nothing: code that must miss none reads the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple
from uuid import UUID

from taskflow_server.runtime import logs, metrics

log = logs.get("slas")


class Miss(NamedTuple):
    """A job or a run that had not started when its sla ended."""

    kind: Literal["job", "run"]
    id: UUID
    name: str  # the job's task, empty for one without; or the run's workflow
    queue: str = ""  # of a job


def recorded(misses: Sequence[Miss]) -> None:
    """Counts and logs misses that have just been committed; called once for each."""
    for miss in misses:
        if miss.kind == "job":
            # No queue as a label: a series that starts with its first miss would show no increase.
            metrics.jobs_sla_missed.inc()
            log.warning("a job has not started within its sla", job=str(miss.id), queue=miss.queue, task=miss.name)
        else:
            metrics.runs_sla_missed.inc()
            log.warning("a run has not begun within its sla", run=str(miss.id), workflow=miss.name)
