"""Many jobs at once: what a caller may write for each, and the messages it becomes, chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

from taskflow._jobs.batching import chunks
from taskflow._messages.options import JobOptions, NewJob, build_spec, options_of
from taskflow.errors import InvalidArgument
from taskflow.v1 import jobs_pb2

JobLike = NewJob | Mapping[str, Any] | tuple[str, Any]


def numbered_chunks(jobs: Iterable[JobLike]) -> Iterator[tuple[int, list[jobs_pb2.JobSpec]]]:
    """Chunks for one call each, with the place of their first job. InvalidArgument names the job at fault."""
    first = 0
    for specs in chunks(_spec(job, index) for index, job in enumerate(jobs)):
        yield first, specs
        first += len(specs)


def _spec(job: JobLike, index: int) -> jobs_pb2.JobSpec:
    if type(job) is NewJob:
        return build_spec(job.queue, job.payload, job.options, f"jobs[{index}].")
    where = f"jobs[{index}]"
    if isinstance(job, tuple) and len(job) == 2:
        return build_spec(job[0], job[1], None, f"{where}.")
    if isinstance(job, Mapping) and ("queue" in job or "task" in job):
        fields = dict(job)
        queue, payload, options = fields.pop("queue", None), fields.pop("payload", None), fields.pop("options", None)
        return build_spec(queue, payload, _options_at(where, fields, cast("JobOptions | None", options)), f"{where}.")
    raise InvalidArgument(
        f"{where}: {type(job).__name__} is not a job; give NewJob(queue, payload, …), (queue, payload) or"
        " {'queue': …, 'payload': …}",
        field=where,
    )


def _options_at(where: str, fields: dict[str, Any], base: JobOptions | None) -> JobOptions | None:
    try:
        return options_of(fields, base)
    except InvalidArgument as error:
        raise InvalidArgument(f"{where}.{error.message}", field=f"{where}.{error.field}") from None
