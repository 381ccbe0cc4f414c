"""Jobs: the list with its filters, one job with all that is known of it; cancel and retry."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from taskflow._policy import OUT_OF_RANGE, RANGE, is_instant
from taskflow.v1 import jobs_pb2
from taskflow_server.gateway.console import formatting
from taskflow_server.gateway.console.page import ACTOR, PAGE_SIZE, Action, Ask, Page, bad, full, link, pager, pairs_of
from taskflow_server.gateway.errors import Failure
from taskflow_server.gateway.gateway import Gateway
from taskflow_server.rpc.values import duration

LOG_LINES = 200
MOST_MINUTES = 5_000_000  # of the filter for jobs that run long
STATES = {formatting.job_state(number): number for number in jobs_pb2.JobState.values() if number}
FINAL = (jobs_pb2.JOB_STATE_SUCCEEDED, jobs_pb2.JOB_STATE_FAILED, jobs_pb2.JOB_STATE_CANCELLED)
AGAIN = "The state of this job is {state}. Run it again under its id, with all its tries?"
RUN = "taskflow.run"  # in the metadata of a job that a run made
FILTERS = ("queue", "task", "error", "tags", "metadata", "after", "before", "worker", "longer")
MEDIA = {
    jobs_pb2.ENCODING_TEXT: ("text/plain; charset=utf-8", "txt"),
    jobs_pb2.ENCODING_BYTES: ("application/octet-stream", "bin"),
}
JSON_MEDIA = ("application/json", "json")


async def _list(ask: Ask) -> dict[str, Any]:
    """Shows the errors of the filters beside the form, which keeps the input."""
    given = {name: ask.said(name) for name in FILTERS}
    chosen = ask.query.getlist("state")
    values: dict[str, Any] = {"title": "Jobs", "given": given, "chosen": chosen, "states": STATES, "problem": ""}
    try:
        found = await ask.up.call(ask.up.jobs.ListJobs, _request(ask, given, chosen))
    except Failure as failure:
        if failure.status != 400:
            raise
        return {**values, "status": 400, "problem": failure.message, "jobs": [], "pages": {}}
    return {**values, "jobs": found.jobs, "pages": pager(ask, found.next_page_token)}


def _request(ask: Ask, given: dict[str, str], chosen: list[str]) -> jobs_pb2.ListJobsRequest:
    for state in chosen:
        if state not in STATES:
            raise bad("state", f"{state!r} is none of {', '.join(STATES)}")
    return jobs_pb2.ListJobsRequest(
        queue=given["queue"],
        task=given["task"],
        error=given["error"],
        states=[jobs_pb2.JobState.ValueType(STATES[state]) for state in chosen],
        tags=[tag for tag in (word.strip() for word in given["tags"].split(",")) if tag],
        metadata=pairs_of(given["metadata"], "metadata"),
        create_after=instant_of(given["after"], "after"),
        create_before=instant_of(given["before"], "before"),
        page_size=PAGE_SIZE,
        page_token=ask.said("token"),
        worker=given["worker"],
        running_longer_than=_span(given["longer"]),
    )


def _span(minutes: str) -> Duration | None:
    """The duration of a form's value in minutes."""
    if not minutes:
        return None
    try:
        value = float(minutes)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MOST_MINUTES:
        raise bad("longer", f"{minutes!r} is not a number of minutes between 0 and {MOST_MINUTES:,}")
    return duration(value * 60)


def instant_of(text: str, field: str) -> Timestamp | None:
    """As a browser's field for date and time writes it; UTC, unless it says otherwise."""
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise bad(field, f"{text!r} is not a date and time, as 2026-05-04T15:30, {RANGE}") from None
    instant = instant if instant.tzinfo else instant.replace(tzinfo=UTC)
    if not is_instant(instant):
        raise bad(field, f"{text!r} {OUT_OF_RANGE}")
    stamp = Timestamp()
    stamp.FromDatetime(instant.astimezone(UTC))
    return stamp


async def _show(ask: Ask) -> dict[str, Any]:
    id = ask.params["id"]
    logs = jobs_pb2.ListJobLogsRequest(job_id=id, page_size=LOG_LINES, page_token=ask.said("log"))
    job, tries, lines = await asyncio.gather(
        ask.up.call(ask.up.jobs.GetJob, jobs_pb2.GetJobRequest(id=id)),
        ask.up.call(ask.up.jobs.ListAttempts, jobs_pb2.ListAttemptsRequest(job_id=id)),
        ask.up.call(ask.up.jobs.ListJobLogs, logs),
    )
    return {
        "title": f"Job {job.id}",
        "job": job,
        "queue": full(job.namespace, job.queue),
        "final": job.state in FINAL,
        "again": AGAIN.format(state=formatting.job_state(job.state)),
        "run": job.options.metadata.get(RUN, ""),
        "attempts": tries.attempts,
        "logs": lines.logs,
        "log_pages": pager(ask, lines.next_page_token, "log", "log_back"),
    }


def raw(gateway: Gateway) -> list[Route]:
    """Payload and result as they are, to be saved."""

    async def serve(request: Request) -> Response:
        id, part = request.path_params["id"], request.path_params["part"]
        if part not in ("payload", "result"):
            raise Failure(404, "NOT_FOUND", f"there is nothing at {request.url.path}")
        job = await gateway.upstream.call(gateway.upstream.jobs.GetJob, jobs_pb2.GetJobRequest(id=id))
        encoding = job.encoding if part == "payload" else job.result_encoding
        media, ending = MEDIA.get(encoding, JSON_MEDIA)
        headers = {"Content-Disposition": f'attachment; filename="{job.id}-{part}.{ending}"'}
        return Response(job.payload if part == "payload" else job.result, media_type=media, headers=headers)

    return [Route("/jobs/{id}/raw/{part}", serve)]


async def _cancel(ask: Ask) -> str:
    request = jobs_pb2.CancelJobRequest(id=ask.params["id"], reason="by hand, in the console", actor=ACTOR)
    await ask.up.call(ask.up.jobs.CancelJob, request)
    return link("jobs", ask.params["id"])


async def _retry(ask: Ask) -> str:
    await ask.up.call(ask.up.jobs.RetryJob, jobs_pb2.RetryJobRequest(id=ask.params["id"], actor=ACTOR))
    return link("jobs", ask.params["id"])


PAGES = (Page("/jobs", "jobs.html", "jobs", _list), Page("/jobs/{id}", "job.html", "jobs", _show))
ACTIONS = (Action("/jobs/{id}/cancel", "cancelled", _cancel), Action("/jobs/{id}/retry", "retried", _retry))
