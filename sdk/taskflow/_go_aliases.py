"""The words of TaskFlow's Go SDK, for those who come from it: thin aliases of `TaskFlow`.

>>> server = NewServer("localhost:9003", "localhost:9002")
>>> job_id = server.NewJob(CreateJobRequest(queue_name="EmailQueue", payload='{"to": "ada@example.org"}', retries=5))
>>> server.Run(RunConfigurations(queue_name="EmailQueue", handler=deliver))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from taskflow._client.client import TaskFlow
from taskflow._worker.options import DEFAULT_CONCURRENCY, DEFAULT_GRACE


@dataclass(frozen=True, slots=True)
class CreateJobRequest:
    """Arguments of `Server.NewJob`: the first arguments of `TaskFlow.new_job`, which has many more."""

    queue_name: str
    payload: Any = None
    """A JSON value, text or bytes; it arrives as the same type."""
    retries: int = 0
    """Further tries after the first."""


@dataclass(frozen=True, slots=True)
class RunConfigurations:
    """Arguments of `Server.Run`: arguments of `TaskFlow.run`."""

    queue_name: str
    handler: Callable[..., Any]
    """Called with the `Job`, or with the payload's fields; what it raises makes the attempt fail."""
    concurrency: int = DEFAULT_CONCURRENCY
    """How many jobs at once."""
    processes: int | None = None
    """Runs the handler in so many processes of its own, for CPU-bound work."""
    grace: float = DEFAULT_GRACE
    """Seconds that running handlers get once it is told to stop."""


@dataclass(frozen=True, slots=True)
class Server:
    """The result of `NewServer`. `taskflow` is the client behind it, with all that the aliases leave out."""

    taskflow: TaskFlow

    def NewJob(self, request: CreateJobRequest) -> str:
        """Makes a job, and returns its id once it is on disk. Errors: those of `TaskFlow.new_job`."""
        return self.taskflow.new_job(request.queue_name, request.payload, retries=request.retries).id

    def Run(self, config: RunConfigurations) -> None:
        """Runs the queue's jobs until SIGTERM, SIGINT or `taskflow.stop()`; then drains and returns."""
        self.taskflow.run(
            config.queue_name,
            config.handler,
            concurrency=config.concurrency,
            processes=config.processes,
            grace=config.grace,
        )


def NewServer(jobs_address: str, queue_address: str | None = None) -> Server:
    """A client of the scheduler at `jobs_address`, for workers pinned to the queue service at `queue_address`.

    Both are host:port. Nothing is connected before the first use.
    """
    return Server(TaskFlow(jobs_address, queue_address))
